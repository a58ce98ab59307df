import { isDeepStrictEqual } from 'node:util'
import type { FastifyRequest } from 'fastify'
import { describe } from '../../shared/plugin/errors.js'
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

/**
 * Why a request is neither answered out of the cache nor its answer stored.
 *
 * @returns undefined where it may be
 */
export function whyBypassed (request: FastifyRequest, { route, hasOwner, hasAuthorization }: RequestCache): string | undefined {
  const { method, headers } = request
  if (!route.stores || !isLookedUp(method)) return 'method'
  if (headers.upgrade !== undefined && isUpgraded(request)) return 'upgrade'
  if (headers['content-length'] !== undefined || headers['transfer-encoding'] !== undefined || hasFrames(request)) return 'body'
  if (route.private !== undefined && !hasOwner) return 'no owner'
  if (route.requestDirectives === 'obey' && requestDirectives(headers)?.has('no-store')) return 'no-store'
  if (hasOwner || route.public) return undefined
  // By RFC 9111 §3.5 the answer says whether it may be shared; a route's own ttl says nothing of who is asking.
  if ((hasAuthorization || hasUser(request)) && route.ttl !== undefined) return hasAuthorization ? 'authorization' : 'user'
  return hasSession(request) ? 'session' : undefined
}

/**
 * Whether the connection was handed over, as to a websocket. A server that does not take it over ignores the header (RFC 9110 §7.8), so that
 * no client can bypass the cache by it.
 */
function isUpgraded ({ raw }: FastifyRequest): boolean {
  // Node.js decides it; a request that was made by hand says nothing of it.
  return (Reflect.get(raw, 'upgrade') ?? true) === true
}

/** HTTP/2 needs no header for a body. */
function hasFrames ({ raw }: FastifyRequest): boolean {
  return raw.httpVersionMajor >= 2 && 'stream' in raw && (raw.stream as { endAfterHeaders?: boolean }).endAfterHeaders === false
}

/** Whether `request.user` is set. Login packages set it to the user, so it counts like `Authorization`. */
export function hasUser (request: FastifyRequest): boolean {
  return Boolean(Reflect.get(request, 'user'))
}

/** Any session plugin's: one that holds something makes the answer somebody's. */
export function hasSession (request: FastifyRequest): boolean {
  const session: unknown = Reflect.get(request, 'session')
  if (typeof session !== 'object' || session === null) return false
  // `@fastify/secure-session` gives each visitor an object, and what it holds by a function.
  const contents: unknown = 'data' in session && typeof session.data === 'function' ? session.data() : session
  return Object.keys(contents ?? {}).some(name => name !== 'cookie')
}

/** The key under which the response to a request is stored. */
export function keyOf (request: FastifyRequest, route: ResolvedRouteCache, owner: string | undefined, constraints: string): CacheKey {
  const [path, query] = splitUrl(request.url)
  return responseKey({
    host: route.key.host ? hostOf(request) : undefined,
    path,
    original: originalOf(request),
    query: route.key.query === undefined ? query : keptQuery(request, query, route.key.query),
    constraints,
    vary: route.vary.map(name => [name, selectingValue(name, request.headers)] as const),
    owner
  }, route.counts)
}

/** The host by all its names: the handler may read one that `request.host` and `request.protocol` do not go by. */
function hostOf (request: FastifyRequest): string {
  const { host, protocol, headers } = request
  // No field has a line break.
  return [`${protocol}://${host}`, headers.host, headers[':authority'], headers['x-forwarded-host'], headers['x-forwarded-proto']].join('\n')
}

/** The handler may know what `rewriteUrl` cut out of a URL, such as a language. */
function originalOf (request: FastifyRequest): [path: string, query: string] | undefined {
  if (Reflect.get(request.raw, 'originalUrl') === undefined || request.originalUrl === request.url) return undefined
  return splitUrl(request.originalUrl)
}

/** Parameters that are not in the key do not reach the handler: what is stored for all cannot depend on them. */
export function stripQuery (request: FastifyRequest, isKept: (name: string) => boolean): void {
  const { query, url, originalUrl } = request
  const [path, text] = splitUrl(url)
  const kept = keptQuery(request, text, isKept)
  if (kept !== text) {
    const stripped = withQuery(path, kept)
    request.raw.url = stripped
    // It is remembered by who asks for it, and differs where URLs are rewritten.
    const [originalPath, originalText] = splitUrl(originalUrl)
    const original = originalUrl === url ? stripped : withQuery(originalPath, keptQuery(request, originalText, isKept))
    Object.defineProperty(request, 'originalUrl', { value: original, configurable: true })
    // HTTP/2 has it among the headers too.
    if (request.headers[':path'] !== undefined) request.headers[':path'] = original
  } else if (parserOf(request) !== undefined) {
    return
  }
  // Also what the text does not show: a fragment is read as a query.
  if (typeof query !== 'object' || query === null) return
  for (const name of Object.keys(query)) if (!isKept(name)) Reflect.deleteProperty(query, name)
}

