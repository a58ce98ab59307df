import type { RouteOptions } from 'fastify'
import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import { parseDuration } from '../../shared/plugin/duration.js'
import type { CustomStore, CustomStoreCallback } from '../options/custom-store.js'
import { UnsupportedByStoreError } from '../errors.js'
import type { RouteRateLimitOptions } from '../options/types.js'
import type { Policy } from '../policy.js'
import { DEFAULT_MAX, DEFAULT_TIME_WINDOW } from '../options/policy.js'
import type { SharedRateLimitStore } from './store.js'

/** What a custom store is told: the options as given, but the window in milliseconds, and the route it is for. */
export function storeOptions (given: RouteRateLimitOptions, route?: RouteOptions): object {
  const { max = DEFAULT_MAX, timeWindow = DEFAULT_TIME_WINDOW } = given
  const window = typeof timeWindow === 'function' ? timeWindow : parseDuration(timeWindow)
  return { ...given, max, timeWindow: window, ...(route && { routeInfo: route }) }
}

/** In the ids of a custom store's limiter, what comes before the key as the store is to know it. */
export const RAW_KEY = '\0'

/** Such a store knows one limit, and neither costs, refunds nor resets. */
export function adaptCustomStore (custom: CustomStore, clock: Clock = systemClock): SharedRateLimitStore {
  return {
    async apply (key, policy, cost, mode) {
      const [limit] = policy.limits
      if (limit === undefined || policy.limits.length > 1) throw new UnsupportedByStoreError('keep several limits at once')
      if (cost !== 1 || mode === 'charge') throw new UnsupportedByStoreError('take a cost')
      const { current, ttl } = await count(custom, key.slice(key.indexOf(RAW_KEY) + 1), limit, mode === 'peek')
      const refused = mode === 'peek' ? current >= limit.max : current > limit.max
      return {
        states: [{ used: current, resetAfter: ttl, retryAfter: refused ? Math.max(ttl, 1) : 0 }],
        blockedFor: 0,
        banned: isBanned(policy, current - limit.max),
        time: clock.now()
      }
    },
    async refund () { throw new UnsupportedByStoreError('give back a cost') },
    async reset () { throw new UnsupportedByStoreError('reset a key') }
  }
}

function count (custom: CustomStore, key: string, { max, window }: { max: number, window: number }, peek: boolean): Promise<{ current: number, ttl: number }> {
  return new Promise((resolve, reject) => {
    const done: CustomStoreCallback = (error, result) => error || !result ? reject(error ?? new Error('the store gave no result')) : resolve(result)
    // An async method may fail without calling back.
    if (!peek) Promise.resolve(custom.incr(key, done, window, max)).catch(reject)
    else if (custom.read) Promise.resolve(custom.read(key, done, window, max)).catch(reject)
    else reject(new UnsupportedByStoreError('be read: it has no read(), which `{ increment: false }` needs'))
  })
}

function isBanned ({ ban }: Policy, over: number): boolean {
  return ban >= 0 && over > ban
}
