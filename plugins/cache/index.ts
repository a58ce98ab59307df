import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { keyPrefixOf, resolveClient } from '../shared/redis/client.js'
import type { RedisPort } from '../shared/redis/port.js'
import { alreadyRegisteredError } from '../shared/plugin/errors.js'
import { guardRedis, type RedisGuard } from '../shared/redis/guard.js'
import { SafeEmitter } from '../shared/plugin/safe-emitter.js'
import { InvalidationBus } from './tiers/invalidation-bus.js'
import { TwoTierCache } from './tiers/two-tier-cache.js'
import { createDataCache, type DataCache } from './data/data-cache.js'
import { CACHE_EVENTS, type CacheEvents } from './events.js'
import { GetOrSet } from './data/get-or-set.js'
import { CacheScope } from './data/scope.js'
import { L1, type L1Limits } from './tiers/l1.js'
import { MemoryCacheStore } from './store/memory-store.js'
import { l1For, resolveCacheOptions, type CachePluginOptions, type ResolvedCacheOptions } from './options.js'
import type { RouteCacheOptions } from './http/route-options.js'
import { invalidationChannel, RedisCacheStore } from './store/redis-store.js'
import { addResponseCache } from './http/response-cache.js'
import type { Tag } from './store/tags.js'
import { ValueCodec } from './data/value-codec.js'
import { FillCoordinator } from './tiers/coalescing.js'
import { createWriteBehinds } from './data/write-behind/write-behind.js'
import { WriteThrough } from './data/write-through.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * The data cache, and the invalidation of cached responses.
     *
     * @example
     * const options = { ttl: '5m', tags: [`product:${id}`] }
     * const product = await app.cache.getOrSet(`product:${id}`, () => loadProduct(id), options)
     */
    cache: DataCache
  }
  interface FastifyReply {
    /**
     * Adds tags to this response, beside those of the route. A hook before the lookup may call it as well.
     *
     * @example reply.cacheTags(`product:${product.id}`, 'products')
     * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` for an invalid tag
     */
    cacheTags (...tags: Tag[]): FastifyReply
    /**
     * Excludes this response from the cache. Requests that wait for it proceed. After a call in a hook before the
     * lookup the handler runs, and the stored response stays.
     */
    noCache (): FastifyReply
  }
  interface FastifyContextConfig {
    /** Whether and how responses of this route are cached, and what they invalidate. */
    cache?: RouteCacheOptions | boolean
  }
}

export type { BackoffOptions } from '../shared/plugin/backoff.js'
export type { Duration } from '../shared/plugin/duration.js'
export type { DeadLetterPage, DeadLetters } from '../shared/work-queue/dead-letter-admin.js'
export type { CacheStats } from './tiers/two-tier-cache.js'
export type { CacheCounts } from './stats.js'
export type { DataCache, KeyedValue, WrapOptions } from './data/data-cache.js'
export type { CacheEvents, CacheListener, Invalidation } from './events.js'
export type { Factory, FactoryContext } from './data/run-factory.js'
export type { Cached, Jsonify } from './data/jsonify.js'
export type { Serializer, SerializerOption } from './data/serializer.js'
export type { StoreStats } from './store/store.js'
export type { Tag } from './store/tags.js'
export type { GetOrSetOptions, ValueDefaults, ValueOptions, WriteThroughOptions } from './data/value-options.js'
export type { Write, WriteBehindOptions, WriteContext } from './data/write-behind/options.js'
export type { WriteBehind, WriteBehindStats, WriteDeadLetter as DeadLetter } from './data/write-behind/write-behind.js'
export type { Writer } from './data/write-through.js'
export type { OwnerId } from './http/request-key.js'
export type { CachePluginOptions, L1Options } from './options.js'
export type { KeyOptions, RouteCacheOptions, RouteRequest, TagsOption, Ttl } from './http/route-options.js'