export function splitUrl (url: string): [path: string, query: string] {
  const at = url.indexOf('?')
  return at === -1 ? [url, ''] : [url.slice(0, at), url.slice(at + 1)]
}

function withQuery (path: string, query: string): string {
  return query === '' ? path : `${path}?${query}`
}

/** Without the parameters that are not kept; whole where a parser of the app's own reads it in such a way that they change what is. */
function keptQuery (request: FastifyRequest, query: string, isKept: (name: string) => boolean): string {
  const kept = query.split('&').filter(pair => {
    const name = parameterName(pair)
    // To some parsers `a[b]` is a part of `a`.
    return isKept(name) || isKept(name.split('[', 1)[0] ?? '')
  }).join('&')
  const parse = kept === query ? undefined : parserOf(request)
  if (parse === undefined) return kept
  const expected = Object.fromEntries(Object.entries(parse(query)).filter(([name]) => isKept(name)))
  return isDeepStrictEqual({ ...parse(kept) }, expected) ? kept : query
}

function parserOf ({ server }: FastifyRequest): ((text: string) => Record<string, unknown>) | undefined {
  const { routerOptions } = server.initialConfig as { routerOptions?: { querystringParser?: (text: string) => Record<string, unknown> } }
  return routerOptions?.querystringParser
}

export interface ResponseKeyParts {
  /** Undefined where all hosts have the same answers. */
  host: string | undefined
  /** As it was asked for, without the query. */
  path: string
  query: string
  /** Path and query before `rewriteUrl`; undefined where it has changed nothing. */
  original?: readonly [path: string, query: string] | undefined
  /** Which of several routes of one path it is. */
  constraints: string
  /** Names and values of the headers that the route varies by. */
  vary: ReadonlyArray<readonly [name: string, value: string]>
  /** Whose answer it is; undefined: everybody's. */
  owner: string | undefined
}

/** Two requests share a key only if all parts are the same; the order of different names in a query is none. */
export function responseKey (parts: ResponseKeyParts, counts?: StatsCounter): CacheKey {
  const { path } = parts
  const query = sortQuery(parts.query)
  return new CacheKey(textOf(parts, query), query === '' ? path : `${path}?${query}`, counts)
}

/** @param query - sorted */
function textOf ({ host, path, original, constraints, vary, owner }: ResponseKeyParts, query: string): string {
  // The same text as below, of which most requests need little: in half the time.
  if (host === undefined && owner === undefined && vary.length === 0 && constraints === '' && original === undefined) {
    return `["response",null,${JSON.stringify(path)},${JSON.stringify(query)},"",[],null]`
  }
  const parts: unknown[] = ['response', host ?? null, path, query, constraints, vary, owner ?? null]
  if (original !== undefined) parts.push(original[0], sortQuery(original[1]))
  return JSON.stringify(parts)
}

/** Sorted by name as it is read, however it is spelt: equal names, and those that a parser may nest in one, keep their order. */
function sortQuery (query: string): string {
  if (!query.includes('&')) return query
  const nameOf = (pair: string) => parameterName(pair).split('[', 1)[0] ?? ''
  return query.split('&').map(pair => [nameOf(pair), pair] as const).sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0).map(([, pair]) => pair).join('&')
}

/** The name of a pair as the router's own parser reads it. */
export function parameterName (pair: string): string {
  const name = (pair.split('=', 1)[0] ?? '').replaceAll('+', ' ')
  try {
    return decodeURIComponent(name)
  } catch {
    return name
  }
}

/** Of one of several answers that a key has, by the request's headers. */
export function variantKey (key: CacheKey, { names, nonce }: VariantsMeta, headers: Record<string, string | string[] | undefined>): CacheKey {
  return new CacheKey(JSON.stringify(['variant', key.id, nonce, names.map(name => normalizeSelecting(name, headers[name]))]), key.label, key.counts)
}

/** The id of a response's owner. A promise is awaited; the last five mean that there is no owner. */
export type OwnerId = string | number | bigint | null | undefined | false

const ALLOWED = 'a string, a finite number or a bigint, such as request.session.userId; a whole number above 2^53 as a string or a bigint; undefined or null for no owner'

/**
 * Returns a function that names the owner of a request's response, or undefined where there is none.
 *
 * A string and a number are different owners, as one may come from the client and the other from a database.
 *
 * @param where - the route, for the error
 * @throws `FST_REDIS_SUITE_CACHE_INVALID_VALUE` for a value that could stand for several owners, such as an object
 */
export function createOwnerOf (ownerOf: (request: FastifyRequest) => MaybePromise<OwnerId>, where: string): (request: FastifyRequest) => MaybePromise<string | undefined> {
  const name = (id: unknown): string | undefined => {
    if (isNoId(id)) return undefined
    if (typeof id === 'string') return id.startsWith('\0') ? `\0=${id}` : id
    // No string owner is named like this.
    if (isNumericId(id)) return `\0${id}`
    throw new InvalidValueError(`config.cache.private of ${where}`, describe(id), ALLOWED)
  }
  return request => whenReady<OwnerId, string | undefined>(ownerOf(request), name)
}
