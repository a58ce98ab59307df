import type { Reader } from '../../../shared/http/read-recorder.js'
import { joined, type Headers } from '../../rfc/stored-headers.js'
import { COOKIE, cookieOf, parseVary } from '../../rfc/vary.js'
import { isVariants } from '../../store/entry.js'
import { UNWATCHED } from '../request-key.js'
import type { RequestCache } from '../request-state.js'
import { ALL_HEADERS, ENCODING, FORWARDED_HOST } from './request-reads.js'
import { ownHeaders } from './watch-request.js'

/**
 * - `dependent`: the response depends on `names`, which the key does not hold, and must not be shared
 * - `shareable`: the response is right for requests that carry none of the names in `absent`
 */
type JudgedReads = { kind: 'dependent', why: string, names: string[] } | { kind: 'shareable', absent: string[] }

/**
 * Whether a response may depend on something that this client alone sent. Then it says nothing about the stored
 * response, which other clients share.
 */
export function isOfTheClient (state: RequestCache): boolean {
  const { reads, route, phase, hasOwner } = state
  if (reads === undefined || reads.isEmpty || route.unkeyed !== 'bypass' || hasOwner) return false
  const entry = phase.kind === 'filling' || phase.kind === 'passing' ? phase.found.base.entry : undefined
  const varies = isVariants(entry) ? entry.meta.names : []
  // Each request has an address and a socket: they do not distinguish it from that of the stored response.
  return unkeyedOf(reads.present, state, varies)
    .some(name => !name.startsWith('request.') && !name.startsWith('reply.'))
}

const HOST_NAMES = new Set(['host', ':authority', 'x-forwarded-host', 'request.protocol', 'x-forwarded-proto',
  FORWARDED_HOST])

/**
 * Returns the names that were read and that neither the key nor `Vary` nor the owner holds. A response that depends on
 * one of them may be another client's.
 *
 * @param varies - the names in `Vary`
 */
function unkeyedOf (
  names: ReadonlyArray<readonly [string, Reader]>, state: RequestCache, varies: readonly string[], isPresent = true
): string[] {
  return names.filter(([name, reader]) => !isKeyed(name, reader, state, varies, isPresent)).map(([name]) => name)
}

function isKeyed (
  name: string, reader: Reader, { route, reads, hasOwner }: RequestCache, varies: readonly string[], isPresent: boolean
): boolean {
  // A rule of its own decides whether a response to an authorized request is shared (RFC 9111 §3.5).
  if (name === 'authorization' && (isPresent || hasOwner || route.public)) return true
  const isInKey = (each: string): boolean => varies.includes(each) || route.vary.includes(each)
  if (isInKey(name) || (route.key.host && HOST_NAMES.has(name))) return true
  const isCookie = name === 'cookie' || name.startsWith(COOKIE)
  if (isCookie && (route.public || isInKey('cookie'))) return true
  if (!hasOwner) return false
  // Hooks and `private` read cookies to find the owner. Another cookie that the handler reads reveals more than the
  // owner.
  return reads?.isOfOwner(name) === true || (isCookie && (reader === 'hooks' || reads?.isOfOwner('cookie') === true))
}

/**
 * Whether a stored response is right for a request, by what hooks have read of it, and by the names that were not found
 * when the response was generated.
 *
 * @param absent - of the stored response
 * @param varies - the names in `Vary` of the stored response
 */
export function isRightByReads (
  state: RequestCache, absent: readonly string[] | undefined, varies: readonly string[]
): boolean {
  const { reads, route } = state
  if (route.unkeyed === 'bypass' && reads?.isEmpty === false && unkeyedOf(reads.present, state, varies).length > 0) {
    return false
  }
  return absent === undefined || absent.every(name => !carries(state, name))
}

/** Judges what was read while a response was generated, and logs each name that the key does not hold. */
export function judgeReads (state: RequestCache, varies: readonly string[]): JudgedReads {
  const { reads, reply, route } = state
  if (reads === undefined) return { kind: 'shareable', absent: [] }
  const names = unkeyedOf(reads.present, state, varies)
  // Without an encoding a response is right for all clients.
  if (reads.hasReadEncoding && reply.hasHeader('content-encoding')) {
    names.push(...unkeyedOf([[ENCODING, 'handler']], state, varies))
  }
  for (const name of loggedNames(names)) warnOnce(state, name)
  if (route.unkeyed === 'warn') return { kind: 'shareable', absent: [] }
  if (names.length > 0) return { kind: 'dependent', why: `reads ${names.join(', ')}`, names }
  return { kind: 'shareable', absent: unkeyedOf(reads.absent, state, varies, false) }
}

