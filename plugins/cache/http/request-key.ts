import { isDeepStrictEqual } from 'node:util'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { describe } from '../../shared/plugin/errors.js'
import { internalOf } from '../../shared/http/fastify-internals.js'
import { isNoId, isNumericId } from '../../shared/data/ids.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { InvalidValueError } from '../errors.js'
import { requestDirectives } from '../rfc/stored-headers.js'
import { selectingValue, normalizeSelecting } from '../rfc/vary.js'
import { StatsCounter } from '../stats.js'
import { CacheKey } from '../store/cache-key.js'
import type { VariantsMeta } from '../store/entry.js'
import type { RequestCache } from './request-state.js'
import type { ResolvedRouteCache } from './route-options.js'

/** Whether responses to requests with the method may come from the cache. */
export function isLookedUp (method: string): boolean {
  return method === 'GET' || method === 'HEAD'
}

/** Why a request bypasses the cache where its hooks could not be watched. */
export const UNWATCHED = 'unwatched'

/** Why a response is not stored for which `reply.noCache()` was called. */
export const REFUSED = 'the handler refused'

/**
 * Returns why a request bypasses the cache: it is not looked up, and its response is not stored. Returns undefined
 * where it does not.
 */
export function whyBypassed (state: RequestCache): string | undefined {
  const { request, route, reads, hasOwner, hasAuthorization, isRefused } = state
  const { method, headers } = request
  if (!route.stores || !isLookedUp(method)) return 'method'
  if (headers.upgrade !== undefined && isUpgraded(request)) return 'upgrade'
  if (headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined) return 'body'
  if (request.raw.httpVersionMajor >= 2 && hasBodyFrames(request)) return 'body'
  if (isRefused) return REFUSED
  if (route.private !== undefined && !hasOwner) return 'no owner'
  // RFC 9111 §5.2.1.5
  if (route.requestDirectives === 'obey' && requestDirectives(headers)?.has('no-store')) return 'no-store'
  if (!hasOwner && !route.public) {
    // RFC 9111 §3.5: the response says whether it may be shared. A `ttl` of the route says nothing about the user.
    if (route.ttl !== undefined && hasAuthorization) return 'authorization'
    if (route.ttl !== undefined && hasUser(request)) return 'user'
    if (hasSession(request)) return 'session'
  }
  return route.unkeyed === 'bypass' && reads === undefined ? UNWATCHED : undefined
}

/**
 * Whether the connection was handed over, as to a websocket. A server that does not take it over ignores the header
 * (RFC 9110 §7.8), so that no client can bypass the cache by it.
 */
function isUpgraded ({ raw }: FastifyRequest): boolean {
  // Node.js sets the property. A request that an adapter created may have none.
  return (Reflect.get(raw, 'upgrade') ?? true) === true
}

/** Whether an HTTP/2 request has a body, which needs no header. */
function hasBodyFrames ({ raw }: FastifyRequest): boolean {
  return 'stream' in raw && (raw.stream as { endAfterHeaders?: boolean }).endAfterHeaders === false
}

/** Whether `request.user` is set. Login packages set it to the user, so it counts like `Authorization`. */
export function hasUser (request: FastifyRequest): boolean {
  return Boolean(Reflect.get(request, 'user'))
}

/** Whether the session of any session plugin holds data, so that the response may be one user's. */
export function hasSession (request: FastifyRequest): boolean {
  const session: unknown = Reflect.get(request, 'session')
  if (typeof session !== 'object' || session === null) return false
  // `@fastify/secure-session` sets an object for each visitor, and returns its contents from a function.
  const contents: unknown = 'data' in session && typeof session.data === 'function' ? session.data() : session
  return Object.keys(contents ?? {}).some(name => name !== 'cookie')
}

/** A longer URL is not remembered. */
const MAX_KNOWN_URL = 256

/** Returns the key under which the response to a request is stored. */
export function keyOf (state: RequestCache, owner: string | undefined, constraints: string): CacheKey {
  const { cache: { keys }, request, route } = state
  const { url } = request
  const isUrlAlone = owner === undefined && constraints === '' && !route.key.host && route.key.query === undefined &&
    route.vary.length === 0 && url.length <= MAX_KNOWN_URL && Reflect.get(request.raw, 'originalUrl') === undefined
  if (!isUrlAlone) return makeKey(request, route, owner, constraints)
  const known = keys.get(url)
  if (known !== undefined && known.counts === route.counts) return known
  const key = makeKey(request, route, owner, constraints)
  keys.set(url, key)
  return key
}

