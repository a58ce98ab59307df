import type { FastifyInstance, RouteOptions } from 'fastify'
import { keyPrefixOf, resolveClient, type RedisClient } from '../shared/client.js'
import { guardRedis } from '../shared/guard.js'
import { adaptCustomStore, storeOptions } from './custom-store-adapter.js'
import type { CustomStore } from './custom-store.js'
import type { RateLimitEvents } from './events.js'
import { createCustomLimiter, createLocalLimiter, createSharedLimiter, type Limiter } from './limiter.js'
import { createMemoryStore } from './memory-store.js'
import type { RateLimitPluginOptions, RouteRateLimitOptions } from './options.js'
import { createRedisStore, resetChannel } from './redis-store.js'
import { RememberedRefusals } from './remembered-refusals.js'
import { followResets } from './reset-feed.js'
import type { ResolvedRateLimitOptions, ResolvedRouteOptions } from './resolve-options.js'
import type { FailureOptions } from './store-failure.js'

/** Gives each route the limiter that its options ask for, all on one store. */
export interface Limiters {
  /** @param given - of the route, as written */
  for (options: ResolvedRouteOptions, given?: RouteRateLimitOptions, route?: RouteOptions): Limiter
}

export function createLimiters (
  fastify: FastifyInstance, given: RateLimitPluginOptions, options: ResolvedRateLimitOptions, events: RateLimitEvents
): Limiters {
  const { store: Store } = given
  if (Store !== undefined) return customLimiters(new Store(storeOptions(given)), given, options, events)
  const client = resolveClient(fastify, 'rate-limit', given.redis)
  return client === undefined ? localLimiters(options) : sharedLimiters(fastify, client, options, events)
}

function localLimiters ({ cache }: ResolvedRateLimitOptions): Limiters {
  const common = createLocalLimiter(createMemoryStore(cache))
  return {
    for: (_options, given) => given?.cache === undefined ? common : createLocalLimiter(createMemoryStore(given.cache))
  }
}

function sharedLimiters (fastify: FastifyInstance, client: RedisClient, options: ResolvedRateLimitOptions, events: RateLimitEvents): Limiters {
  const prefix = keyPrefixOf(client) + (options.nameSpace && `:${options.nameSpace}`)
  const remembered = new RememberedRefusals()
  const feed = followResets(client, resetChannel(prefix), fastify.log, key => remembered.forget(key), () => remembered.clear())
  fastify.addHook('onClose', async () => feed.close())

  const common = {
    store: createRedisStore(client, prefix, guardRedis(client, fastify.log, options.timeout)),
    remembered,
    hearsResets: () => feed.live,
    ...onFailure(options, events)
  }
  return { for: ({ onStoreError }) => createSharedLimiter({ ...common, onStoreError }) }
}

function customLimiters (custom: CustomStore, plugin: RateLimitPluginOptions, options: ResolvedRateLimitOptions, events: RateLimitEvents): Limiters {
  const common = { timeout: options.timeout, ...onFailure(options, events) }
  return {
    for ({ onStoreError, groupId }, given, route) {
      const store = given === undefined ? custom : custom.child(storeOptions({ ...plugin, ...given }, route))
      return createCustomLimiter({ ...common, onStoreError, groupId, store: adaptCustomStore(store) })
    }
  }
}

function onFailure ({ cache, instances }: ResolvedRateLimitOptions, events: RateLimitEvents): Omit<FailureOptions, 'onStoreError'> {
  return {
    local: createLocalLimiter(createMemoryStore(cache)),
    instances,
    onError: error => { events.emit('storeError', error) }
  }
}
