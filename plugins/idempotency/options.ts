import type { FastifyRequest } from 'fastify'
import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { invalidOptionError } from '../shared/plugin/errors.js'
import type { MaybePromise } from '../shared/plugin/maybe-promise.js'
import {
  boolean, bytes, callable, clock, duration, integer, MAX_ENTRIES, oneOf, option, redisClient, redisTimeout, string
} from '../shared/plugin/option-kinds.js'
import {
  checkNames, readOptions, resolveOptions, type OptionTable, type Resolved
} from '../shared/plugin/option-table.js'
import type { Bytes } from '../shared/plugin/units.js'
import { resolveHeaders, type StoredHeaderNames } from './stored-headers.js'
import { createDefaultScope } from './default-scope.js'

/** The options of a route, `config.idempotency`. An option that is left out has the value of the plugin's options. */
export interface RouteIdempotencyOptions {
  /** How long a response is stored. @default '24h' */
  ttl?: Duration | undefined
  /** The request header that holds the key. @default 'idempotency-key' */
  header?: string | undefined
  /** Whether a request without a key is refused with 400. Otherwise it runs without protection. @default false */
  required?: boolean | undefined
  /**
   * Returns the scope of the key, such as a user's id. Callers in different scopes never get each other's responses;
   * callers in the same scope do. Any result but a string that is not empty is answered with
   * `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE`.
   *
   * @default the caller
   * @see [the scope of a key](docs/plugins/idempotency.md#the-scope-of-a-key)
   * @example
   * scope: request => request.headers['x-api-key']
   */
  scope?: ((request: FastifyRequest) => MaybePromise<string | string[] | undefined>) | undefined
  /**
   * Returns what else must be equal for two requests to be the same, beside method, host, URL and parsed body: for
   * example the hash of a body that is read as a stream.
   */
  fingerprint?: ((request: FastifyRequest) => MaybePromise<string>) | undefined
  /**
   * How long a request waits for a running one with the same key before it is answered with 409; `0` does not wait.
   *
   * @default '5s'
   */
  wait?: Duration | undefined
  /**
   * How long a key stays acquired after its process has crashed. It is renewed every third of this while the request
   * runs.
   *
   * @default '10s'
   */
  lease?: Duration | undefined
  /**
   * Names of response headers that are replayed; `x-*` stands for all headers of the handler with this prefix. Headers
   * of one connection or of each response, such as `set-cookie`, `connection` and `date`, are never replayed.
   *
   * @default DEFAULT_HEADERS
   * @see [headers](docs/plugins/idempotency.md#which-headers-are-replayed)
   */
  headers?: readonly string[] | undefined
  /**
   * The largest body that is stored. For a larger response only its completion is stored, and a repetition receives
   * 409.
   *
   * @default 1 MiB
   */
  maxBodySize?: Bytes | undefined
  /**
   * The behavior while Redis is unavailable: `'closed'` answers with 503; `'open'` runs the request, perhaps a second
   * time.
   *
   * @default 'closed'
   */
  onStoreError?: 'closed' | 'open' | undefined
}

/** Options of the `idempotency` plugin. */
export interface IdempotencyPluginOptions extends RouteIdempotencyOptions {
  /** The client of the store; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /**
   * How long a request waits for one reply of Redis. While Redis is late but available, it waits longer.
   *
   * @default 150 ms; over HTTP 1000 ms
   * @see [an outage and a stall](docs/plugins/redis.md#how-an-outage-differs-from-a-stall)
   */
  timeout?: Duration | undefined
  /**
   * How many responses the memory store keeps, 64 MiB in all. The least recently used one is evicted.
   *
   * @default 10_000
   */
  maxKeys?: number | undefined
  /**
   * The clock for TTLs, waits, leases and deadlines. Redis expires keys by its own clock.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md)
   */
  clock?: Clock | undefined
}

const FIELD_NAME = /^[\w!#$%&'*+.^`|~-]+$/

export const DEFAULT_HEADERS: readonly string[] = [
  'content-type', 'content-encoding', 'content-language', 'content-location', 'content-disposition',
  'location', 'link', 'etag', 'last-modified', 'cache-control', 'vary', 'retry-after', 'x-*'
]

export const ROUTE_IDEMPOTENCY_OPTIONS = {
  ttl: duration('24h', { min: 1 }),
  header: string('idempotency-key', "a header's name", FIELD_NAME),
  required: boolean(false),
  scope: callable(
    '`(request) => string`, sync or async', 'a function of the request that returns a string', 'the caller'
  ),
  fingerprint: callable('`(request) => string`, sync or async', 'a function of the request that returns a string'),
  wait: duration('5s', { max: MAX_TIMER_MS }),
  lease: duration('10s', { min: 100, max: MAX_TIMER_MS }),
  headers: option({
    type: 'string[]',
    allowed: "an array of headers' names",
    fallback: DEFAULT_HEADERS,
    fallbackText: '`DEFAULT_HEADERS`',
    parse: (given): StoredHeaderNames | undefined =>
      Array.isArray(given) && given.every(name => typeof name === 'string' && FIELD_NAME.test(name))
        ? resolveHeaders(given)
        : undefined
  }),
  maxBodySize: bytes(1024 * 1024),
  onStoreError: oneOf('closed', ['closed', 'open'])
} satisfies OptionTable<RouteIdempotencyOptions>

export const IDEMPOTENCY_OPTIONS = {
  ...ROUTE_IDEMPOTENCY_OPTIONS,
  redis: redisClient(),
  timeout: redisTimeout(),
  maxKeys: integer(10_000, { min: 1, max: MAX_ENTRIES }),
  clock: clock()
} satisfies OptionTable<IdempotencyPluginOptions>

export interface ResolvedRouteIdempotency extends Resolved<typeof ROUTE_IDEMPOTENCY_OPTIONS> {
  scope: NonNullable<RouteIdempotencyOptions['scope']>
  fingerprint: NonNullable<RouteIdempotencyOptions['fingerprint']>
}

/** @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION` */
export function resolvePluginOptions (given: IdempotencyPluginOptions): Resolved<typeof IDEMPOTENCY_OPTIONS> {
  return resolveOptions('idempotency', IDEMPOTENCY_OPTIONS, given)
}

/** @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION` */
export function resolveRoute (
  plugin: IdempotencyPluginOptions, config: RouteIdempotencyOptions | true
): ResolvedRouteIdempotency {
  const route = config === true ? {} : config
  if (typeof route !== 'object' || route === null) {
    throw invalidOptionError('idempotency', 'config.idempotency', route, 'true, false or an object')
  }
  checkNames('idempotency', ROUTE_IDEMPOTENCY_OPTIONS, route)
  const own = Object.fromEntries(Object.entries(route).filter(([, value]) => value !== undefined))
  const options = readOptions('idempotency', ROUTE_IDEMPOTENCY_OPTIONS, { ...plugin, ...own })
  return {
    ...options,
    header: options.header.toLowerCase(),
    scope: options.scope ?? createDefaultScope(),
    fingerprint: options.fingerprint ?? (() => '')
  }
}
