import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Duration } from '../../shared/plugin/duration.js'
import { describe, namingRoute } from '../../shared/plugin/errors.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import {
  boolean, bytes, callable, duration, fraction, integer, isListOfStrings, oneOf, option, strings, unchecked
} from '../../shared/plugin/option-kinds.js'
import {
  checkNames, readOptions, refuseOption, resolveOptions, type Option, type OptionTable, type Resolved
} from '../../shared/plugin/option-table.js'
import type { Bytes, Milliseconds } from '../../shared/plugin/units.js'
import { COOKIE, varyOfKey } from '../rfc/vary.js'
import type { StatsCounter } from '../stats.js'
import { MAX_LIFE_MS } from '../store/store.js'
import { checkTags, type Tag } from '../store/tags.js'
import { resolveTtl, returnedTtl, TTL_RESULTS, type Tiers } from '../tiers/ttl.js'
import { ChosenCodings } from './body/content-codings.js'
import { createOwnerOf, type OwnerId } from './request-key.js'
import { resolveIgnoredNames } from './reads/ignored-names.js'
import { isStorableStatus } from './stored-response.js'
import { VariantUses } from './store-response.js'

// The request as a route's own functions see it: the types of params, query and body depend on the route's schema.
// eslint-disable-next-line @typescript-eslint/no-explicit-any
export type RouteRequest = FastifyRequest & { params: any, query: any, body: any }

/** Tags, or a function that returns them for a request. */
export type TagsOption = readonly Tag[] | ((request: RouteRequest) => readonly Tag[] | Promise<readonly Tag[]>)

/** A duration; the name of a tier; or `'headers'`: the response's own header fields decide, by RFC 9111. */
export type Ttl = Duration | 'headers'

/** The parts of a key beside the path. */
export interface KeyOptions {
  /**
   * Whether host and scheme are a part of the key, by `Host` and by the headers that proxies send (`X-Forwarded-Host`,
   * `X-Forwarded-Proto`).
   *
   * @default false
   */
  host?: boolean | undefined
  /**
   * The query parameters that are a part of the key: `{ include: [names] }` or `{ exclude: [names] }`. Other parameters
   * do not reach the handler either, so that the stored response cannot depend on them.
   *
   * @default all parameters
   */
  query?: { include: readonly string[] } | { exclude: readonly string[] } | undefined
  /**
   * Names of cookies that are a part of the key, such as one that chooses the language. `Vary` then names `Cookie`.
   *
   * @default []
   */
  cookies?: readonly string[] | undefined
}

