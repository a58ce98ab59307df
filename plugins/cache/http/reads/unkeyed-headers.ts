import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Reader } from '../../../shared/http/read-recorder.js'
import { joined, type Headers } from '../../rfc/stored-headers.js'
import { COOKIE, cookieOf, parseVary } from '../../rfc/vary.js'
import { isVariants } from '../../store/entry.js'
import type { RequestCache } from '../request-state.js'
import { ALL_HEADERS, ENCODING, FORWARDED_HOST } from './request-reads.js'
import { ownHeaders } from './watch-request.js'

/** Why a response is not stored, and the names that it depends on; or what a request must not have to be given it. */
export type JudgedReads = { why: string, names: string[] } | { absent: string[] }

/** Why a request bypasses the cache where nobody knows what its hooks have read. */
export const UNWATCHED = 'unwatched'

export function whyUnwatched ({ route, reads }: RequestCache): string | undefined {
  return route.unkeyed === 'bypass' && reads === undefined ? UNWATCHED : undefined
}

/**
 * Whether a response may depend on something that this client sent and that the stored response does not hold: then it says
 * nothing about the stored one, which others share.
 */
export function isOfTheClient (state: RequestCache): boolean {
  const { reads, route, base, hasOwner } = state
  if (reads === undefined || reads.isEmpty || route.unkeyed !== 'bypass' || hasOwner) return false
  const varies = isVariants(base?.entry) ? base.entry.meta.names : []
  // Each request has an address and a socket: they make no request another one than that of the stored response.
  return unheld(reads.present, state, varies).some(name => !name.startsWith('request.') && !name.startsWith('reply.'))
}

const OF_HOST = new Set(['host', ':authority', 'x-forwarded-host', 'request.protocol', 'x-forwarded-proto', FORWARDED_HOST])

/**
 * Names that were read, and that neither the key nor `Vary` nor the owner holds: a response that depends on one of them may be
 * another client's.
 *
 * @param varies - the names in `Vary`
 */
function unheld (names: ReadonlyArray<readonly [string, Reader]>, state: RequestCache, varies: readonly string[], isPresent = true): string[] {
  return names.filter(([name, reader]) => !isHeld(name, reader, state, varies, isPresent)).map(([name]) => name)
}

function isHeld (name: string, reader: Reader, { route, reads, hasOwner }: RequestCache, varies: readonly string[], isPresent: boolean): boolean {
  // Whether its response is shared, its own rule has decided (RFC 9111 §3.5).
  if (name === 'authorization' && (isPresent || hasOwner || route.public)) return true
  const isKeyed = (each: string): boolean => varies.includes(each) || route.vary.includes(each)
  if (isKeyed(name) || (route.key.host && OF_HOST.has(name))) return true
  const isCookie = name === 'cookie' || name.startsWith(COOKIE)
  if (isCookie && (route.public || isKeyed('cookie'))) return true
  if (!hasOwner) return false
  // Hooks and `private` read cookies to find the owner; another one that the handler reads says more than who it is.
  return reads?.isOfOwner(name) === true || (isCookie && (reader === 'hooks' || reads?.isOfOwner('cookie') === true))
}

/**
 * Whether a stored response is right for a request, by what hooks have read of it, and by what was looked for in vain when the response was made.
 *
 * @param absent - names of the stored response
 * @param varies - its names in `Vary`
 */
export function isRightByReads (request: FastifyRequest, state: RequestCache, absent: readonly string[] | undefined, varies: readonly string[]): boolean {
  const { reads, route } = state
  if (route.unkeyed === 'bypass' && reads?.isEmpty === false && unheld(reads.present, state, varies).length > 0) return false
  return absent === undefined || absent.every(name => !carries(request, state, name))
}

/** Judges what was read while a response was made. */
export function judgeReads (request: FastifyRequest, reply: FastifyReply, state: RequestCache, varies: readonly string[]): JudgedReads {
  const { reads, route } = state
  if (reads === undefined) return { absent: [] }
  const names = unheld(reads.present, state, varies)
  // Without an encoding it is right for all.
  if (reads.hasReadEncoding && reply.hasHeader('content-encoding')) names.push(...unheld([[ENCODING, 'handler']], state, varies))
  for (const name of toldOf(names)) warnOnce(request, state, name)
  if (route.unkeyed === 'warn') return { absent: [] }
  return names.length > 0 ? { why: `reads ${names.join(', ')}`, names } : { absent: unheld(reads.absent, state, varies, false) }
}

// Every cache has these in its key, as parts of the URL (RFC 9111 §2).
const OF_URL = new Set(['host', ':authority', 'request.protocol'])

