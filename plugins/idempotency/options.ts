import type { FastifyRequest } from 'fastify'
import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { DEFAULT_TIMEOUT_MS } from '../shared/redis/guard.js'
import type { MaybePromise } from '../shared/plugin/maybe-promise.js'
import { MAX_ENTRIES, readOptions, type OptionReader } from '../shared/plugin/option-reader.js'
import { resolveHeaders, type HeaderNames } from './stored-headers.js'
import { createDefaultScope } from './default-scope.js'

/** Of a route: `config.idempotency`. What it leaves out is as the plugin has it. */
export interface RouteIdempotencyOptions {
  /** How long an answer is kept. @default '24h' */
  ttl?: Duration | undefined
  /** The request's header with the key. @default 'idempotency-key' */
  header?: string | undefined
  /** Whether a request without a key is refused (400), or runs as if the plugin were not there. @default false */
  required?: boolean | undefined
  /**
   * Returns whose key it is. Callers with different scopes never get each other's responses, and callers with the same scope do. Anything but a string
   * that is not empty is answered by `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE`.
   *
   * @default the session's `userId`, else the id in `request.user` or the session that the client came with, together with `Authorization`; a request with
   * none of them is answered by `FST_REDIS_SUITE_IDEMPOTENCY_SCOPE_REQUIRED`
   * @example
   * scope: request => request.headers['x-api-key']
   */
  scope?: ((request: FastifyRequest) => MaybePromise<string | string[] | undefined>) | undefined
  /** Returns what else makes two requests the same, beside method, host, URL and parsed body: part of a body that is read as a stream, say. */
  fingerprint?: ((request: FastifyRequest) => MaybePromise<string>) | undefined
  /** How long a request waits for the same one that is under way, before it is answered 409. @default '5s' */
  wait?: Duration | undefined
  /** How long a claim outlives the process that ran the request. It is renewed while that runs. @default '10s' */
  lease?: Duration | undefined
  /**
   * Names of response headers that are replayed; `x-*` stands for all that the handler sets and that begin so. Never: `set-cookie`, and headers of
   * one connection or of each response, such as `connection` and `date`.
   *
   * @default `DEFAULT_HEADERS`: the ones that describe the body, and where it is, and `x-*`
   */
  headers?: readonly string[] | undefined
  /** Of a larger body only that it was is kept: the same request is then answered 409. In bytes. @default 1 MiB */
  maxBodySize?: number | undefined
  /** While the store cannot be asked: answer 503, or run, perhaps a second time. @default 'closed' */
  onStoreError?: 'closed' | 'open' | undefined
}

/** Options of the `idempotency` plugin. */
export interface IdempotencyPluginOptions extends RouteIdempotencyOptions {
  /** An ioredis client; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** How long a request may wait for one answer of the store. @default 150 ms */
  timeout?: Duration | undefined
  /** How many answers the memory store keeps. @default 10000 */
  maxKeys?: number | undefined
  /** The clock for TTLs, leases, waits and deadlines: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

export interface ResolvedRoute {
  ttl: number
  header: string
  required: boolean
  scope: NonNullable<RouteIdempotencyOptions['scope']>
  fingerprint: NonNullable<RouteIdempotencyOptions['fingerprint']>
  wait: number
  lease: number
  headers: HeaderNames
  maxBodySize: number
  runsUnguarded: boolean
}

const ROUTE = ['ttl', 'header', 'required', 'scope', 'fingerprint', 'wait', 'lease', 'headers', 'maxBodySize', 'onStoreError']
const OWN = ['redis', 'timeout', 'maxKeys', 'clock']
const FIELD_NAME = /^[\w!#$%&'*+.^`|~-]+$/

export const DEFAULT_HEADERS: readonly string[] = [
  'content-type', 'content-encoding', 'content-language', 'content-location', 'content-disposition',
  'location', 'link', 'etag', 'last-modified', 'cache-control', 'vary', 'retry-after', 'x-*'
]

/** @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION` */
export function resolveOptions (given: IdempotencyPluginOptions): { timeout: number, maxKeys: number, clock: Clock } {
  const read = readOptions('idempotency', given)
  read.onlyKnown([...ROUTE, ...OWN])
  readRoute(read, given)
  return { timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }), maxKeys: read.integer('maxKeys', 10_000, { min: 1, max: MAX_ENTRIES }), clock: read.clock() }
}

/** @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION` */
export function resolveRoute (plugin: IdempotencyPluginOptions, config: RouteIdempotencyOptions | true): ResolvedRoute {
  const route = config === true ? {} : config
  if (typeof route !== 'object' || route === null) return readOptions('idempotency', { 'config.idempotency': route }).fail('config.idempotency', 'true, false or an object')
  readOptions('idempotency', route).onlyKnown(ROUTE)
  const said = Object.entries(route).filter(([, value]) => value !== undefined)
  const merged: RouteIdempotencyOptions = { ...plugin, ...Object.fromEntries(said) }
  return readRoute(readOptions('idempotency', merged), merged)
}

function readRoute (read: OptionReader, { scope = createDefaultScope(), fingerprint = () => '', headers = DEFAULT_HEADERS }: RouteIdempotencyOptions): ResolvedRoute {
  const header = read.string('header', 'idempotency-key').toLowerCase()
  if (!FIELD_NAME.test(header)) read.fail('header', "a header's name")
  if (typeof scope !== 'function') read.fail('scope', 'a function of the request that returns a string')
  if (typeof fingerprint !== 'function') read.fail('fingerprint', 'a function of the request that returns a string')
  if (!Array.isArray(headers) || !headers.every(name => typeof name === 'string' && FIELD_NAME.test(name))) read.fail('headers', "an array of headers' names")
  return {
    ttl: read.duration('ttl', '24h', { min: 1 }),
    header,
    required: read.boolean('required', false),
    scope,
    fingerprint,
    wait: read.duration('wait', '5s', { max: MAX_TIMER_MS }),
    lease: read.duration('lease', '10s', { min: 100, max: MAX_TIMER_MS }),
    headers: resolveHeaders(headers),
    maxBodySize: read.integer('maxBodySize', 1024 * 1024),
    runsUnguarded: read.oneOf('onStoreError', 'closed', ['closed', 'open']) === 'open'
  }
}