/** How a route is cached. An option that is left out has the value of the plugin's options. */
export interface RouteCacheOptions {
  /**
   * How long a response is fresh, 15 days at most; 0 means that it is not stored. It overrides the response's own
   * headers; with `'headers'` the response's headers alone decide.
   *
   * @default '30s'
   * @see [ttl functions](docs/plugins/cache.md#ttl-functions)
   */
  ttl?: (Ttl | ((request: RouteRequest, reply: FastifyReply) => Duration | Promise<Duration>)) | undefined
  /** How long a stale response may be served while it is refreshed in the background (RFC 5861). @default 0 */
  staleWhileRevalidate?: Duration | undefined
  /** How long a stale response may be served when the handler throws or responds 5xx (RFC 5861). @default 0 */
  staleIfError?: Duration | undefined
  /**
   * The largest fraction by which a ttl is shortened at random, so that entries do not expire all at once.
   *
   * @default 0
   */
  jitter?: number | undefined
  /**
   * Status codes that a route with a ttl stores. A status of 400 or more is also stored if the handler throws it.
   *
   * @default [200, 203, 204, 300, 301, 308]
   */
  statuses?: readonly number[] | undefined
  /** Tags by which the response can be invalidated. */
  tags?: TagsOption | undefined
  /**
   * Tags that a successful response (below 400) invalidates, before it is sent. A function that throws is logged, and
   * the response is sent unchanged.
   */
  invalidates?: TagsOption | undefined
  /**
   * Names of request headers that are a part of the key. The response's `Vary` names them.
   *
   * @default []
   * @see [caches in front](docs/plugins/cache.md#caches-in-front)
   */
  vary?: readonly string[] | undefined
  /**
   * Returns the id of the response's owner: the response is cached for this owner alone. `undefined`, `null`, `''`,
   * `false` and `NaN` mean that there is no owner, and the response is not cached. Any other value, such as an object,
   * is an error.
   *
   * @see [owners](docs/plugins/cache.md#owners)
   */
  private?: ((request: RouteRequest) => MaybePromise<OwnerId>) | undefined
  /**
   * Whether the response is the same for every caller. Requests with a session, `request.user` or `Authorization` then
   * use the cache; without this option they bypass it. Reads of the session and of cookies are then not checked.
   *
   * @default false
   */
  public?: boolean | undefined
  /**
   * The parts of the key beside `vary`. Without this option they are the path and the whole query, also as they were
   * before `rewriteUrl`.
   *
   * @default path and whole query
   */
  key?: KeyOptions | undefined
  /**
   * The hook in which the cache is looked up: the last `preHandler` of the route, or its last `onRequest`.
   *
   * @default 'preHandler'
   * @see [where it sits](docs/plugins/cache.md#where-it-sits)
   */
  hook?: 'preHandler' | 'onRequest' | undefined
  /** Whether the request's `Cache-Control` is obeyed (RFC 9111 §5.2.1). @default 'ignore' */
  requestDirectives?: 'obey' | 'ignore' | undefined
  /**
   * With `ttl: 'headers'`, the fraction of its age for which a response without explicit freshness is fresh (RFC 9111
   * §4.2.2). The RFC suggests 0.1; 0 disables it.
   *
   * @default 0
   */
  heuristic?: number | undefined
  /** Whether a response with `Set-Cookie` may be stored, including that header. @default false */
  storeSetCookie?: boolean | undefined
  /** Whether a response without an `ETag` gets one. @default true */
  etag?: boolean | undefined
  /**
   * Size of the largest response that is stored. If a hook encodes the response, the uncoded body counts.
   *
   * @default 1 MiB
   */
  maxEntrySize?: Bytes | undefined
  /**
   * How many variants of one URL, by the response's `Vary`, are stored. The least recently used one is evicted; each
   * process counts its own hits.
   *
   * @default 20
   */
  maxVariants?: number | undefined
  /** Header fields that override `Cache-Control`, in order of precedence (RFC 9213). @default ['cdn-cache-control'] */
  targeted?: readonly string[] | undefined
  /**
   * The behavior when a hook or the handler reads a part of the request that neither the key nor `Vary` nor the owner
   * covers. `'bypass'`: the response is not stored, and a stored one is not used. `'warn'`: the response is stored.
   * Both log each name once per route. `false`: the response is stored, and reads are not watched.
   *
   * @default 'bypass'
   * @see [what a response may depend on](docs/plugins/cache.md#what-a-response-may-depend-on)
   */
  unkeyed?: 'bypass' | 'warn' | false | undefined
  /**
   * Names that may be read because the response does not depend on them: header names, `cookie:{name}`, `query:{name}`,
   * `request.ip`, `request.protocol`, `request.socket`. A name that begins with `!` counts although it is harmless by
   * default: `'!user-agent'`.
   *
   * @default []
   * @see [names that are harmless by default](docs/plugins/cache.md#names-that-do-not-count)
   */
  harmless?: readonly string[] | undefined
}

const LIFETIME = { max: MAX_LIFE_MS / 2 }
export const DEFAULT_TTL = '30s'

type TagsFunction = (request: FastifyRequest) => MaybePromise<readonly string[]>

