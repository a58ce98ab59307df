import type { FastifyRequest } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import { type Duration, parseDuration } from '../shared/plugin/duration.js'
import { invalidOptionError } from '../shared/plugin/errors.js'
import { readOptions, type OptionReader } from '../shared/plugin/option-reader.js'
import type { RedisClient } from '../shared/redis/client.js'
import { DEFAULT_TIMEOUT_MS } from '../shared/redis/guard.js'
import { type SerializerOption, resolveSerializer, type Serializer } from './data/serializer.js'
import { type ValueDefaults, resolveDefaults, type ValuePlan } from './data/value-options.js'
import type { Explain } from './http/hooks.js'
import { type ResolvedRouteCache, DEFAULT_TTL, HEADERS, resolveRoute, type RouteCacheOptions, ROUTE_OPTIONS } from './http/route-options.js'
import { resolveTiers, resolveTtl, type Tiers } from './tiers/ttl.js'

export interface CachePluginOptions extends Omit<RouteCacheOptions, 'tags' | 'invalidates' | 'private' | 'public'> {
  /** An ioredis client; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** How long an operation on the store may take. @default 150 ms */
  timeout?: Duration | undefined
  /** Cache all routes that do not say otherwise. @default false */
  global?: boolean | undefined
  /** Durations by name, for `ttl`. */
  tiers?: Readonly<Record<string, Duration>> | undefined
  /** The first tier, in this process: bytes that it keeps; `false`: none. @default 64 MiB */
  l1?: number | false | undefined
  /** Bytes that the memory store keeps. @default 64 MiB */
  maxSize?: number | undefined
  /** Defaults of values in `fastify.cache`, above those of routes. */
  values?: ValueDefaults | undefined
  /** How values are stored. @default 'json' */
  serializer?: SerializerOption | undefined
  /**
   * Whether those who read a value out of the first tier get one and the same, deeply frozen, in place of a copy each: quicker. For JSON.
   *
   * @default false
   */
  freeze?: boolean | undefined
  /** While Redis cannot be asked: run the handler, or serve what is in this process, which may have been invalidated. @default 'open' */
  onStoreError?: 'open' | 'local' | undefined
  /** The name of this cache in `Cache-Status` (RFC 9211); `false`: the field is not sent. @default 'fastify-redis-suite' */
  cacheStatus?: string | false | undefined
  /** Whether `X-Cache` is sent. @default true */
  xCache?: boolean | undefined
  /** Who is told in `Cache-Status` why. @default nobody */
  explain?: ((request: FastifyRequest) => boolean | Promise<boolean>) | undefined
  /** The clock for ages, leases, back-off and deadlines: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

export const PLUGIN_OPTIONS = [...ROUTE_OPTIONS.filter(name => !['tags', 'invalidates', 'private', 'public'].includes(name)),
  'redis', 'timeout', 'global', 'tiers', 'l1', 'maxSize', 'onStoreError', 'cacheStatus', 'xCache', 'explain', 'values', 'serializer', 'freeze', 'clock']

export interface ResolvedCacheOptions {
  timeout: number
  global: boolean
  l1: number | false
  maxSize: number
  servesAlone: boolean
  cacheStatus: string | undefined
  xCache: boolean
  explains: Explain | undefined
  /** Of values that do not say otherwise. */
  values: ValuePlan
  tiers: Tiers
  serializer: Serializer
  freezes: boolean
  clock: Clock
  route: (given: RouteCacheOptions | boolean, where: string) => ResolvedRouteCache
}

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveCacheOptions (given: CachePluginOptions): ResolvedCacheOptions {
  const read = readOptions('cache', given)
  read.onlyKnown(PLUGIN_OPTIONS)
  const tiers = resolveTiers(given.tiers, read)
  const common = Object.fromEntries(Object.entries(given).filter(([name]) => ROUTE_OPTIONS.includes(name)))
  const plugin = resolveRoute(common, tiers)
  // What a route's ttl may be beside a duration says nothing of values.
  const fallbackTtl = typeof given.ttl === 'function' || given.ttl === 'headers' ? parseDuration(DEFAULT_TTL) ?? 0 : resolveTtl(given.ttl ?? DEFAULT_TTL, tiers, read, HEADERS)
  const serializer = resolveSerializer(given.serializer, read)
  const freezes = read.boolean('freeze', false)
  if (freezes && serializer.name !== 'json') read.fail('freeze', "true only with the serializer 'json'")
  if (given.explain !== undefined && typeof given.explain !== 'function') read.fail('explain', 'a function of the request')
  return {
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }),
    global: read.boolean('global', false),
    l1: given.l1 === false ? false : read.integer('l1', 64 * 1024 ** 2, { min: 1024 }),
    maxSize: read.integer('maxSize', 64 * 1024 ** 2, { min: 1024 }),
    servesAlone: read.oneOf('onStoreError', 'open', ['open', 'local']) === 'local',
    cacheStatus: given.cacheStatus === false ? undefined : resolveName(read),
    xCache: read.boolean('xCache', true),
    explains: given.explain,
    values: resolveDefaults(given.values ?? {}, {
      ttlOf: () => fallbackTtl,
      staleWhileRevalidate: plugin.staleWhileRevalidate,
      staleIfError: plugin.staleIfError,
      jitter: plugin.jitter,
      negativeTtl: 0,
      softTimeout: Infinity,
      hardTimeout: Infinity,
      refreshAhead: 0
    }, tiers),
    tiers,
    serializer,
    freezes,
    clock: read.clock(),
    route (route, where) {
      const own = typeof route === 'boolean' ? {} : route
      if (typeof own !== 'object' || own === null) throw invalidOptionError('cache', 'config.cache', route, 'true, false or an object')
      readOptions('cache', own).onlyKnown(ROUTE_OPTIONS)
      return resolveRoute({ ...common, ...Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined)) }, tiers, own, where)
    }
  }
}

/** A token or a short text, as RFC 9211 §2 has it. */
function resolveName (read: OptionReader): string {
  const name = read.string('cacheStatus', 'fastify-redis-suite')
  return /^[\x20-\x7e]{1,64}$/.test(name) ? name : read.fail('cacheStatus', '1 to 64 printable ASCII characters, or false')
}