/** Returns the key of a request, which is not remembered. */
export function makeKey (
  request: FastifyRequest, route: ResolvedRouteCache, owner: string | undefined, constraints: string
): CacheKey {
  const [path, query] = splitUrl(request.url)
  return responseKey({
    host: route.key.host ? hostOf(request) : undefined,
    path,
    original: Reflect.get(request.raw, 'originalUrl') === undefined ? undefined : originalOf(request),
    query: route.key.query === undefined ? query : keyedQuery(request, query, route.key.query),
    constraints,
    vary: route.vary.length === 0
      ? NO_HEADERS
      : route.vary.map(name => [name, selectingValue(name, request.headers)] as const),
    owner
  }, route.counts)
}

const NO_HEADERS: ResponseKeyParts['vary'] = []

/** Returns all names of the host: the handler may read one that `request.host` and `request.protocol` do not follow. */
function hostOf (request: FastifyRequest): string {
  const { host, protocol, headers } = request
  // No field has a line break.
  return [`${protocol}://${host}`, headers.host, headers[':authority'], headers['x-forwarded-host'],
    headers['x-forwarded-proto']].join('\n')
}

/** Returns the URL before `rewriteUrl`: the handler may know what that removed, such as a language. */
function originalOf ({ url, originalUrl }: FastifyRequest): [path: string, query: string] | undefined {
  return originalUrl === url ? undefined : splitUrl(originalUrl)
}

/**
 * Removes parameters that are not in the key, so that the handler cannot use them for a response that all requests
 * share.
 */
export function stripQuery (request: FastifyRequest, isKeyed: (name: string) => boolean): void {
  const { query, url, originalUrl } = request
  const [path, text] = splitUrl(url)
  const keyed = keyedQuery(request, text, isKeyed)
  if (keyed !== text) {
    const stripped = withQuery(path, keyed)
    request.raw.url = stripped
    // Fastify caches `originalUrl` for the first reader. It differs from `url` where URLs are rewritten.
    const [originalPath, originalText] = splitUrl(originalUrl)
    const original = originalUrl === url
      ? stripped
      : withQuery(originalPath, keyedQuery(request, originalText, isKeyed))
    Object.defineProperty(request, 'originalUrl', { value: original, configurable: true })
    // HTTP/2 has the URL among the headers too.
    if (request.headers[':path'] !== undefined) request.headers[':path'] = original
  } else if (parserOf(request) !== undefined) {
    return
  }
  // The router also reads a fragment as a query, which the text does not show.
  if (typeof query !== 'object' || query === null) return
  for (const name of Object.keys(query)) if (!isKeyed(name)) Reflect.deleteProperty(query, name)
}

export function splitUrl (url: string): [path: string, query: string] {
  const at = url.indexOf('?')
  return at === -1 ? [url, ''] : [url.slice(0, at), url.slice(at + 1)]
}

function withQuery (path: string, query: string): string {
  return query === '' ? path : `${path}?${query}`
}

/**
 * Returns a query without the parameters that are not in the key. The whole query is returned where the app's own
 * parser would read other values of the keyed parameters without the rest.
 */
function keyedQuery (request: FastifyRequest, query: string, isKeyed: (name: string) => boolean): string {
  const keyed = query.split('&').filter(pair => {
    const name = parameterName(pair)
    // Some parsers read `a[b]` as a part of `a`.
    return isKeyed(name) || isKeyed(name.split('[', 1)[0] ?? '')
  }).join('&')
  const parse = keyed === query ? undefined : parserOf(request)
  if (parse === undefined) return keyed
  const expected = Object.fromEntries(Object.entries(parse(query)).filter(([name]) => isKeyed(name)))
  return isDeepStrictEqual({ ...parse(keyed) }, expected) ? keyed : query
}

type QueryParser = (text: string) => Record<string, unknown>
interface RouterOptions { routerOptions?: { querystringParser?: QueryParser } }

const parsers = new WeakMap<FastifyInstance, QueryParser | undefined>()