function tagsOption<Value> (
  name: string, ofFunction: (given: (request: RouteRequest) => unknown) => Value
): Option<TagsOption, Value | TagsFunction | undefined> {
  return option<TagsOption, Value | TagsFunction>({
    type: 'tags or `(request) => tags`, sync or async',
    allowed: 'a list of tags, or a function of the request that returns one',
    parse (given) {
      if (typeof given === 'function') return ofFunction(given as (request: RouteRequest) => unknown)
      if (!Array.isArray(given)) return undefined
      const tags = checkTags(given, name)
      return () => tags
    }
  })
}

export const KEY_OPTIONS = {
  host: boolean(false),
  query: option({
    type: '`{ include } | { exclude }`',
    allowed: '{ include: [names] } or { exclude: [names] }',
    fallbackText: 'all parameters',
    parse: parseQuery
  }),
  cookies: strings([], "a list of cookie names, such as ['lang']")
} satisfies OptionTable<KeyOptions>

/** The options that the plugin has too, as defaults of all routes. */
export const COMMON_OPTIONS = {
  ttl: unchecked(
    "duration, tier, `'headers'`, or `(request, reply) => duration or tier`, sync or async", undefined, DEFAULT_TTL
  ),
  staleWhileRevalidate: duration(0, LIFETIME),
  staleIfError: duration(0, LIFETIME),
  jitter: fraction(0),
  statuses: option({
    type: 'number[]',
    allowed: 'a list of status codes from 200, without 206 and 304',
    fallback: [200, 203, 204, 300, 301, 308],
    parse: given => Array.isArray(given) && given.every(isStorableStatus) ? new Set<number>(given) : undefined
  }),
  vary: strings([], "a list of header names, such as ['x-tenant']", isFieldName),
  key: option({
    type: '`{ host, query, cookies }`',
    allowed: '{ host, query, cookies }',
    fallback: {},
    fallbackText: 'path and whole query',
    parse: given =>
      typeof given === 'object' && given !== null ? resolveOptions('cache', KEY_OPTIONS, given) : undefined
  }),
  hook: oneOf('preHandler', ['preHandler', 'onRequest']),
  requestDirectives: oneOf('ignore', ['obey', 'ignore']),
  heuristic: fraction(0),
  storeSetCookie: boolean(false),
  etag: boolean(true),
  maxEntrySize: bytes(1024 ** 2, { min: 1 }),
  maxVariants: integer(20, { min: 1, max: 1000 }),
  targeted: option({
    type: 'string[]',
    allowed: 'a list of header names',
    fallback: ['cdn-cache-control'],
    parse: given => isListOfStrings(given) ? given.map(name => name.toLowerCase()) : undefined
  }),
  unkeyed: option({
    type: "`'bypass'`, `'warn'`, `false`",
    allowed: "'bypass', 'warn' or false",
    fallback: 'bypass',
    parse: given => given === 'bypass' || given === 'warn' || given === false ? given : undefined
  }),
  harmless: option({
    type: 'string[]',
    allowed: "a list of names, such as 'x-theme', 'cookie:theme' or '!user-agent'",
    fallback: [],
    parse: given => isListOfStrings(given) ? resolveIgnoredNames(given.map(toName)) : undefined
  })
} satisfies Partial<OptionTable<RouteCacheOptions>>

export const ROUTE_CACHE_OPTIONS = {
  ...COMMON_OPTIONS,
  tags: tagsOption('tags', readTags),
  invalidates: tagsOption('invalidates', given => given),
  private: callable('`(request) => id`, sync or async', 'a function of the request that returns the id of its owner'),
  public: boolean(false)
} satisfies OptionTable<RouteCacheOptions>

/** How a route is cached: its options, complete and checked, and its state. */
export interface ResolvedRouteCache extends Omit<Resolved<typeof ROUTE_CACHE_OPTIONS>, 'ttl' | 'tags' | 'private'> {
  /** Whether responses are stored, or the route only invalidates. */
  stores: boolean
  /**
   * Returns how long a response is fresh. `undefined`: its own headers decide. `NaN`: the route's function returned no
   * valid ttl, and the response is not stored.
   */
  ttl: ((request: FastifyRequest, reply: FastifyReply) => MaybePromise<Milliseconds>) | undefined
  tags: TagsFunction
  /** The `Vary` that is added for the headers and cookies of the key. */
  varyField: string | undefined
  /** Returns the owner of a response; `undefined` if all requests share it. */
  private: ((request: FastifyRequest) => MaybePromise<string | undefined>) | undefined
  /** Names of headers, and `cookie:{name}` of cookies, that are a part of the key. */
  vary: readonly string[]
  variantUses: VariantUses
  codings: ChosenCodings
  /** Names whose reads were logged. */
  warned: Set<string>
  /** Counts the route's requests. */
  counts?: StatsCounter
}