/** Parts of the URL, which every cache has in its key (RFC 9111 §2). */
const URL_NAMES = new Set(['host', ':authority', 'request.protocol'])

/**
 * Whether a response may depend on more than a shared cache in front of this one expects, by what hooks and the handler
 * have read.
 */
export function isPersonal (state: RequestCache): boolean {
  const { reads, reply, route, phase } = state
  if (reads === undefined || route.unkeyed !== 'bypass') return false
  if (phase.kind === 'passing' && phase.dependsOn?.some(name => !URL_NAMES.has(name))) return true
  if (reads.isEmpty) return false
  const vary = parseVary(joined(reply.getHeader('vary')))
  return unkeyedOf(reads.present, state, vary === '*' ? [] : vary).some(name => !URL_NAMES.has(name))
}

/** Returns one name for all headers or cookies, where all are read: their names are the client's choice. */
function loggedNames (names: string[]): string[] {
  if (names.includes(ALL_HEADERS)) return [ALL_HEADERS]
  return names.includes('cookie') ? names.filter(name => !name.startsWith(COOKIE)) : names
}

/** Whether a request has something of the name. */
export function carries ({ request, reads }: RequestCache, name: string): boolean {
  const headers = ownHeaders(request)
  if (name === ALL_HEADERS || name.startsWith('request.') || name.startsWith('reply.')) return true
  if (name.startsWith('query:')) return reads?.present.some(([present]) => present === name) ?? false
  if (!name.startsWith(COOKIE)) return headers[name] !== undefined
  return cookieOf(headers.cookie, name.slice(COOKIE.length)) !== undefined
}

/** How many names of a route are logged: clients may choose the names that a handler reads. */
const MAX_WARNINGS = 100

/** Logs once a route and name. */
export function warnOnce ({ request, route: { unkeyed, warned } }: RequestCache, name: string): void {
  if (warned.size >= MAX_WARNINGS || warned.has(name)) return
  warned.add(name)
  const { url } = request.routeOptions
  const [what, todo] = describe(name)
  const effect = unkeyed === 'bypass' ? 'its response is not stored' : 'its response may be given to another client'
  request.log.warn({ plugin: 'cache', route: url, header: name },
    `cache: route ${url} reads ${what}: ${effect}; ${todo}`)
}

/**
 * Warns of a response with a token of its own: it is never stored, for this or another reason, which may be unknown to
 * the app.
 */
export function warnOfTokens (state: RequestCache): void {
  if (state.reads === undefined || state.reads.isEmpty) return
  for (const [name] of state.reads.present) if (name.startsWith('reply.')) warnOnce(state, name)
}

function describe (name: string): [what: string, todo: string] {
  const list = `or list "${name}" in harmless if the response does not depend on it`
  if (name === UNWATCHED) {
    return ['the request in hooks that cannot be watched, as another plugin has replaced its childLoggerFactory',
      'register that plugin before the cache']
  }
  if (name === 'nonce') {
    return ['a nonce that was made for one response', 'set cache: false on the route, or allow scripts by their hash']
  }
  if (name.startsWith('reply.')) {
    return [`${name}, which is made for one response`,
      'set cache: false on the route, or make the value in a request of its own']
  }
  if (name === ALL_HEADERS) {
    return ['all headers at once',
      'read the headers that it needs by their names, log a request as { req: request }, ' +
      'or set unkeyed: false if the response depends on none']
  }
  if (HOST_NAMES.has(name)) return [`"${name}", which is not in the key`, `set key: { host: true }, ${list}`]
  if (name.startsWith('cookie')) {
    return [`"${name}", which neither the key nor Vary nor an owner holds`,
      `return an owner from private, name it in key.cookies, ${list}`]
  }
  if (name.startsWith('query:')) {
    return [`"${name}" in a hook, which the key leaves out`, `make it a part of the key, ${list}`]
  }
  if (name.startsWith('request.')) {
    return [`"${name}", which is not in the key`, `return an owner from private, ${list}`]
  }
  return [`the header "${name}", which neither the key nor Vary nor an owner holds`,
    `add it to vary, return an owner from private, ${list}`]
}

const CSP_FIELDS = ['content-security-policy', 'content-security-policy-report-only']
const NONCE = /'nonce-([^']+)'/g

/**
 * Whether a response holds a nonce of its own (CSP Level 3 §2.3.1), which is worthless or harmful in another response:
 * a nonce in a header that is to be stored, or in the body one that a header of this response names.
 *
 * @param headers - of the response
 * @param stored - those headers that are to be stored
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
  return CSP_FIELDS.flatMap(name => [...(joined(headers[name]) ?? '').matchAll(NONCE)].map(([, nonce = '']) => nonce))
}
