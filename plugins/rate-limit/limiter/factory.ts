import type { FastifyInstance, RouteOptions } from 'fastify'
import { keyPrefixOf, resolveClient, type RedisClient } from '../../shared/redis/client.js'
import { subscribeToChannel } from '../../shared/redis/channel-subscription.js'
import { guardRedis } from '../../shared/redis/guard.js'
import { adaptCustomStore, RAW_KEY, storeOptions } from '../store/custom-store-adapter.js'
import type { CustomStore } from '../options/custom-store.js'
import type { Events } from '../events.js'
import { createCustomLimiter, createLocalLimiter, createSharedLimiter, type Limiter } from './limiter.js'
import { createMemoryStore } from '../store/memory-store.js'
import type { RateLimitPluginOptions, RouteRateLimitOptions } from '../options/types.js'
import { createRedisStore, resetChannel } from '../store/redis-store.js'
import { RefusalCache } from './refusal-cache.js'
import type { ResolvedRateLimitOptions, ResolvedRouteOptions } from '../options/route.js'
import type { FailureOptions } from './fallback.js'

/** Gives each route the limiter that its options ask for, all on one store. */
export interface LimiterFactory {
  /** @param given - of the route, as written */
  limiterFor (options: ResolvedRouteOptions, given?: RouteRateLimitOptions, route?: RouteOptions): Limiter
  /** For named policies, where that is another one than the plugin's own: they are the same in all registrations. */
  policies?: Limiter
}

export function createLimiterFactory (
  fastify: FastifyInstance, given: RateLimitPluginOptions, options: ResolvedRateLimitOptions, events: Events
): LimiterFactory {
  const { store: Store } = given
  if (Store !== undefined) return customLimiters(new Store(storeOptions(given)), given, options, events)
  const client = resolveClient(fastify, 'rate-limit', given.redis)
  return client === undefined ? localLimiters(fastify, options) : sharedLimiters(fastify, client, options, events)
}

const policyLimiters = new WeakMap<object, Limiter>()

function localLimiters ({ server }: FastifyInstance, { cache, clock }: ResolvedRateLimitOptions): LimiterFactory {
  const common = createLocalLimiter(createMemoryStore(cache, clock))
  const policies = policyLimiters.get(server) ?? createLocalLimiter(createMemoryStore(cache, clock))
  policyLimiters.set(server, policies)
  return { limiterFor: () => common, policies }
}

function sharedLimiters (fastify: FastifyInstance, client: RedisClient, options: ResolvedRateLimitOptions, events: Events): LimiterFactory {
  const { clock, timeout } = options
  const prefix = keyPrefixOf(client) + (options.nameSpace && `:${options.nameSpace}`)
  const remembered = new RefusalCache(clock)
  const feed = subscribeToChannel({
    client,
    plugin: 'rate-limit',
    channel: resetChannel(client, prefix),
    log: fastify.log,
    without: 'rate-limit: cannot hear of resets, so every refusal asks Redis',
    onMessage: key => remembered.forget(key),
    onGap: () => remembered.clear(),
    clock
  })
  fastify.addHook('onClose', async () => feed.close())

  const common = {
    store: createRedisStore(client, prefix, guardRedis(client, fastify.log, timeout, 'rate-limit', clock), clock),
    remembered,
    hearsResets: () => feed.live,
    ...onFailure(options, events)
  }
  return { limiterFor: ({ onStoreError }) => createSharedLimiter({ ...common, onStoreError }) }
}

function customLimiters (custom: CustomStore, plugin: RateLimitPluginOptions, options: ResolvedRateLimitOptions, events: Events): LimiterFactory {
  const { timeout, clock } = options
  const common = { timeout, clock, ...onFailure(options, events) }
  return {
    limiterFor ({ onStoreError, groupId = '' }, given, route) {
      const store = given === undefined ? custom : custom.child(storeOptions({ ...plugin, ...given }, route))
      // It knows keys as `@fastify/rate-limit` tells them: without a scope, as it has a child for each.
      const limiter = createCustomLimiter({ ...common, onStoreError, store: adaptCustomStore(store, clock) })
      return { ...limiter, idWithin: scope => key => `${scope}${RAW_KEY}${key}${groupId}` }
    }
  }
}

function onFailure ({ cache, instances, clock }: ResolvedRateLimitOptions, events: Events): Omit<FailureOptions, 'onStoreError'> {
  return {
    local: createLocalLimiter(createMemoryStore(cache, clock)),
    instances,
    onError: error => { events.emit('error', { error }) }
  }
}