/** Whether a route's own options hold tags that its responses invalidate, and nothing else. */
export function onlyInvalidates (own: RouteCacheOptions): boolean {
  return own.invalidates !== undefined && Object.keys(own).length === 1
}

/**
 * @param own - the route's options without those of the plugin
 * @param where - the route, for errors
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
 */
export function resolveRoute (
  given: RouteCacheOptions, tiers: Tiers, own: RouteCacheOptions = given, where = ''
): ResolvedRouteCache {
  const options = readOptions('cache', ROUTE_CACHE_OPTIONS, given)
  if (options.public && options.private !== undefined) refuseOption('cache', given, 'public', 'left out beside private')
  const vary = [...new Set(
    [...options.vary.map(name => name.toLowerCase()), ...options.key.cookies.map(name => COOKIE + name)]
  )].sort()
  return {
    ...options,
    stores: !onlyInvalidates(own),
    ttl: resolveTtlFunction(given.ttl, tiers),
    tags: options.tags ?? (() => []),
    vary,
    varyField: varyOfKey(vary),
    private: options.private && createOwnerOf(options.private, where),
    variantUses: new VariantUses(),
    codings: new ChosenCodings(),
    warned: new Set()
  }
}

function resolveTtlFunction (ttl: RouteCacheOptions['ttl'], tiers: Tiers): ResolvedRouteCache['ttl'] {
  if (ttl === 'headers') return undefined
  if (typeof ttl !== 'function') {
    const fixed = resolveTtl(ttl ?? DEFAULT_TTL, tiers, "; 'headers'")
    return () => fixed
  }
  let isWarned = false
  return (request, reply) => whenReady<unknown, number>(ttl(request, reply), result => {
    const ms = returnedTtl(result, tiers)
    if (ms !== undefined) return ms
    const { url } = request.routeOptions
    if (!isWarned) {
      request.log.warn(
        { plugin: 'cache', route: url },
        `cache: route ${url}: the function "ttl" returned ${describe(result)}: the response is not stored; return ` +
        `${TTL_RESULTS} (logged once)`
      )
    }
    isWarned = true
    return NaN
  })
}

/** Checks the tags that a route's function returns. */
function readTags (given: (request: RouteRequest) => unknown): TagsFunction {
  return request => whenReady<unknown, readonly string[]>(given(request), tags =>
    namingRoute(request.routeOptions as { method: string, url: string }, () => checkTags(tags, 'tags')))
}

function parseQuery (query: unknown): ((name: string) => boolean) | undefined {
  const { include, exclude }: { include?: unknown, exclude?: unknown } = { ...query as object }
  if (typeof query === 'object' && !Array.isArray(query)) checkNames('cache', { include, exclude }, query!)
  const names = include ?? exclude
  if ((include === undefined) === (exclude === undefined) || !isListOfStrings(names)) return undefined
  const listed = new Set(names)
  return name => listed.has(name) === (include !== undefined)
}

/** A field name (RFC 9110 §5.1). `*` would be one, but in `Vary` it stands for everything. */
function isFieldName (name: string): boolean {
  return name !== '*' && /^:?[!#$%&'*+.^_`|~\da-z-]+$/i.test(name)
}

/** Names of cookies and parameters are case-sensitive; those of headers are not. */
function toName (name: string): string {
  return /^!?(?:cookie|query):|^!?re(?:quest|ply)\./.test(name) ? name : name.toLowerCase()
}
