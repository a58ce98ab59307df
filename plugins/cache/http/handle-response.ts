import { hashId } from '../../shared/plugin/keys.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { Bytes } from '../../shared/plugin/units.js'
import { matchesEtag } from '../rfc/conditional.js'
import { groupTag, parseGroups } from '../rfc/groups.js'
import { isUsableOnError } from '../rfc/reuse.js'
import { joined } from '../rfc/stored-headers.js'
import { pathOfTag } from '../store/path-tag.js'
import { MAX_ENTRY_TAGS } from '../store/tags.js'
import { capture, discard, type CapturedBody } from './body/body-capture.js'
import { decodableCoding, decode, weakenEtag, withoutEncoding } from './body/content-codings.js'
import { evaluateResponse, freshen, type Storable } from './evaluate-response.js'
import { isGone, withdrawReplaced } from './invalidation.js'
import { hasNonce, isOfTheClient, judgeReads, warnOfTokens, warnOnce } from './reads/unkeyed-headers.js'
import { ENCODING } from './reads/request-reads.js'
import { ownHeaders, readAs } from './reads/watch-request.js'
import { REFUSED } from './request-key.js'
import type { Filling, RequestCache } from './request-state.js'
import type { ResolvedRouteCache } from './route-options.js'
import { applyStored, notModified } from './send-stored.js'
import { entryOf, storeResponse, type StorableResponse } from './store-response.js'
import { timeFor, type StoredResponse } from './stored-response.js'

/**
 * Stores the response of the handler where it may be stored, and decides what is sent.
 *
 * @returns the payload to send; a promise only where the route's `ttl` is async, or a hook encoded the body
 */
export function handleResponse (state: RequestCache, payload: unknown): MaybePromise<unknown> {
  const { cache: { core }, request, reply, route, stale, phase } = state
  warnOfTokens(state)
  // RFC 9111 §4.3.3: the stored response is confirmed.
  if (phase.kind === 'filling' && phase.validated !== undefined && reply.statusCode === 304) {
    return handleNotModified(state, phase, phase.validated, payload)
  }
  // RFC 5861 §4
  if (reply.statusCode >= 500 && stale !== undefined && isUsableOnError(stale.meta, timeFor(stale, core.now()))) {
    if (phase.kind === 'filling') phase.fill.finishStale(stale)
    return replaceByStored(state, stale, payload)
  }
  if (phase.kind !== 'filling' && phase.kind !== 'passing') return payload
  if (phase.kind === 'passing') {
    // A response to HEAD shows as well that the resource is gone.
    if (isGone(reply.statusCode) && !isOfTheClient(state)) core.withdraw(phase.found.place)
    return payload
  }
  const status = reply.statusCode
  if (state.hasFailed && !isListedError(status, route)) return refuse(state, phase, 'error', status, payload)
  if (state.isRefused) return refuse(state, phase, REFUSED, status, payload)
  const decision = evaluateResponse(state, phase, core.now())
  if (decision.kind === 'await-ttl') return handleWithTtl(state, phase, decision.ttl, payload)
  // RFC 9875 §2
  state.extraTags.push(...parseGroups(joined(reply.getHeader('cache-groups'))).map(groupTag))
  if (decision.kind === 'refuse') return refuse(state, phase, decision.why, status, payload)
  const why = whyNotShareable(state, decision.varies, decision) ?? whyTooManyTags(state, phase)
  if (why !== undefined) return refuse(state, phase, why, status, payload)
  const coding = phase.leavesEncodingToHooks ? decodableCoding(reply) : undefined
  if (coding !== undefined) {
    route.codings.learn(ownHeaders(request)[ENCODING], coding)
    weakenEtag(reply)
  }
  const length = Number(joined(reply.getHeader('content-length')) ?? NaN)
  // At the end of a stream Node.js itself accesses the request's socket, to prepare for the next request, and may do so
  // before the promise resolves. That is not a read by the handler.
  const captured = capture(payload, route.maxEntrySize, Number.isInteger(length) ? length : undefined,
    () => readAs('suite', request))
  return captured.body instanceof Promise
    ? storeStream(state, phase, decision, captured.payload, captured.body, coding)
    : storeBuffer(state, phase, decision, captured.payload, captured.body, coding)
}

async function handleWithTtl (
  state: RequestCache, filling: Filling, ttl: Promise<number>, payload: unknown
): Promise<unknown> {
  filling.ttl = await ttl
  return handleResponse(state, payload)
}

/**
 * Sends the stored response that the handler confirmed by 304, and stores it with the new headers (RFC 9111 §4.3.4).
 */
