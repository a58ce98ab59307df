import type { FastifyRequest } from 'fastify'
import type { RedisClient } from '../shared/client.js'
import type { Duration } from '../shared/duration.js'
import { invalidOptionError } from '../shared/errors.js'
import { DEFAULT_TIMEOUT_MS } from '../shared/guard.js'
import { readOptions } from '../shared/options.js'
import { MAX_ENTRY_LIFE_MS } from './redis-store.js'

// The request as a route's own callbacks see it: what its schema says of params and query is known to the route alone.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
type RouteRequest = FastifyRequest & { params: any, query: any, body: any }

/** Tags, or a function that says them for a request. */
export type TagsOption = readonly string[] | ((request: RouteRequest) => readonly string[])

/** What a route may say of its cache. */
export interface RouteCacheOptions {
  /** For how long an answer is fresh. @default the plugin's ttl */
  ttl?: Duration
  /** For how long after that it may be used while one request makes it anew. @default the plugin's */
  staleWhileRevalidate?: Duration
  /** By which the answer can be invalidated. */
  tags?: TagsOption
  /** Tags that a successful answer of this route invalidates, before it is sent. */
  invalidates?: TagsOption
  /** Names of request headers that are a part of the key. */
  vary?: readonly string[]
  /** Whose answer it is: it is kept for them alone. Nobody's (undefined) is not kept. */
  private?: (request: RouteRequest) => string | number | undefined
}

export interface CachePluginOptions {
  /** An ioredis client; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** How long an operation on the store may take. @default 150 ms */
  timeout?: Duration
  /** Of routes and values that do not say otherwise. @default '30s' */
  ttl?: Duration
  /** Of routes and values that do not say otherwise. @default 0 */
  staleWhileRevalidate?: Duration
  /** Bytes of the largest answer that is stored. @default 1 MiB */
  maxEntrySize?: number
  /** Bytes that the memory store keeps. @default 64 MiB */
  maxSize?: number
}

export interface Lifetime {
  /** Milliseconds. */
  ttl: number
  /** Milliseconds. */
  stale: number
}

export interface ResolvedCacheOptions extends Lifetime {
  timeout: number
  maxEntrySize: number
  maxSize: number
}

export interface ResolvedRouteCache extends Lifetime {
  /** Whether answers are stored, or the route only invalidates. */
  stores: boolean
  tagsOf: (request: FastifyRequest) => readonly string[]
  invalidatedBy: (request: FastifyRequest) => readonly string[]
  vary: readonly string[]
  ownerOf: ((request: FastifyRequest) => string | number | undefined) | undefined
}

const ROUTE_OPTIONS = ['ttl', 'staleWhileRevalidate', 'tags', 'invalidates', 'vary', 'private']

export function resolveCacheOptions (given: CachePluginOptions): ResolvedCacheOptions {
  const read = readOptions('cache', given)
  read.onlyKnown(['redis', 'timeout', 'ttl', 'staleWhileRevalidate', 'maxEntrySize', 'maxSize'])
  return {
    ...resolveLifetime(given, { ttl: 30_000, stale: 0 }),
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }),
    maxEntrySize: read.integer('maxEntrySize', 1024 ** 2, { min: 1 }),
    maxSize: read.integer('maxSize', 64 * 1024 ** 2, { min: 1024 })
  }
}

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveLifetime (given: Pick<RouteCacheOptions, 'ttl' | 'staleWhileRevalidate'>, fallback: Lifetime): Lifetime {
  const read = readOptions('cache', given)
  return {
    ttl: read.duration('ttl', fallback.ttl, { min: 1, max: MAX_ENTRY_LIFE_MS / 2 }),
    stale: read.duration('staleWhileRevalidate', fallback.stale, { max: MAX_ENTRY_LIFE_MS / 2 })
  }
}

/** @param where - names the route in an error */
export function resolveRouteCache (given: RouteCacheOptions | true, plugin: Lifetime, where: string): ResolvedRouteCache {
  const options = given === true ? {} : given
  if (typeof options !== 'object' || options === null) throw invalidOptionError('cache', `config.cache of ${where}`, given, 'true, false or an object')
  const read = readOptions('cache', options)
  read.onlyKnown(ROUTE_OPTIONS)
  const { vary = [], private: ownerOf } = options
  if (!isListOfStrings(vary)) read.fail('vary', 'a list of header names')
  if (ownerOf !== undefined && typeof ownerOf !== 'function') read.fail('private', 'a function of the request that says whose answer it is')
  const tellsOnlyInvalidates = options.invalidates !== undefined && Object.keys(options).length === 1
  return {
    ...resolveLifetime(options, plugin),
    stores: !tellsOnlyInvalidates,
    tagsOf: resolveTags('tags', options.tags, read.fail),
    invalidatedBy: resolveTags('invalidates', options.invalidates, read.fail),
    vary: vary.map(name => name.toLowerCase()).sort(),
    ownerOf
  }
}

function resolveTags (name: string, tags: TagsOption | undefined, fail: (name: string, allowed: string) => never): ResolvedRouteCache['tagsOf'] {
  if (tags === undefined) return () => []
  if (typeof tags === 'function') return tags
  return isListOfStrings(tags) ? () => tags : fail(name, 'a list of strings, or a function of the request')
}

function isListOfStrings (value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every(entry => typeof entry === 'string' && entry !== '')
}
