import type { FastifyRequest } from 'fastify'
import type { Clock } from '../shared/plugin/clock.js'
import type { Duration } from '../shared/plugin/duration.js'
import { InWords, invalidOptionError } from '../shared/plugin/errors.js'
import {
  boolean, bytes, callable, clock, duration, oneOf, option, orFalse, redisClient, redisTimeout, string, unchecked
} from '../shared/plugin/option-kinds.js'
import {
  checkNames, refuseOption, resolveOptions, type OptionTable, type Resolved
} from '../shared/plugin/option-table.js'
import type { Bytes } from '../shared/plugin/units.js'
import type { RedisClient } from '../shared/redis/client.js'
import type { RedisPort } from '../shared/redis/port.js'
import { resolveSerializer, type SerializerOption } from './data/serializer.js'
import { resolveDefaults, type ValueDefaults, type ValuePlan } from './data/value-options.js'
import {
  COMMON_OPTIONS, DEFAULT_TTL, resolveRoute, ROUTE_CACHE_OPTIONS, type ResolvedRouteCache, type RouteCacheOptions
} from './http/route-options.js'
import type { L1Limits } from './tiers/l1.js'
import { parseTiers, resolveTtl } from './tiers/ttl.js'

export interface CachePluginOptions extends Omit<RouteCacheOptions, 'tags' | 'invalidates' | 'private' | 'public'> {
  /** Whether routes without `config.cache` are cached. @default false */
  global?: boolean | undefined
  /** Durations by name, for `ttl`: with `{ catalog: '1h' }` a route may have `ttl: 'catalog'`. */
  tiers?: Readonly<Record<string, Duration>> | undefined
  /** The client of the store; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** How long an operation on the store may take. @default 150 ms; over HTTP 1000 ms */
  timeout?: Duration | undefined
  /**
   * Size of the L1 cache in this process; `false` disables it. Only with Redis. With `maxAge` an entry is served from
   * L1 for that time after it was read, and no other instance's invalidation is received. Over HTTP a size alone is
   * refused.
   *
   * @default 64 MiB; over HTTP `false`
   */
  l1?: Bytes | L1Options | false | undefined
  /** Size of the memory store. @default 64 MiB */
  maxSize?: Bytes | undefined
  /**
   * The behavior while Redis is unavailable: `'open'` runs the handler; `'local'` serves what is in L1 until
   * its `ttl` ends, although it may have been invalidated. L1 takes in nothing new meanwhile.
   *
   * @default 'open'
   */
  onStoreError?: 'open' | 'local' | undefined
  /**
   * The name of this cache in `Cache-Status` (RFC 9211); `false` turns the field off.
   *
   * @default 'fastify-redis-suite'
   */
  cacheStatus?: string | false | undefined
  /** Whether `X-Cache` is sent. @default true */
  xCache?: boolean | undefined
  /**
   * Defaults for values in `fastify.cache`. They override those of routes.
   *
   * @default those of routes
   * @see [the data cache](docs/plugins/data-cache.md)
   */
  values?: ValueDefaults | undefined
  /** How values are serialized. @default 'json' @see [serializers](docs/plugins/data-cache.md#serializers) */
  serializer?: SerializerOption | undefined
  /**
   * Whether callers that read a value from L1 share one deeply frozen value instead of a copy each, which is faster.
   * Only with the serializer `'json'`.
   *
   * @default false
   */
  freeze?: boolean | undefined
  /**
   * Returns whether `Cache-Status` of this response states why it was not stored or not served from the cache.
   *
   * @see [why a page is not cached](docs/plugins/cache.md#why-a-page-is-not-cached)
   */
  explain?: ((request: FastifyRequest) => boolean | Promise<boolean>) | undefined
  /**
   * The clock for freshness, TTLs, leases, back-off and deadlines.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md)
   */
  clock?: Clock | undefined
}

/** L1 without a subscription to invalidations. */
export interface L1Options {
  /** @default 64 MiB */
  maxSize?: Bytes | undefined
  /** How old an entry in L1 may be: an entry that another instance has invalidated is served for up to this time. */
  maxAge: Duration
}

const SIZE = { min: 1024 }
const L1_SIZE = bytes(64 * 1024 ** 2, SIZE)
const L1_AGE = duration(undefined, { min: 1 })