function handleNotModified (
  state: RequestCache, filling: Filling, stored: StoredResponse, payload: unknown
): MaybePromise<unknown> {
  const decision = freshen(state, filling, stored, state.cache.core.now())
  if (decision.kind === 'await-ttl') return handleWithTtl(state, filling, decision.ttl, payload)
  // The confirmed response is valid for this client even if it must not be stored for others any longer.
  if (decision.kind === 'refuse') return refuseConfirmed(state, filling, decision.why, stored, payload)
  if (stored.meta.absent !== undefined) decision.meta.absent = stored.meta.absent
  const confirmed = { ...decision, body: stored.body, encoded: stored.encoded }
  const why = whyNotShareable(state, decision.varies, confirmed)
  if (why !== undefined) return refuseConfirmed(state, filling, why, stored, payload)
  store(state, filling, confirmed)
  return replaceByStored(state, entryOf(confirmed, '', {}, filling.fill.startedAt), payload)
}

/** Sends a confirmed response that must not be stored any longer. */
function refuseConfirmed (
  state: RequestCache, filling: Filling, why: string, stored: StoredResponse, payload: unknown
): Buffer | string {
  release(state, filling, why, 200)
  return replaceByStored(state, stored, payload)
}

/** Sends a stored response in place of the handler's. */
function replaceByStored (state: RequestCache, entry: StoredResponse, payload: unknown): Buffer | string {
  const { cache: { core }, request, reply, route, phase } = state
  const headersBefore = phase.kind === 'filling' || phase.kind === 'passing' ? phase.headersBefore : {}
  const fwdStatus = reply.statusCode
  discard(payload)
  for (const name of Object.keys(reply.getHeaders())) {
    // A cookie that is set now is this client's own, such as that of a session.
    const isOwn = name === 'set-cookie' && entry.meta.headers[name] === undefined
    if (!isOwn && !(name in headersBefore)) reply.removeHeader(name)
  }
  const now = timeFor(entry, core.now())
  const ttl = Math.floor((entry.meta.staleAt - now) / 1000)
  // A response that was just confirmed is valid, even if it is never fresh.
  const isStale = ttl < 0 && fwdStatus !== 304
  state.status = { ...state.status, outcome: isStale ? 'STALE' : 'REVALIDATED', fwdStatus, ttl }
  const coding = entry.encoded && route.codings.choose(request, entry.encoded)
  return applyStored(reply, entry, state.conditions, now - entry.meta.generatedAt, coding)
}

/** Does not store the response. @returns the payload to send */
function refuse (state: RequestCache, filling: Filling, why: string, status: number, payload: unknown): unknown {
  release(state, filling, why, status)
  return discardIfBackground(filling, payload)
}

/** Lets waiting requests proceed without a stored response, and removes the stored response that this one replaces. */
function release (state: RequestCache, filling: Filling, why: string, status: number): void {
  state.why = why
  withdrawReplaced(state, filling, status, why)
  filling.fill.finish(undefined)
}

/** Discards the response to a request in the background: no client reads it, and its stream may never end. */
function discardIfBackground ({ isBackground }: Filling, payload: unknown): unknown {
  if (!isBackground) return payload
  discard(payload)
  return ''
}

function store (state: RequestCache, filling: Filling, response: StorableResponse): void {
  storeResponse(state, filling, response).catch(() => filling.fill.finish(undefined))
}

/** Reports that the response is stored. While the store is unavailable, only requests that wait for it get it. */
function reportStored (state: RequestCache, { fill }: Filling): void {
  state.status.stored = fill.versions !== undefined
  if (fill.versions === undefined) state.why = 'store unavailable'
}

/** Stores a stream when it has been sent whole. */
function storeStream (
  state: RequestCache, filling: Filling, decision: Storable, payload: unknown, body: Promise<CapturedBody>,
  coding: string | undefined
): unknown {
  reportStored(state, filling)
  filling.response = 'streamed'
  body.then(async captured => {
    const response = typeof captured === 'string'
      ? undefined
      : await responseOf(filling, decision, captured, coding, state.route.maxEntrySize)
    // The code that produces a stream may read the request until the stream ends.
    const why = response && whyNotShareable(state, decision.varies, response)
    readAs('suite', state.request)
    if (captured === 'broken') return filling.fill.finish(undefined)
    if (response === undefined || why !== undefined) {
      refuse(state, filling, why ?? 'too large', decision.meta.status, payload)
      return
    }
    if (state.route.etag && decision.meta.status === 200) response.meta.headers['etag'] ??= makeEtag(response.body)
    store(state, filling, response)
  }).catch(() => filling.fill.finish(undefined))
  return payload
}

/** Stores a body that is available as a whole. */
function storeBuffer (
  state: RequestCache, filling: Filling, decision: Storable, payload: unknown, body: CapturedBody,
  coding: string | undefined
): MaybePromise<unknown> {
  if (body === 'unstorable') return refuse(state, filling, 'too large', decision.meta.status, payload)
  if (body === 'broken') {
    filling.fill.finish(undefined)
    return discardIfBackground(filling, payload)
  }
  const response = responseOf(filling, decision, body, coding, state.route.maxEntrySize)
  return response instanceof Promise
    ? response.then(decoded => storeAndReply(state, filling, decision, payload, body, decoded))
    : storeAndReply(state, filling, decision, payload, body, response)
}

