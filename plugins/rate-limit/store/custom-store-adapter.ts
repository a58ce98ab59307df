import type { RouteOptions } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { parseDuration } from '../../shared/plugin/duration.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { TimeoutError } from '../../shared/redis/guard.js'
import { UnsupportedByStoreError } from '../errors.js'
import type { CustomStore, CustomStoreCallback } from '../options/custom-store.js'
import { DEFAULT_MAX, DEFAULT_TIME_WINDOW } from '../options/policy.js'
import type { RouteRateLimitOptions } from '../options/types.js'
import type { Limit } from '../policy.js'
import type { SharedRateLimitStore } from './store.js'

/** Returns the options that a custom store is created with: the window is in milliseconds, and the route is added. */
export function storeOptions (given: RouteRateLimitOptions, route?: RouteOptions): object {
  const { max = DEFAULT_MAX, timeWindow = DEFAULT_TIME_WINDOW } = given
  const window = typeof timeWindow === 'function' ? timeWindow : parseDuration(timeWindow)
  return { ...given, max, timeWindow: window, ...(route && { routeInfo: route }) }
}

/** Precedes, in the ids of a custom store's limiter, the key that the store gets. */
export const RAW_KEY = '\0'

/**
 * Adapts a custom store: it has one limit for each key, and supports no costs, refunds and resets.
 *
 * @param timeout - how long the store may take to reply
 */
export function adaptCustomStore (custom: CustomStore, timeout: Milliseconds, clock: Clock): SharedRateLimitStore {
  return {
    async apply (id, { limits, ban }, cost, mode) {
      const [limit] = limits
      if (limit === undefined || limits.length > 1) throw new UnsupportedByStoreError('count for several limits')
      if (cost !== 1 || mode === 'charge') throw new UnsupportedByStoreError('take a cost')
      const counted = count(custom, id.slice(id.indexOf(RAW_KEY) + 1), limit, mode === 'peek')
      const { current, ttl } = await withDeadline(counted, timeout, () => new TimeoutError(timeout), clock)
      const refused = mode === 'peek' ? current >= limit.max : current > limit.max
      return {
        states: [{ used: current, resetAfter: ttl, retryAfter: refused ? Math.max(ttl, 1) : 0 }],
        blockedFor: 0,
        banned: ban >= 0 && current - limit.max > ban,
        time: clock.now()
      }
    },
    async refund () { throw new UnsupportedByStoreError('refund a cost') },
    async settle () { throw new UnsupportedByStoreError('settle a cost') },
    async reset () { throw new UnsupportedByStoreError('reset a key') }
  }
}

type Counted = NonNullable<Parameters<CustomStoreCallback>[1]>

function count (custom: CustomStore, key: string, { max, window }: Limit, peek: boolean): Promise<Counted> {
  return new Promise((resolve, reject) => {
    const done: CustomStoreCallback = (error, result) => {
      if (error || !result) reject(error ?? new Error('the store returned no result'))
      else resolve(result)
    }
    // An async method may reject without calling back.
    if (!peek) Promise.resolve(custom.incr(key, done, window, max)).catch(reject)
    else if (custom.read) Promise.resolve(custom.read(key, done, window, max)).catch(reject)
    else reject(new UnsupportedByStoreError('be read: it has no method read(), which `{ increment: false }` needs'))
  })
}
