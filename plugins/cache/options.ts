import type { FastifyReply, FastifyRequest } from 'fastify'
import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import type { Duration } from '../shared/plugin/duration.js'
import type { MaybePromise } from '../shared/plugin/maybe-promise.js'
import type { OwnerId } from './http/owner.js'
import type { SerializerOption } from './data/serializer.js'
import type { Tag } from './store/tags.js'
import type { ValueDefaults } from './data/value-options.js'

// The request as a route's own callbacks see it: what its schema says of params and query is known to the route alone.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type RouteRequest = FastifyRequest & { params: any, query: any, body: any }

/** Tags, or a function that says them for a request. */
export type TagsOption = readonly Tag[] | ((request: RouteRequest) => readonly Tag[] | Promise<readonly Tag[]>)

/** A duration; a tier's name; or `'headers'`: what the answer's own header fields say, by RFC 9111. */
export type Ttl = Duration | 'headers'

export interface KeyOptions {
  /** Whether hosts have answers of their own. @default false */
  host?: boolean | undefined
  /**
   * Which query parameters are a part of the key. Those that are not do not reach the handler either: what is not in the
   * key cannot change what is stored. @default all
   */
  query?: { include: readonly string[] } | { exclude: readonly string[] } | undefined
  /** Names of cookies that are a part of the key, such as one that chooses the language. @default [] */
  cookies?: readonly string[] | undefined
}

/** What a route may say of its cache; what it leaves out is taken from the plugin's options. */
export interface RouteCacheOptions {
  /** How long a response is fresh, 15 days at most, or a function that returns it for a response; 0: not stored. @default '30s' */
  ttl?: (Ttl | ((request: RouteRequest, reply: FastifyReply) => Duration | Promise<Duration>)) | undefined
  /** For how long after that it is given while it is made anew in the background (RFC 5861). @default 0 */
  staleWhileRevalidate?: Duration | undefined
  /** For how long after that it is given where the handler fails or answers 5xx (RFC 5861). @default 0 */
  staleIfError?: Duration | undefined
  /** By which part of it, at random, a ttl is shorter, so that what was stored at once does not expire at once: 0 to 1. @default 0 */
  jitter?: number | undefined
  /** The status codes that a route with a ttl stores. @default [200, 203, 204, 300, 301, 308] */
  statuses?: readonly number[] | undefined
  /** By which the answer can be invalidated. */
  tags?: TagsOption | undefined
  /** Tags that a successful answer of this route invalidates, before it is sent. */
  invalidates?: TagsOption | undefined
  /** Names of request headers that are a part of the key. */
  vary?: readonly string[] | undefined
  /**
   * Returns the id of the response's owner: the response is cached for this owner alone. `undefined`, `null`, `''`, `false` and `NaN` mean
   * that there is no owner, and the response is not cached. A promise is awaited. Anything else, such as an object, is an error.
   */
  private?: ((request: RouteRequest) => MaybePromise<OwnerId>) | undefined
  /** Whether the answer is the same for all, whoever is logged in or authorized: without it, theirs are neither looked up nor kept. @default false */
  public?: boolean | undefined
  key?: KeyOptions | undefined
  /** Where it is looked up: as the last `preHandler` of the route, or as its last `onRequest`, for what everybody may see. @default 'preHandler' */
  hook?: 'preHandler' | 'onRequest' | undefined
  /** Whether the request's `Cache-Control` is heeded (RFC 9111 §5.2.1). @default 'ignore' */
  requestDirectives?: 'obey' | 'ignore' | undefined
  /** With `ttl: 'headers'`: the part of its age for which an answer that says nothing is taken as fresh (RFC 9111 §4.2.2); 0: not at all. @default 0 */
  heuristic?: number | undefined
  /** Whether an answer with `Set-Cookie` may be stored, with it. @default false */
  storeSetCookie?: boolean | undefined
  /** Whether an answer that has no `ETag` is given one. @default true */
  etag?: boolean | undefined
  /** Bytes of the largest answer that is stored. @default 1 MiB */
  maxEntrySize?: number | undefined
  /** How many answers of one URL, told apart by `Vary`, are kept. @default 20 */
  maxVariants?: number | undefined
  /** Header fields that count above `Cache-Control`, the first one most (RFC 9213). @default ['cdn-cache-control'] */
  targeted?: readonly string[] | undefined
  /** Whether these are kept from the client. @default false */
  stripTargeted?: boolean | undefined
  /**
   * The reaction to a hook or handler that reads something of the request, such as a header or a cookie, which neither the key nor `Vary` nor the owner holds:
   *
   * - `'bypass'`: the response is not stored, and a stored one is not used
   * - `'warn'`: the response is stored
   * - `false`: the same, and reads are not watched
   *
   * The first two log each name once a route.
   *
   * @default 'bypass'
   */
  unkeyed?: 'bypass' | 'warn' | false | undefined
  /**
   * Names that may be read all the same, as the response does not depend on them: header names, `cookie:{name}`, `query:{name}`, `request.ip`,
   * `request.protocol`, `request.socket`. A name that begins with `!` counts although it is harmless by default: `'!user-agent'`.
   *
   * @default [] (beside the names that docs/cache.md lists)
   */
  harmless?: readonly string[] | undefined
}

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

export const ROUTE_OPTIONS = ['ttl', 'staleWhileRevalidate', 'staleIfError', 'jitter', 'statuses', 'tags', 'invalidates', 'vary', 'private', 'public', 'key', 'hook',
  'requestDirectives', 'heuristic', 'storeSetCookie', 'etag', 'maxEntrySize', 'maxVariants', 'targeted', 'stripTargeted', 'unkeyed', 'harmless']

export const PLUGIN_OPTIONS = [...ROUTE_OPTIONS.filter(name => !['tags', 'invalidates', 'private', 'public'].includes(name)),
  'redis', 'timeout', 'global', 'tiers', 'l1', 'maxSize', 'onStoreError', 'cacheStatus', 'xCache', 'explain', 'values', 'serializer', 'freeze', 'clock']
