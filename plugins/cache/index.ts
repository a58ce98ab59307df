import type { FastifyContextConfig } from 'fastify'
import fp from 'fastify-plugin'
import { keyPrefixOf, resolveClient } from '../shared/client.js'
import { guardRedis } from '../shared/guard.js'
import { Coalescer } from './coalesce.js'
import { createCore } from './core.js'
import { createDataCache, type DataCache } from './data-cache.js'
import { createResponseCache, type RequestCache } from './hooks.js'
import { createMemoryStore } from './memory-store.js'
import { resolveCacheOptions, resolveRouteCache, type CachePluginOptions, type RouteCacheOptions } from './options.js'
import { createRedisStore } from './redis-store.js'

declare module 'fastify' {
  interface FastifyInstance {
    cache: DataCache
  }
  interface FastifyReply {
    /** Adds tags to this answer, beside those of the route. */
    cacheTags (...tags: string[]): FastifyReply
    /** Keeps this answer out of the cache. */
    noCache (): FastifyReply
  }
  interface FastifyRequest {
    /** @internal */
    cacheState: RequestCache | null
  }
  interface FastifyContextConfig {
    /** Whether and how answers of this route are cached, and what they invalidate. */
    cache?: RouteCacheOptions | boolean
  }
}

export type { CacheStats } from './core.js'
export type { DataCache, ValueOptions } from './data-cache.js'
export type { CachePluginOptions, RouteCacheOptions, TagsOption } from './options.js'

/**
 * A cache for the answers of routes (`config.cache`) and for data (`fastify.cache`), on one store.
 *
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` at registration of the plugin or of a route
 */
export const cache = fp<CachePluginOptions>(async function cache (fastify, given) {
  const options = resolveCacheOptions(given)
  const client = resolveClient(fastify, 'cache', given.redis)
  const store = client === undefined ? createMemoryStore(options.maxSize) : createRedisStore(client, keyPrefixOf(client))
  const run = client === undefined
    ? <T>(operation: () => Promise<T>) => operation()
    : guardRedis(client, fastify.log, options.timeout).run
  const core = createCore(store, run, fastify.log)
  const coalescer = new Coalescer()
  const responses = createResponseCache(core, coalescer, options)

  fastify.decorate('cache', createDataCache(core, coalescer, options))
  fastify.decorateRequest('cacheState', null)
  fastify.decorateReply('cacheTags', function (...tags) {
    this.request.cacheState?.extraTags.push(...tags)
    return this
  })
  fastify.decorateReply('noCache', function () {
    if (this.request.cacheState) this.request.cacheState.key = undefined
    return this
  })

  fastify.addHook('onRoute', route => {
    const config: FastifyContextConfig['cache'] = route.config?.cache
    if (config === undefined || config === false) return
    const resolved = resolveRouteCache(config, options, `${String(route.method)} ${route.url}`)
    // Last of the route's own, so that who may not see the answer is turned away before.
    route.preHandler = [route.preHandler ?? [], responses.lookUp(resolved)].flat()
  })
  fastify.addHook('onSend', responses.onSend)
  fastify.addHook('onResponse', async request => responses.release(request))
  fastify.addHook('onRequestAbort', async request => responses.release(request))
  fastify.addHook('onClose', async () => await core.settle())
}, { name: 'fastify-redis-suite/cache', fastify: '5.x' })

export default cache
