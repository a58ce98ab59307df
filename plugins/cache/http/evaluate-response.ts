import { isPromise } from '../../shared/plugin/maybe-promise.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { areSendable } from '../../shared/http/sendable.js'
import { secondsOf, type Directives } from '../rfc/cache-control.js'
import { explicitLifetime, heuristicLifetime, initialAge, type FreshnessInput } from '../rfc/freshness.js'
import { effectiveDirectives, excludedFields, isStorableWithoutFreshness, whyNotStorable } from '../rfc/storable.js'
import { freshenedHeaders, joined, storedHeaders, type Headers } from '../rfc/stored-headers.js'
import { normalizeSelecting, parseVary } from '../rfc/vary.js'
import { hasSession, hasUser } from './request-key.js'
import type { Filling, RequestCache } from './request-state.js'
import type { ResponseMeta, StoredResponse } from './stored-response.js'

/** A response that may be stored. */
export interface Storable {
  kind: 'store'
  meta: ResponseMeta
  deleteAt: number
  /** The request headers that distinguish variants of the response. */
  varies: string[]
}

/**
 * - `store`: the response may be stored
 * - `refuse`: it may not, for the reason `why`
 * - `await-ttl`: the route's `ttl` is async, and the response is evaluated again with its result
 */
type StorageDecision = Storable | { kind: 'refuse', why: string } | { kind: 'await-ttl', ttl: Promise<number> }

// How long a response that can be validated is stored after it became stale: as long as it was fresh, within these
// bounds.
const MIN_STALE_MS = 60_000
const MAX_STALE_MS = 24 * 3600 * 1000

const refuse = (why: string): StorageDecision => ({ kind: 'refuse', why })

/**
 * Decides whether a response may be stored, and until when it may be used.
 *
 * @param respondedAt - by the store's clock
 */
export function evaluateResponse (state: RequestCache, filling: Filling, respondedAt: number): StorageDecision {
  const { request, reply, route } = state
  const headers = reply.getHeaders()
  if (isEndless(joined(headers['content-type']))) return refuse('endless')
  // RFC 9213 §2.2
  const { directives, isTargeted } = effectiveDirectives(joined(headers['cache-control']),
    route.targeted.map(name => joined(headers[name])))
  if (directives === undefined) return refuse('malformed cache-control')
  const vary = parseVary(joined(headers['vary']))
  // RFC 9111 §3
  const why = whyNotStorable({
    method: request.method,
    status: reply.statusCode,
    directives,
    hasTtl: route.ttl !== undefined,
    statuses: route.statuses,
    hasAuthorization: state.hasAuthorization && !route.public,
    hasUser: hasUser(request) && !route.public,
    hasOwner: state.hasOwner,
    hasSetCookie: headers['set-cookie'] !== undefined,
    storesSetCookie: route.storeSetCookie,
    hasSession: hasSession(request) && !route.public,
    variesByEverything: vary === '*'
  })
  if (why !== undefined || vary === '*') return refuse(why ?? 'vary')
  // Node.js would refuse to send the headers, with each hit.
  if (!areSendable(headers)) return refuse('headers')
  const input = freshnessInput(headers, directives, isTargeted, reply.statusCode, filling, respondedAt)
  const stored = storedHeaders(headers, filling.headersBefore, excludedFields(directives))
  return evaluateFreshness(state, filling, input, stored, vary.filter(name => !route.vary.includes(name)))
}

/**
 * Evaluates the stored response that a 304 confirms, with the headers of the 304. A response that may no longer be
 * stored is refused.
 *
 * @see RFC 9111 §4.3.4 and §3.2
 */
