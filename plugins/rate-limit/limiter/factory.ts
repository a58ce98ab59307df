import type { FastifyInstance, RouteOptions } from 'fastify'
import { RetryQueue } from '../../shared/plugin/retry-queue.js'
import { subscribeToChannel } from '../../shared/redis/channel-subscription.js'
import { keyPrefixOf, resolveClient } from '../../shared/redis/client.js'
import type { RedisPort } from '../../shared/redis/port.js'
import { DEFAULT_TIMEOUT_MS, guardRedis } from '../../shared/redis/guard.js'
import { decide } from '../decision.js'
import type { RateLimitEmitter } from '../events.js'
import type { CustomStore } from '../options/custom-store.js'
import type { ResolvedRateLimitOptions, ResolvedRouteOptions } from '../options/route.js'
import type { RateLimitPluginOptions, RouteRateLimitOptions } from '../options/types.js'
import { adaptCustomStore, RAW_KEY, storeOptions } from '../store/custom-store-adapter.js'
import { createMemoryStore } from '../store/memory-store.js'
import { createRedisStore, resetChannel } from '../store/redis-store.js'
import { createFallback, type FallbackOptions } from './fallback.js'
import { createLocalLimiter, type Limiter } from './limiter.js'
import { RefusalCache } from './refusal-cache.js'
import { createSharedLimiter, type PendingSettlement } from './shared-limiter.js'

/** The pause between two attempts to send a correction. */
const RETRY_DELAY_MS = 50

/** Creates the limiter for each set of options, all on one store. */
interface LimiterFactory {
  /** @param given - the route's own options, as written */
  limiterFor (options: ResolvedRouteOptions, given?: RouteRateLimitOptions, route?: RouteOptions): Limiter
  /** Decides by named policies, whose counts all registrations share; undefined where the plugin's own limiter does. */
  policyLimiter: Limiter | undefined
}

export function createLimiterFactory (
  fastify: FastifyInstance, given: RateLimitPluginOptions, options: ResolvedRateLimitOptions, events: RateLimitEmitter
): LimiterFactory {
  const { store: Store } = given
  if (Store !== undefined) return customLimiters(new Store(storeOptions(given)), given, options, events)
  const client = resolveClient(fastify, 'rate-limit', given.redis)
  return client === undefined ? localLimiters(fastify, options) : sharedLimiters(fastify, client, options, events)
}

const policyLimiters = new WeakMap<object, Limiter>()

function localLimiters ({ server }: FastifyInstance, options: ResolvedRateLimitOptions): LimiterFactory {
  const limiter = localLimiter(options)
  const policyLimiter = policyLimiters.get(server) ?? localLimiter(options)
  policyLimiters.set(server, policyLimiter)
  return { limiterFor: () => limiter, policyLimiter }
}

function sharedLimiters (
  fastify: FastifyInstance, client: RedisPort, options: ResolvedRateLimitOptions, events: RateLimitEmitter
): LimiterFactory {
  const { clock, timeout } = options
  const prefix = keyPrefixOf(client) + (options.nameSpace && `:${options.nameSpace}`)
  const refusals = new RefusalCache(clock)
  const resets = subscribeToChannel({
    client,
    plugin: 'rate-limit',
    channel: resetChannel(client, prefix),
    log: fastify.log,
    without: 'rate-limit: resets of other instances are not received, so that no refusal is cached',
    onMessage: id => refusals.delete(id),
    onGap: () => refusals.clear(),
    clock
  })
  const retries = new RetryQueue<PendingSettlement>({ clock, retryDelay: RETRY_DELAY_MS, write: ({ send }) => send() })
  fastify.addHook('onClose', async () => {
    await retries.close()
    await resets.close()
  })

  const common = {
    store: createRedisStore(client, prefix, guardRedis(client, fastify.log, timeout, 'rate-limit', clock), clock),
    refusals,
    receivesResets: () => resets.live,
    retries,
    clock,
    ...fallbackOptions(options, events)
  }
  return {
    limiterFor: ({ onStoreError }) => createSharedLimiter({ ...common, onStoreError }),
    policyLimiter: undefined
  }
}

function customLimiters (
  custom: CustomStore, plugin: RateLimitPluginOptions, options: ResolvedRateLimitOptions, events: RateLimitEmitter
): LimiterFactory {
  const common = fallbackOptions(options, events)
  return {
    limiterFor ({ onStoreError, groupId = '' }, given, route) {
      const own = given === undefined ? custom : custom.child(storeOptions({ ...plugin, ...given }, route))
      const store = adaptCustomStore(own, options.timeout ?? DEFAULT_TIMEOUT_MS, options.clock)
      const fallback = createFallback({ ...common, onStoreError })
      return {
        // The store gets the keys of `@fastify/rate-limit`: without a scope, as it has a child for each route.
        idWithin: scope => key => `${scope}${RAW_KEY}${key}${groupId}`,
        async apply (id, policy, cost, mode) {
          try {
            return decide(policy.limits, await store.apply(id, policy, cost, mode), 'process')
          } catch (error) {
            return await fallback.decide(error, id, policy, cost, mode)
          }
        },
        refund: (id, policy, cost, { time }) => store.refund(id, policy, cost, time),
        settle: (id, policy, units, { time }, token) => store.settle(id, policy, { units, time, token }),
        reset: id => store.reset(id)
      }
    },
    policyLimiter: undefined
  }
}

type SharedFallbackOptions = Omit<FallbackOptions, 'onStoreError'>

function fallbackOptions (options: ResolvedRateLimitOptions, events: RateLimitEmitter): SharedFallbackOptions {
  return {
    local: localLimiter(options),
    instances: options.instances,
    onError: error => { events.emit('error', { error }) }
  }
}

function localLimiter ({ cache, clock }: ResolvedRateLimitOptions): Limiter {
  return createLocalLimiter(createMemoryStore(cache, clock))
}