export const CACHE_OPTIONS = {
  ...COMMON_OPTIONS,
  global: boolean(false),
  tiers: option({
    type: '`{ name: duration }`',
    allowed: 'durations by names that are no durations themselves',
    fallback: {},
    fallbackText: 'none',
    parse: parseTiers
  }),
  redis: redisClient(),
  timeout: redisTimeout(),
  l1: option<Bytes | L1Options | false, L1Limits | false>({
    type: 'bytes, `{ maxSize, maxAge }` or `false`',
    allowed: "bytes from 1024, { maxAge: '1s' } with or without maxSize, or false",
    fallbackText: '64 MiB; over HTTP `false`',
    nullIsDefault: true,
    parse: parseL1
  }),
  maxSize: bytes(64 * 1024 ** 2, SIZE),
  onStoreError: oneOf('open', ['open', 'local']),
  cacheStatus: orFalse(
    string('fastify-redis-suite', '1 to 64 printable ASCII characters, or false', /^[\x20-\x7e]{1,64}$/)
  ),
  xCache: boolean(true),
  values: unchecked('options of `getOrSet`', 'those of routes'),
  serializer: option({
    type: "`'json'`, `'structured-clone'` or a serializer",
    allowed: "'json', 'structured-clone', or { name, serialize, deserialize } with a name of up to 32 letters, " +
      'digits and . : @ _ -',
    fallback: 'json',
    parse: resolveSerializer
  }),
  freeze: boolean(false),
  explain: callable('`(request) => boolean`, sync or async', 'a function of the request'),
  clock: clock()
} satisfies OptionTable<CachePluginOptions>

export interface ResolvedCacheOptions
  extends Omit<Resolved<typeof CACHE_OPTIONS>, keyof typeof COMMON_OPTIONS | 'redis' | 'values'> {
  /** The defaults of values. */
  values: ValuePlan
  route: (given: RouteCacheOptions | boolean, where: string) => ResolvedRouteCache
}

function parseL1 (given: unknown): L1Limits | false | undefined {
  if (given === false) return false
  if (typeof given !== 'object' || given === null) {
    const maxSize = L1_SIZE.parse(given, 'cache')
    return maxSize === undefined ? undefined : { maxSize, maxAge: undefined }
  }
  const { maxSize: size = L1_SIZE.resolvedDefault, maxAge: age, ...others } = given as Record<string, unknown>
  const [maxSize, maxAge] = [L1_SIZE.parse(size, 'cache'), L1_AGE.parse(age, 'cache')]
  const isAllowed = maxSize !== undefined && maxAge !== undefined && Object.keys(others).length === 0
  return isAllowed ? { maxSize, maxAge } : undefined
}

/**
 * Returns the limits of L1 for a client.
 *
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` over HTTP, where invalidations cannot be subscribed to
 */
export function l1For (given: L1Limits | false | undefined, { isHttp }: RedisPort): L1Limits | false {
  if (!isHttp) return given ?? { maxSize: L1_SIZE.resolvedDefault, maxAge: undefined }
  if (given !== undefined && given !== false && given.maxAge === undefined) {
    throw invalidOptionError('cache', 'l1', new InWords('a size, without maxAge'),
      "false or { maxAge: '1s' } over HTTP, where the invalidations of other instances cannot be subscribed to")
  }
  return given ?? false
}

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveCacheOptions (given: CachePluginOptions): ResolvedCacheOptions {
  const options = resolveOptions('cache', CACHE_OPTIONS, given)
  const { tiers, staleWhileRevalidate, staleIfError, jitter } = options
  if (options.freeze && options.serializer.name !== 'json') {
    refuseOption('cache', given, 'freeze', "true only with the serializer 'json'")
  }
  const common = Object.fromEntries(Object.entries(given).filter(([name]) => Object.hasOwn(COMMON_OPTIONS, name)))
  resolveRoute(common, tiers)
  // A ttl of responses that is no duration does not apply to values.
  const ttl = typeof given.ttl === 'function' || given.ttl === 'headers' ? DEFAULT_TTL : given.ttl ?? DEFAULT_TTL
  const valueTtl = resolveTtl(ttl, tiers)
  return {
    ...options,
    values: resolveDefaults(given.values ?? {}, {
      ttl: () => valueTtl,
      staleWhileRevalidate,
      staleIfError,
      jitter,
      negativeTtl: 0,
      softTimeout: Infinity,
      hardTimeout: Infinity,
      refreshAhead: 0
    }, tiers),
    route (route, where) {
      const own = typeof route === 'boolean' ? {} : route
      if (typeof own !== 'object' || own === null) {
        throw invalidOptionError('cache', 'config.cache', route, 'true, false or an object')
      }
      checkNames('cache', ROUTE_CACHE_OPTIONS, own)
      return resolveRoute(
        { ...common, ...Object.fromEntries(Object.entries(own).filter(([, value]) => value !== undefined)) }, tiers,
        own, where
      )
    }
  }
}
