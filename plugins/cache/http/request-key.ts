import { isDeepStrictEqual } from 'node:util'
import type { FastifyRequest } from 'fastify'
import { requestDirectives } from '../rfc/stored-headers.js'
import type { CacheKey } from '../store/cache-key.js'
import { parameterName, responseKey } from './response-key.js'
import type { RequestCache } from './request-state.js'
import type { ResolvedRouteCache } from './route-options.js'
import { selectingValue } from '../rfc/vary.js'

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
  if (route.ownerOf !== undefined && !hasOwner) return 'no owner'
  if (route.obeysRequest && requestDirectives(headers)?.has('no-store')) return 'no-store'
  if (hasOwner || route.isPublic) return undefined
  // By RFC 9111 §3.5 the answer says whether it may be shared; a route's own ttl says nothing of who is asking.
  if ((hasAuthorization || hasUser(request)) && route.ttlOf !== undefined) return hasAuthorization ? 'authorization' : 'user'
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
    host: route.keysHost ? hostOf(request) : undefined,
    path,
    original: originalOf(request),
    query: route.keysParameter === undefined ? query : keptQuery(request, query, route.keysParameter),
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