export function freshen (
  state: RequestCache, filling: Filling, stored: StoredResponse, respondedAt: number
): StorageDecision {
  const { request, reply, route, hasOwner } = state
  const confirmed = storedHeaders(reply.getHeaders(), filling.headersBefore, route.storeSetCookie ? [] : ['set-cookie'])
  // Fastify sets this type on an empty text. It is not that of the stored body.
  if (confirmed['content-type'] === 'text/plain; charset=utf-8') delete confirmed['content-type']
  const merged = freshenedHeaders(stored.meta.headers, confirmed)
  const { directives, isTargeted } = effectiveDirectives(joined(merged['cache-control']),
    route.targeted.map(name => joined(merged[name])))
  if (directives === undefined || (directives.has('no-store') && !directives.has('must-understand'))) {
    return refuse('no-store')
  }
  if (directives.get('private') === true && !hasOwner) return refuse('private')
  if (hasSession(request) && !hasOwner && !route.public) return refuse('session')
  if (parseVary(joined(merged['vary'])) === '*') return refuse('vary')
  if (!areSendable(merged)) return refuse('headers')
  for (const name of excludedFields(directives)) Reflect.deleteProperty(merged, name)
  const input = freshnessInput(merged, directives, isTargeted, stored.meta.status, filling, respondedAt)
  // The age of the response is that of its confirmation.
  const ageInput = { ...input, date: joined(confirmed['date']), age: joined(reply.getHeaders()['age']) }
  return evaluateFreshness(state, filling, ageInput, merged, Object.keys(stored.meta.vary))
}

/** Whether a body of the type continues until its client leaves: events, or the pictures of a camera. */
function isEndless (contentType: string | undefined): boolean {
  return contentType !== undefined && /^(?:text\/event-stream|multipart\/x-mixed-replace)\b/i.test(contentType)
}

function freshnessInput (
  headers: Record<string, unknown>, directives: Directives, isTargeted: boolean, status: number,
  { requestedAt }: Filling, respondedAt: number
): FreshnessInput {
  return {
    directives,
    // A targeted field takes precedence over `Expires` too (RFC 9213 §2.2).
    expires: isTargeted ? undefined : joined(headers['expires']),
    date: joined(headers['date']),
    age: joined(headers['age']),
    lastModified: joined(headers['last-modified']),
    status,
    requestedAt,
    respondedAt
  }
}

/** Computes until when a response may be used. Times begin when the fill began: before the handler ran. */
function evaluateFreshness (
  { request, reply, route }: RequestCache, filling: Filling, input: FreshnessInput, headers: Headers, varies: string[]
): StorageDecision {
  const { directives, status } = input
  const ttl = filling.ttl ?? route.ttl?.(request, reply)
  if (isPromise(ttl)) return { kind: 'await-ttl', ttl }
  if (ttl === 0) return refuse('ttl 0')
  if (Number.isNaN(ttl)) return refuse('invalid ttl')
  // RFC 9111 §4.2.1, §4.2.2
  const lifetime = ttl ?? explicitLifetime(input) ??
    (route.heuristic > 0 ? heuristicLifetime(input, route.heuristic) : undefined)
  if (lifetime === undefined && !isStorableWithoutFreshness(directives, status)) return refuse('no freshness')
  // RFC 9111 §4.2.3
  const age = ttl === undefined ? initialAge(input) : 0
  const noCache = directives.get('no-cache') === true
  const freshFor = noCache ? 0 : Math.max(0, (lifetime ?? 0) * (1 - route.jitter * Math.random()) - age)
  // RFC 5861 §3, §4
  const staleWhileRevalidate = millisecondsOf(directives, 'stale-while-revalidate') ?? route.staleWhileRevalidate
  const staleIfError = millisecondsOf(directives, 'stale-if-error') ?? route.staleIfError
  const canBeValidated = headers['etag'] !== undefined || headers['last-modified'] !== undefined
  const validatableFor = canBeValidated ? Math.min(Math.max(freshFor, MIN_STALE_MS), MAX_STALE_MS) : 0
  const staleFor = Math.max(staleWhileRevalidate, staleIfError, validatableFor)
  if (freshFor + staleFor <= 0) return refuse('not fresh')
  headers['date'] ??= new Date(input.respondedAt).toUTCString()
  const storedAt = filling.fill.startedAt
  const staleAt = storedAt + freshFor
  const meta: ResponseMeta = {
    status,
    headers,
    vary: Object.fromEntries(varies.map(name => [name, normalizeSelecting(name, request.headers[name])])),
    generatedAt: storedAt - age,
    staleAt,
    revalidateUntil: staleAt + staleWhileRevalidate,
    serveOnErrorUntil: staleAt + staleIfError,
    mustRevalidate: ['must-revalidate', 'proxy-revalidate', 's-maxage'].some(name => directives.has(name)),
    noCache
  }
  return { kind: 'store', meta, deleteAt: staleAt + staleFor, varies }
}

function millisecondsOf (directives: Directives, name: string): Milliseconds | undefined {
  const seconds = secondsOf(directives, name)
  return seconds === undefined || seconds === 'invalid' ? undefined : seconds * 1000
}