/**
 * Stores a response, and adds an `ETag` to it if the route asks for that.
 *
 * @param body - the bytes of the payload
 * @returns the payload to send: none for a 304
 */
function storeAndReply (
  state: RequestCache, filling: Filling, decision: Storable, payload: unknown, body: Buffer, response: StorableResponse
): unknown {
  const { reply, route, conditions } = state
  const why = whyNotShareable(state, decision.varies, response)
  if (why !== undefined) return refuse(state, filling, why, decision.meta.status, payload)
  if (route.etag && decision.meta.status === 200 && reply.getHeader('etag') === undefined) {
    const etag = makeEtag(response.body)
    response.meta.headers['etag'] = etag
    reply.header('etag', etag)
    if (response.encoded !== undefined) weakenEtag(reply)
  }
  reportStored(state, filling)
  store(state, filling, response)
  const ifNoneMatch = conditions?.ifNoneMatch
  const hasResponse = ifNoneMatch !== undefined && matchesEtag(ifNoneMatch, joined(reply.getHeader('etag')))
  if (hasResponse && reply.statusCode === 200) return notModified(reply)
  // A text was converted to bytes already.
  return typeof payload === 'string' ? body : payload
}

/**
 * Returns the form in which a response is stored. A response that a hook encoded is decoded, so that it suits all
 * clients, and stored with its encoded copy. A response that cannot be decoded is stored as it was sent, for requests
 * with the same `Accept-Encoding`.
 */
function responseOf (
  filling: Filling, decision: Storable, body: Buffer, coding: string | undefined, maxSize: Bytes
): MaybePromise<StorableResponse> {
  if (coding !== undefined) return decodedResponse(filling, decision, body, coding, maxSize)
  const isEncoded = decision.meta.headers['content-encoding'] !== undefined
  // A response without an encoding suits all clients, even if a hook has added `Vary: Accept-Encoding`.
  const isForAll = filling.leavesEncodingToHooks && !isEncoded && decision.varies.includes(ENCODING)
  return { ...isForAll ? withoutCoding(decision, filling) : decision, body }
}

async function decodedResponse (
  filling: Filling, decision: Storable, body: Buffer, coding: string, maxSize: Bytes
): Promise<StorableResponse> {
  const decoded = await decode(coding, body, maxSize)
  return decoded === undefined
    ? { ...decision, body }
    : { ...withoutCoding(decision, filling), body: decoded, encoded: { [coding]: body } }
}

/** Returns the response as it would be stored if no hook had encoded it. */
function withoutCoding (decision: Storable, { headersBefore }: Filling): Storable {
  const { meta, varies } = decision
  const { [ENCODING]: _, ...vary } = meta.vary
  const headers = withoutEncoding(meta.headers, joined(headersBefore['vary']))
  return { ...decision, varies: varies.filter(name => name !== ENCODING), meta: { ...meta, vary, headers } }
}

/**
 * Returns why a response must not be shared, judged by what the handler and hooks have read so far. The names that they
 * looked for in vain are recorded in the `meta.absent` of the response that is to be stored.
 */
function whyNotShareable (
  state: RequestCache, varies: Storable['varies'],
  response: Pick<StorableResponse, 'meta'> & Partial<StorableResponse>
): string | undefined {
  const { cache: { hitForPass }, reply, route } = state
  const { meta, body, encoded } = response
  const reads = judgeReads(state, varies)
  if (reads.kind === 'dependent') {
    if (state.key !== undefined) hitForPass.add(state.key.id, reads.names)
    return reads.why
  }
  if (reads.absent.length > 0) meta.absent = [...new Set([...meta.absent ?? [], ...reads.absent])]
  if (route.unkeyed !== 'bypass') return undefined
  const headers = reply.getHeaders()
  if (!hasNonce(encoded === undefined ? headers : { ...headers, 'content-encoding': undefined }, meta.headers, body)) {
    return undefined
  }
  warnOnce(state, 'nonce')
  return 'nonce'
}

/**
 * Returns whether the route lists the status of an error. Other errors are not stored, because an error handler's
 * response does not represent the resource.
 */
function isListedError (status: number, { ttl, statuses }: ResolvedRouteCache): boolean {
  return status >= 400 && ttl !== undefined && statuses.has(status)
}

function whyTooManyTags ({ extraTags }: RequestCache, { fill }: Filling): string | undefined {
  // The cache itself adds the tags of the path: they do not count.
  const named = fill.lookup.tags.filter(tag => pathOfTag(tag) === undefined).length
  return named + extraTags.length > MAX_ENTRY_TAGS ? 'too many tags' : undefined
}

function makeEtag (body: Buffer): string {
  return `"${hashId(body).slice(0, 27)}"`
}
