import type { FastifyReply, FastifyRequest } from 'fastify'
import { isPromise } from '../../shared/plugin/maybe-promise.js'
import { areSendable } from '../../shared/http/sendable.js'
import { secondsOf, type Directives } from '../rfc/cache-control.js'
import type { ResponseMeta, StoredResponse } from './stored-response.js'
import { explicitLifetime, heuristicLifetime, initialAge, type FreshnessInput } from '../rfc/freshness.js'
import { freshenedHeaders, joined, storedHeaders, type Headers } from '../rfc/stored-headers.js'
import { hasSession, hasUser } from './request-key.js'
import type { RequestCache } from './request-state.js'
import { effectiveDirectives, excludedFields, mayBeKeptUnasked, whyNotStorable } from '../rfc/storable.js'
import { normalizeSelecting, parseVary } from '../rfc/vary.js'

/** The metadata to store with a response; or why it is not stored. With `ttl`, the route's `ttl` is async, and the response is judged again with its result. */
export type StorageDecision = Storable | { why: string, ttl?: Promise<number> }

export interface Storable {
  meta: ResponseMeta
  life: number
  /** The request headers that tell its variants apart. */
  varies: string[]
}

// What can be validated is kept for as long again as it was fresh, within these.
const MIN_STORED_MS = 60_000
const MAX_STORED_MS = 24 * 3600 * 1000

/** Decides whether an answer may be stored, and how it may be used then. */
export function evaluateResponse (request: FastifyRequest, reply: FastifyReply, state: RequestCache, respondedAt: number): StorageDecision {
  const headers = reply.getHeaders()
  const { route } = state
  if (isEndless(joined(headers['content-type']))) return { why: 'endless' }
  const { directives, isTargeted } = effectiveDirectives(joined(headers['cache-control']), route.targeted.map(name => joined(headers[name])))
  if (directives === undefined) return { why: 'malformed cache-control' }
  const vary = parseVary(joined(headers['vary']))
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
  if (why !== undefined || vary === '*') return { why: why ?? 'vary' }
  // The client gets an error in its place, and so would each hit.
  if (!areSendable(headers)) return { why: 'headers' }

  const input = freshnessInput(headers, directives, isTargeted, reply.statusCode, state, respondedAt)
  const kept = storedHeaders(headers, state.before, excludedFields(directives))
  const varies = vary.filter(name => !route.vary.includes(name))
  return evaluateFreshness(request, reply, state, input, kept, varies)
}

/** Whether a body of such a type goes on until its client leaves: events, or the pictures of a camera. */
function isEndless (contentType: string | undefined): boolean {
  return /^(?:text\/event-stream|multipart\/x-mixed-replace)\b/i.test(contentType ?? '')
}

function freshnessInput (
  headers: Record<string, unknown>, directives: Directives, isTargeted: boolean, status: number, { requestedAt }: RequestCache, respondedAt: number
): FreshnessInput {
  return {
    directives,
    // A targeted field counts above this one too (RFC 9213 §2.2).
    expires: isTargeted ? undefined : joined(headers['expires']),
    date: joined(headers['date']),
    age: joined(headers['age']),
    lastModified: joined(headers['last-modified']),
    status,
    requestedAt,
    respondedAt
  }
}

function evaluateFreshness (
  request: FastifyRequest, reply: FastifyReply, { route, saidTtl }: RequestCache, input: FreshnessInput, headers: Headers, varies: string[]
): StorageDecision {
  const { directives, status } = input
  const ttl = saidTtl ?? route.ttl?.(request, reply)
  if (isPromise(ttl)) return { why: 'ttl', ttl }
  if (ttl === 0) return { why: 'ttl 0' }
  if (Number.isNaN(ttl)) return { why: 'invalid ttl' }
  const said = ttl ?? explicitLifetime(input) ?? (route.heuristic > 0 ? heuristicLifetime(input, route.heuristic) : undefined)
  if (said === undefined && !mayBeKeptUnasked(directives, status)) return { why: 'no freshness' }
  const age = ttl === undefined ? initialAge(input) : 0
  const lifetime = (said ?? 0) * (1 - route.jitter * Math.random())
  const validateAlways = directives.get('no-cache') === true
  const fresh = validateAlways ? 0 : Math.max(0, lifetime - age)
  const grace = {
    staleWhileRevalidate: millisecondsOf(directives, 'stale-while-revalidate') ?? route.staleWhileRevalidate,
    staleIfError: millisecondsOf(directives, 'stale-if-error') ?? route.staleIfError
  }
  const canBeValidated = headers['etag'] !== undefined || headers['last-modified'] !== undefined
  const kept = canBeValidated ? Math.min(Math.max(fresh, MIN_STORED_MS), MAX_STORED_MS) : 0
  const life = fresh + Math.max(grace.staleWhileRevalidate, grace.staleIfError, kept)
  if (life <= 0) return { why: 'not fresh' }
  const strict = ['must-revalidate', 'proxy-revalidate', 's-maxage'].some(name => directives.has(name))
  const vary = Object.fromEntries(varies.map(name => [name, normalizeSelecting(name, request.headers[name])]))
  headers['date'] ??= new Date(input.respondedAt).toUTCString()
  return { meta: { status, headers, vary, age, fresh, strict, validateAlways, ...grace }, life, varies }
}

function millisecondsOf (directives: Directives, name: string): number | undefined {
  const seconds = secondsOf(directives, name)
  return seconds === undefined || seconds === 'invalid' ? undefined : seconds * 1000
}

/** What a 304 confirms (RFC 9111 §4.3.4): the stored answer with the new headers; undefined where it may not be kept any longer. */
export function freshen (request: FastifyRequest, reply: FastifyReply, state: RequestCache, stored: StoredResponse, respondedAt: number): StorageDecision {
  const { headers: present } = stored.meta
  // Judged as the answer that it makes: status and headers are those of what is stored, where the 304 says nothing else.
  const confirmed = storedHeaders(reply.getHeaders(), state.before, state.route.storeSetCookie ? [] : ['set-cookie'])
  // Fastify's own word on an empty text, and not on what is stored.
  if (confirmed['content-type'] === 'text/plain; charset=utf-8') delete confirmed['content-type']
  const merged = freshenedHeaders(present, confirmed)
  const { directives, isTargeted } = effectiveDirectives(joined(merged['cache-control']), state.route.targeted.map(name => joined(merged[name])))
  if (directives === undefined || (directives.has('no-store') && !directives.has('must-understand'))) return { why: 'no-store' }
  if (directives.get('private') === true && !state.hasOwner) return { why: 'private' }
  if (hasSession(request) && !state.hasOwner && !state.route.public) return { why: 'session' }
  if (parseVary(joined(merged['vary'])) === '*') return { why: 'vary' }
  if (!areSendable(merged)) return { why: 'headers' }
  for (const name of excludedFields(directives)) Reflect.deleteProperty(merged, name)
  const input = freshnessInput(merged, directives, isTargeted, stored.meta.status, state, respondedAt)
  // Its age is that of the confirmation.
  return evaluateFreshness(request, reply, state, { ...input, date: joined(confirmed['date']), age: joined(reply.getHeaders()['age']) }, merged, Object.keys(stored.meta.vary))
}