/**
 * Returns the app's own query parser. `initialConfig` leaves it out where it was set by the deprecated option
 * `querystringParser`, and always in Fastify 6.
 */
function parserOf ({ server }: FastifyRequest): QueryParser | undefined {
  if (parsers.has(server)) return parsers.get(server)
  const options = internalOf(server, 'fastify.options') ?? server.initialConfig
  const parser = (options as RouterOptions).routerOptions?.querystringParser
  parsers.set(server, parser)
  return parser
}

export interface ResponseKeyParts {
  /** Undefined where all hosts share responses. */
  host: string | undefined
  /** The path of the request, without the query. */
  path: string
  query: string
  /** Path and query before `rewriteUrl`; undefined where it changed nothing. */
  original?: readonly [path: string, query: string] | undefined
  /** The constraints of the route, which distinguish routes of one path. */
  constraints: string
  /** Names and values of the headers and cookies that are a part of the key. */
  vary: ReadonlyArray<readonly [name: string, value: string]>
  /** Undefined where all requests share the response. */
  owner: string | undefined
}

/**
 * Returns the key of a response. Two requests share a key only if all parts are equal; the order of differently named
 * parameters is ignored.
 */
export function responseKey (
  { host, path, query: text, original, constraints, vary, owner }: ResponseKeyParts, counts?: StatsCounter
): CacheKey {
  const query = text.includes('&') ? sortQuery(text) : text
  const label = query === '' ? path : `${path}?${query}`
  // The same text as below, in half the time: most keys consist of the URL alone.
  if (host === undefined && owner === undefined && vary.length === 0 && constraints === '' && original === undefined) {
    return new CacheKey(`["response",null,${JSON.stringify(path)},${JSON.stringify(query)},"",[],null]`, label, counts)
  }
  const parts: unknown[] = ['response', host ?? null, path, query, constraints, vary, owner ?? null]
  if (original !== undefined) parts.push(original[0], sortQuery(original[1]))
  return new CacheKey(JSON.stringify(parts), label, counts)
}

/** Sorts a query by decoded names. Equal names, and those that a parser may nest in one, keep their order. */
function sortQuery (query: string): string {
  const nameOf = (pair: string) => parameterName(pair).split('[', 1)[0] ?? ''
  return query.split('&').map(pair => [nameOf(pair), pair] as const)
    .sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0)
    .map(([, pair]) => pair).join('&')
}

/** Returns the name of a pair as the router's own parser reads it. */
function parameterName (pair: string): string {
  const name = (pair.split('=', 1)[0] ?? '').replaceAll('+', ' ')
  try {
    return decodeURIComponent(name)
  } catch {
    return name
  }
}

/** Returns the key of the variant that a request's headers select. */
export function variantKey (
  key: CacheKey, { names, nonce }: VariantsMeta, headers: Record<string, string | string[] | undefined>
): CacheKey {
  return new CacheKey(JSON.stringify(['variant', key.id, nonce,
    names.map(name => normalizeSelecting(name, headers[name]))]), key.label, key.counts)
}

/** The id of a response's owner. `undefined`, `null`, `false`, `''` and `NaN` mean that there is no owner. */
export type OwnerId = string | number | bigint | null | undefined | false

const ALLOWED = 'a string, a finite number or a bigint, such as request.session.userId; ' +
  'a whole number above 2^53 as a string or a bigint; undefined or null for no owner'

/**
 * Returns a function that names the owner of a request's response, or undefined where there is none.
 *
 * A string and a number are different owners, as one may come from the client and the other from a database.
 *
 * @param where - the route, for the error
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_VALUE` for a value that could stand for several owners, such as an object
 */
export function createOwnerOf (
  ownerOf: (request: FastifyRequest) => MaybePromise<OwnerId>, where: string
): (request: FastifyRequest) => MaybePromise<string | undefined> {
  const name = (id: unknown): string | undefined => {
    if (isNoId(id)) return undefined
    if (typeof id === 'string') return id.startsWith('\0') ? `\0=${id}` : id
    // No owner that is a string has such a name.
    if (isNumericId(id)) return `\0${id}`
    throw new InvalidValueError(`config.cache.private of ${where}`, describe(id), ALLOWED)
  }
  return request => whenReady<OwnerId, string | undefined>(ownerOf(request), name)
}