/** Whether what hooks and the handler have read by now may make the response another one than a shared cache expects for its URL. */
export function isPersonal (reply: FastifyReply, state: RequestCache): boolean {
  const { reads, route, passesFor } = state
  if (reads === undefined || route.unkeyed !== 'bypass') return false
  if (passesFor?.some(name => !OF_URL.has(name))) return true
  if (reads.isEmpty) return false
  const vary = parseVary(joined(reply.getHeader('vary')))
  return unheld(reads.present, state, vary === '*' ? [] : vary).some(name => !OF_URL.has(name))
}

/** Where all are read, a client has chosen their names. */
function toldOf (names: string[]): string[] {
  if (names.includes(ALL_HEADERS)) return [ALL_HEADERS]
  return names.includes('cookie') ? names.filter(name => !name.startsWith(COOKIE)) : names
}

/** Whether a request has something of this name. */
export function carries (request: FastifyRequest, { reads }: RequestCache, name: string): boolean {
  const headers = ownHeaders(request)
  if (name === ALL_HEADERS || name.startsWith('request.') || name.startsWith('reply.')) return true
  if (name.startsWith('query:')) return reads?.present.some(([present]) => present === name) ?? false
  if (!name.startsWith(COOKIE)) return headers[name] !== undefined
  return cookieOf(headers.cookie, name.slice(COOKIE.length)) !== undefined
}

// A handler may read what a client made up: there is an end to what is remembered, and logged.
const MOST_WARNINGS = 100

/** Once a route and name. */
export function warnOnce (request: FastifyRequest, { route: { unkeyed, warned } }: RequestCache, name: string): void {
  if (warned.size >= MOST_WARNINGS || warned.has(name)) return
  warned.add(name)
  const { url } = request.routeOptions
  const [what, todo] = describe(name)
  const effect = unkeyed === 'bypass' ? 'its response is not stored' : 'its response may be given to another client'
  request.log.warn({ plugin: 'cache', route: url, header: name }, `cache: route ${url} reads ${what}: ${effect}; ${todo}`)
}

/** A response with a token of its own is never stored, for this or another reason, and the app may not know that. */
export function warnOfTokens (request: FastifyRequest, state: RequestCache): void {
  if (state.reads === undefined || state.reads.isEmpty) return
  for (const [name] of state.reads.present) if (name.startsWith('reply.')) warnOnce(request, state, name)
}

function describe (name: string): [what: string, todo: string] {
  const list = `or list "${name}" in harmless if the response does not depend on it`
  if (name === UNWATCHED) return ['the request in hooks that cannot be watched, as another plugin has replaced its childLoggerFactory', 'register that plugin before the cache']
  if (name === 'nonce') return ['a nonce that was made for one response', 'set cache: false on the route, or allow scripts by their hash']
  if (name.startsWith('reply.')) return [`${name}, which is made for one response`, 'set cache: false on the route, or make the value in a request of its own']
  if (name === ALL_HEADERS) return ['all headers at once', 'read the headers that it needs by their names, log a request as { req: request }, or set unkeyed: false if the response depends on none']
  if (OF_HOST.has(name)) return [`"${name}", which is not in the key`, `set key: { host: true }, ${list}`]
  if (name.startsWith('cookie')) return [`"${name}", which neither the key nor Vary nor an owner holds`, `return an owner from private, name it in key.cookies, ${list}`]
  if (name.startsWith('query:')) return [`"${name}" in a hook, which the key leaves out`, `make it a part of the key, ${list}`]
  if (name.startsWith('request.')) return [`"${name}", which is not in the key`, `return an owner from private, ${list}`]
  return [`the header "${name}", which neither the key nor Vary nor an owner holds`, `add it to vary, return an owner from private, ${list}`]
}

const FIELDS = ['content-security-policy', 'content-security-policy-report-only']

const NONCE = /'nonce-([^']+)'/g

/**
 * Whether a response holds a nonce of its own (CSP Level 3 §2.3.1), which is worthless, or harmful, in another response: one in a header that is
 * to be stored, or in the body one that a header of this response alone names.
 *
 * @param headers - of the response
 * @param stored - those of them that are to be stored
 * @param body - undefined while it is not known
 */
export function hasNonce (headers: Record<string, unknown>, stored: Headers, body: Buffer | undefined): boolean {
  const nonces = noncesOf(headers)
  if (nonces.length === 0) return false
  if (noncesOf(stored).length > 0) return true
  // An encoded body cannot be searched.
  return body !== undefined && (headers['content-encoding'] !== undefined || nonces.some(nonce => body.includes(nonce)))
}

function noncesOf (headers: Record<string, unknown>): string[] {
  return FIELDS.flatMap(name => [...(joined(headers[name]) ?? '').matchAll(NONCE)].map(([, nonce = '']) => nonce))
}
