import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Duration } from '../../shared/plugin/duration.js'
import { describe, namingRoute } from '../../shared/plugin/errors.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { readOptions, type OptionReader } from '../../shared/plugin/option-reader.js'
import { COOKIE, varyOfKey } from '../rfc/vary.js'
import type { StatsCounter } from '../stats.js'
import { MAX_LIFE_MS } from '../store/store.js'
import { checkTags, type Tag } from '../store/tags.js'
import { isListOfStrings, resolveTtl, returnedTtl, TTL_RESULTS, type Tiers } from '../tiers/ttl.js'
import { ChosenCodings } from './body/content-codings.js'
import { createOwnerOf, type OwnerId } from './request-key.js'
import { resolveIgnoredNames, type IgnoredNames } from './reads/ignored-names.js'
import { isStorableStatus } from './stored-response.js'
import { VariantUses } from './store-response.js'

/** How a route is cached, complete and checked. Times are milliseconds. */
export interface ResolvedRouteCache {
  /** Whether answers are stored, or the route only invalidates. */
  stores: boolean
  /** For how long an answer is fresh; undefined: as it says itself. NaN: the route's function returned no ttl, and the answer is not stored. */
  ttlOf: ((request: FastifyRequest, reply: FastifyReply) => MaybePromise<number>) | undefined
  staleWhileRevalidate: number
  staleIfError: number
  jitter: number
  statuses: ReadonlySet<number>
  tagsOf: (request: FastifyRequest) => MaybePromise<readonly string[]>
  /** As the route's own function returns them: anything. */
  invalidatedBy: (request: FastifyRequest) => unknown
  /** Whether it names tags that its answers invalidate. */
  hasInvalidations: boolean
  /** Names of headers, and `cookie:{name}` of cookies, that are a part of the key. */
  vary: readonly string[]
  /** The `Vary` that is added for these; undefined: none. */
  varyField: string | undefined
  /** Names the owner of a response; undefined where all requests share it. */
  ownerOf: ((request: FastifyRequest) => MaybePromise<string | undefined>) | undefined
  /** Whether it is the same for all, whoever they are. */
  isPublic: boolean
  keysHost: boolean
  /** Whether a query parameter is a part of the key; undefined: all are. */
  keysParameter: ((name: string) => boolean) | undefined
  hook: 'preHandler' | 'onRequest'
  obeysRequest: boolean
  heuristic: number
  storesSetCookie: boolean
  makesEtag: boolean
  maxEntrySize: number
  maxVariants: number
  variantUses: VariantUses
  codings: ChosenCodings
  targeted: readonly string[]
  stripsTargeted: boolean
  unkeyed: 'warn' | 'bypass' | false
  /** What may be read all the same. */
  harmless: IgnoredNames
  /** Names of which a read was logged. */
  warned: Set<string>
  /** Where its requests are counted. */
  counts?: StatsCounter
}

export const DEFAULT_TTL = '30s'
export const HEADERS = "; 'headers'"
const DEFAULT_STATUSES = [200, 203, 204, 300, 301, 308]

/** Whether a route's own options say what its responses invalidate, and nothing else. */
export function onlyInvalidates (own: RouteCacheOptions): boolean {
  return own.invalidates !== undefined && Object.keys(own).length === 1
}

function resolveTtlOf (ttl: RouteCacheOptions['ttl'], tiers: Tiers, read: OptionReader): ResolvedRouteCache['ttlOf'] {
  if (ttl === 'headers') return undefined
  if (typeof ttl !== 'function') {
    const fixed = resolveTtl(ttl ?? DEFAULT_TTL, tiers, read, HEADERS)
    return () => fixed
  }
  let isWarned = false
  return (request, reply) => whenReady<unknown, number>(ttl(request, reply), result => {
    const ms = returnedTtl(result, tiers)
    if (ms !== undefined) return ms
    const { url } = request.routeOptions
    if (!isWarned) request.log.warn({ plugin: 'cache', route: url }, `cache: route ${url}: the function "ttl" returned ${describe(result)}: the response is not stored; return ${TTL_RESULTS} (logged once)`)
    isWarned = true
    return NaN
  })
}