/**
 * An HTTP cache (RFC 9111) for the responses of routes (`config.cache`), and a data cache (`fastify.cache`), on one
 * store.
 *
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` at registration of the plugin or of a route
 * @throws `FST_REDIS_SUITE_CACHE_ALREADY_REGISTERED` at registration of the plugin
 *
 * @example
 * await app.register(cache, { ttl: '1m' })
 * app.get('/products', { config: { cache: { tags: ['products'] } } }, listProducts)
 * await app.cache.invalidateTags(['products'])
 */
export const cache = fp<CachePluginOptions>(async function cache (fastify, given) {
  const options = resolveCacheOptions(given)
  if (fastify.hasDecorator('cache')) throw alreadyRegisteredError('cache', 'fastify.cache')
  const client = resolveClient(fastify, 'cache', given.redis)
  const guard = client && guardRedis(client, fastify.log, options.timeout, 'cache', options.clock)
  const core = createTwoTierCache(fastify, client, guard, options)
  const fills = new FillCoordinator(core)
  const responses = addResponseCache(fastify, core, fills, options)
  const codec = new ValueCodec(core, options.serializer, options.freeze)
  const reader = new GetOrSet(core, fills, codec)
  const writeBehinds = createWriteBehinds({
    client,
    prefix: keyPrefixOf(client),
    run: guard?.run ?? (operation => operation()),
    log: fastify.log,
    serializer: options.serializer,
    clock: options.clock
  })

  const scope = new CacheScope({
    prefixes: [],
    counts: core.counters.of('data'),
    defaults: options.values,
    tiers: options.tiers
  })
  fastify.decorate(
    'cache',
    createDataCache({ cache: core, codec, reader, writer: new WriteThrough(core, codec), writeBehinds }, scope)
  )
  fastify.addHook('onRoute', function (route) { responses.addRoute(this, route) })
  fastify.addHook('onClose', async () => {
    await Promise.all([responses.settle(), reader.settle(), writeBehinds.close()])
    await core.close()
    await fills.close()
  })
}, { name: 'fastify-redis-suite/cache', fastify: '5.x || 6.x' })

export default cache

function createTwoTierCache (
  fastify: FastifyInstance, client: RedisPort | undefined, guard: RedisGuard | undefined,
  options: ResolvedCacheOptions
): TwoTierCache {
  const { log } = fastify
  const { clock } = options
  const events = new SafeEmitter<CacheEvents>('cache', log, CACHE_EVENTS)
  if (client === undefined) {
    return new TwoTierCache({ store: new MemoryCacheStore(options.maxSize, clock), events, log, clock })
  }
  const prefix = keyPrefixOf(client)
  const limits = l1For(options.l1, client)
  const instanceId = randomUUID()
  // Over HTTP, instances on TCP may have an L1.
  const publishes = limits !== false || client.isHttp
  const store = new RedisCacheStore(client, prefix, publishes ? instanceId : undefined, clock, guard?.run)
  const l1 = limits === false ? undefined : createL1(fastify, client, instanceId, limits, events, options)
  return new TwoTierCache({ store, share: store.share, guard, l1, events, log, clock })
}

function createL1 (
  fastify: FastifyInstance, client: RedisPort, instanceId: string, limits: L1Limits, events: SafeEmitter<CacheEvents>,
  { onStoreError, clock }: ResolvedCacheOptions
): { entries: L1, isCurrentAt: (now: number) => boolean, servesIncoherent: boolean } {
  const servesIncoherent = onStoreError === 'local'
  const entries = new L1(limits, clock)
  if (limits.maxAge !== undefined) return { entries, isCurrentAt: () => true, servesIncoherent }
  const bus = new InvalidationBus({
    client,
    channel: invalidationChannel(client, keyPrefixOf(client)),
    instanceId,
    l1: entries,
    events,
    log: fastify.log,
    keepsOffline: servesIncoherent,
    clock
  })
  fastify.addHook('onClose', async () => bus.close())
  return { entries, isCurrentAt: now => bus.isCurrentAt(now), servesIncoherent }
}