export function resolveRoute (given: RouteCacheOptions, tiers: Tiers, own: RouteCacheOptions = given, where = ''): ResolvedRouteCache {
  const read = readOptions('cache', given)
  const { vary = [], statuses = DEFAULT_STATUSES, private: ownerOf, targeted = ['cdn-cache-control'] } = given
  if (!isListOfStrings(vary) || !vary.every(isFieldName)) read.fail('vary', "a list of header names, such as ['x-tenant']")
  if (!isListOfStrings(targeted)) read.fail('targeted', 'a list of header names')
  if (ownerOf !== undefined && typeof ownerOf !== 'function') read.fail('private', 'a function of the request that returns the id of its owner')
  const isPublic = read.boolean('public', false)
  if (isPublic && ownerOf !== undefined) read.fail('public', 'left out beside private')
  if (!Array.isArray(statuses) || !statuses.every(isStorableStatus)) read.fail('statuses', 'a list of status codes from 200, without 206 and 304')
  const { unkeyed = 'bypass', harmless = [] } = given
  if (![false, 'warn', 'bypass'].includes(unkeyed)) read.fail('unkeyed', "'bypass', 'warn' or false")
  if (!isListOfStrings(harmless)) read.fail('harmless', "a list of names, such as 'x-theme', 'cookie:theme' or '!user-agent'")
  const life = { max: MAX_LIFE_MS / 2 }
  const { cookies, ...key } = resolveKey(given.key, read)
  const keyed = [...new Set([...vary.map(name => name.toLowerCase()), ...cookies.map(name => COOKIE + name)])].sort()
  return {
    stores: !onlyInvalidates(own),
    ttlOf: resolveTtlOf(given.ttl, tiers, read),
    staleWhileRevalidate: read.duration('staleWhileRevalidate', 0, life),
    staleIfError: read.duration('staleIfError', 0, life),
    jitter: read.fraction('jitter', 0),
    statuses: new Set(statuses),
    tagsOf: resolveTags('tags', given.tags, read),
    invalidatedBy: typeof given.invalidates === 'function' ? given.invalidates : resolveTags('invalidates', given.invalidates, read),
    hasInvalidations: given.invalidates !== undefined,
    vary: keyed,
    varyField: varyOfKey(keyed),
    ownerOf: ownerOf && createOwnerOf(ownerOf, where),
    isPublic,
    ...key,
    hook: read.oneOf('hook', 'preHandler', ['preHandler', 'onRequest']),
    obeysRequest: read.oneOf('requestDirectives', 'ignore', ['obey', 'ignore']) === 'obey',
    heuristic: read.fraction('heuristic', 0),
    storesSetCookie: read.boolean('storeSetCookie', false),
    makesEtag: read.boolean('etag', true),
    maxEntrySize: read.integer('maxEntrySize', 1024 ** 2, { min: 1 }),
    maxVariants: read.integer('maxVariants', 20, { min: 1, max: 1000 }),
    variantUses: new VariantUses(),
    codings: new ChosenCodings(),
    targeted: targeted.map(name => name.toLowerCase()),
    stripsTargeted: read.boolean('stripTargeted', false),
    unkeyed,
    harmless: resolveIgnoredNames(harmless.map(toName)),
    warned: new Set()
  }
}

/** A field name (RFC 9110 §5.1), or the pseudo-header of HTTP/2. `*` would be one, but in `Vary` it stands for everything. */
function isFieldName (name: string): boolean {
  return name !== '*' && /^:?[!#$%&'*+.^_`|~\da-z-]+$/i.test(name)
}

/** Of a cookie or parameter case counts, of a header it does not. */
function toName (name: string): string {
  return /^!?(?:cookie|query):|^!?re(?:quest|ply)\./.test(name) ? name : name.toLowerCase()
}

function resolveKey (key: KeyOptions | undefined, read: OptionReader): Pick<ResolvedRouteCache, 'keysHost' | 'keysParameter'> & { cookies: readonly string[] } {
  if (key === undefined) return { keysHost: false, keysParameter: undefined, cookies: [] }
  if (typeof key !== 'object' || key === null) read.fail('key', '{ host, query, cookies }')
  const readKey = readOptions('cache', key)
  readKey.onlyKnown(['host', 'query', 'cookies'])
  const keysHost = readKey.boolean('host', false)
  const { query, cookies = [] } = key
  if (!isListOfStrings(cookies)) readKey.fail('cookies', "a list of cookie names, such as ['lang']")
  if (query === undefined) return { keysHost, keysParameter: undefined, cookies }
  const { include, exclude } = { include: undefined, exclude: undefined, ...query }
  if (typeof query === 'object' && !Array.isArray(query)) readOptions('cache', query).onlyKnown(['include', 'exclude'])
  const names = include ?? exclude
  if ((include === undefined) === (exclude === undefined) || !isListOfStrings(names)) return readKey.fail('query', '{ include: [names] } or { exclude: [names] }')
  const listed = new Set(names)
  return { keysHost, cookies, keysParameter: name => listed.has(name) === (include !== undefined) }
}

function resolveTags (name: string, tags: TagsOption | undefined, read: OptionReader): ResolvedRouteCache['tagsOf'] {
  if (tags === undefined) return () => []
  if (typeof tags === 'function') return request => whenReady<unknown, readonly string[]>(tags(request), given => namingRoute(request.routeOptions as { method: string, url: string }, () => checkTags(given, name)))
  if (!Array.isArray(tags)) return read.fail(name, 'a list of tags, or a function of the request that returns one')
  const fixed = checkTags(tags, name)
  return () => fixed
}

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

export const ROUTE_OPTIONS = ['ttl', 'staleWhileRevalidate', 'staleIfError', 'jitter', 'statuses', 'tags', 'invalidates', 'vary', 'private', 'public', 'key', 'hook',
  'requestDirectives', 'heuristic', 'storeSetCookie', 'etag', 'maxEntrySize', 'maxVariants', 'targeted', 'stripTargeted', 'unkeyed', 'harmless']
