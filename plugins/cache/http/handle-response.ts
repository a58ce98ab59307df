import type { FastifyReply, FastifyRequest } from 'fastify'
import { hashId } from '../../shared/plugin/keys.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { capture, discard, type Captured } from './body/body-capture.js'
import { decodableCoding, decode, weakenEtag, withoutEncoding } from './body/content-codings.js'
import { matchesEtag } from '../rfc/conditional.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { EncodedResponses } from './body/encoded-responses.js'
import { usabilityOf, type StoredResponse } from './stored-response.js'
import { joined } from '../rfc/stored-headers.js'
import { entryOf, storeResponse } from './store-response.js'
import { ttlOf } from './lookup.js'
import { freshen, evaluateResponse, type StorageDecision, type Storable } from './evaluate-response.js'
import { hasNonce } from './reads/unkeyed-headers.js'
import { pathOfTag } from '../store/path-tag.js'
import type { HitForPass } from './serve.js'
import type { RequestCache } from './request-state.js'
import type { ResolvedRouteCache } from './route-options.js'
import { ENCODING } from './reads/request-reads.js'
import { isUsableOnError } from '../rfc/reuse.js'
import { applyStored, notModified } from './send-stored.js'
import { isOfTheClient, judgeReads, warnOfTokens, warnOnce } from './reads/unkeyed-headers.js'
import { groupTag, parseGroups } from '../rfc/groups.js'
import { MAX_ENTRY_TAGS } from '../store/tags.js'
import { ownHeaders, readAs } from './reads/watch-request.js'
import { isGone, isWithdrawn } from './invalidation.js'

/** The parts of a response that are stored. */
type Made = Storable & Pick<StoredResponse, 'body' | 'encoded'>

export function createResponseHandler (core: TwoTierCache, passes: HitForPass) {
  const encodedResponses = new EncodedResponses(core)

  /** Gives what is stored in place of what the handler answered. */
  function replace (request: FastifyRequest, reply: FastifyReply, state: RequestCache, entry: StoredResponse, payload: unknown): Buffer | string {
    const fwdStatus = reply.statusCode
    discard(payload)
    for (const name of Object.keys(reply.getHeaders())) {
      // A cookie that is set now is this client's own, such as the session's.
      const isOwn = name === 'set-cookie' && entry.meta.headers[name] === undefined
      if (!isOwn && !(name in state.before)) reply.removeHeader(name)
    }
    const usability = usabilityOf(entry, core.now())
    const ttl = ttlOf(usability)
    // What has just been confirmed is right, even if it is never fresh.
    const isStale = ttl < 0 && fwdStatus !== 304
    state.status = { ...state.status, outcome: isStale ? 'STALE' : 'REVALIDATED', fwdStatus, ttl }
    return applyStored(reply, entry, state.client, usability.age, state.route.codings.choose(request, entry.encoded))
  }

  function confirm (request: FastifyRequest, reply: FastifyReply, state: RequestCache, stored: StoredResponse, payload: unknown): MaybePromise<unknown> {
    const judged = freshen(request, reply, state, stored, core.now())
    if ('why' in judged && judged.ttl !== undefined) return takeWith(judged.ttl, request, reply, state, payload)
    if (!('why' in judged) && stored.meta.absent !== undefined) judged.meta.absent = stored.meta.absent
    const why = 'why' in judged ? judged.why : whyUnshareable(request, reply, state, judged, stored.body)
    if ('why' in judged || why !== undefined) {
      // The confirmed response is right for this client, and must not be stored for others.
      refuse(state, why ?? '', 200)
      return replace(request, reply, state, stored, payload)
    }
    const { body, encoded } = stored
    store(request, state, { ...judged, body, encoded })
    const { meta, life } = judged
    const entry = entryOf({ meta, life, body, encoded }, '', {}, state.fill?.startedAt ?? core.now())
    return replace(request, reply, state, entry, payload)
  }

  /** The response is not stored: lets those go on who wait for it. */
  function refuse (state: RequestCache, why: string, status: number): void {
    const { fill, place } = state
    state.why = why
    if (place !== undefined && isWithdrawn({ ...state, status, isOfTheClient: isOfTheClient(state) })) core.withdraw(place)
    fill?.finish(undefined)
  }

  function store (request: FastifyRequest, state: RequestCache, { meta, life, varies, body, encoded }: Made): void {
    storeResponse(core, request.headers, state, { meta, life, body, encoded }, varies).catch(() => state.fill?.finish(undefined))
  }

  /**
   * Looks at what the handler, and hooks, have read by now.
   *
   * @returns why the response may not be stored
   */
  function whyUnshareable (request: FastifyRequest, reply: FastifyReply, state: RequestCache, judged: Storable, body: Buffer | undefined, isDecoded = false): string | undefined {
    const { meta, varies } = judged
    const reads = judgeReads(request, reply, state, varies)
    if ('why' in reads) {
      if (state.key !== undefined) passes.add(state.key.id, reads.names)
      return reads.why
    }
    if (reads.absent.length > 0) meta.absent = [...new Set([...meta.absent ?? [], ...reads.absent])]
    if (state.route.unkeyed !== 'bypass' || !hasNonce(isDecoded ? { ...reply.getHeaders(), 'content-encoding': undefined } : reply.getHeaders(), meta.headers, body)) return undefined
    warnOnce(request, state, 'nonce')
    return 'nonce'
  }

  async function takeWith (ttl: Promise<number>, request: FastifyRequest, reply: FastifyReply, state: RequestCache, payload: unknown): Promise<unknown> {
    state.saidTtl = await ttl
    return take(request, reply, state, payload)
  }

  function take (request: FastifyRequest, reply: FastifyReply, state: RequestCache, payload: unknown): MaybePromise<unknown> {
    const { stale, fill, route } = state
    warnOfTokens(request, state)
    if (state.validates && stale !== undefined && reply.statusCode === 304) return confirm(request, reply, state, stale, payload)
    if (reply.statusCode >= 500 && stale !== undefined && isUsableOnError(usabilityOf(stale, core.now()))) {
      fill?.fulfilStale(stale)
      return replace(request, reply, state, stale, payload)
    }
    if (fill === undefined) {
      // A response to HEAD says as much.
      if (state.place !== undefined && isGone(reply.statusCode) && !isOfTheClient(state)) core.withdraw(state.place)
      return payload
    }
    const judged: StorageDecision = state.hasFailed && !isListedError(reply.statusCode, route) ? { why: 'error' } : state.isRefused ? { why: 'the handler refused' } : evaluateResponse(request, reply, state, core.now())
    if ('why' in judged && judged.ttl !== undefined) return takeWith(judged.ttl, request, reply, state, payload)
    state.extraTags.push(...parseGroups(joined(reply.getHeader('cache-groups'))).map(groupTag))
    const why = 'why' in judged ? judged.why : whyUnshareable(request, reply, state, judged, undefined) ?? whyTagged(state)
    if ('why' in judged || why !== undefined) {
      refuse(state, why ?? '', reply.statusCode)
      return unlessUnread(state, payload)
    }
    const length = Number(joined(reply.getHeader('content-length')) ?? NaN)
    const coding = state.leavesEncoding ? decodableCoding(reply) : undefined
    if (coding !== undefined) {
      route.codings.learn(ownHeaders(request)[ENCODING], coding)
      weakenEtag(reply)
    }
    // From then on Node.js reads the socket itself, to be ready for the next request, and may do so before the promise's turn.
    const captured = capture(payload, route.maxEntrySize, Number.isInteger(length) ? length : undefined, () => readAs('suite', request))
    return captured.body instanceof Promise
      ? later(request, reply, state, judged, captured.payload, captured.body, coding)
      : now(request, reply, state, judged, captured.payload, captured.body, coding)
  }

  return {
    /** Deals with what the handler answered. @returns the body to send: at once, unless the route's `ttl` is async or a hook has encoded the body */
    take,
    /**
     * Undoes what the app's hooks change in a stored response: they changed it once, before it was stored. A hook may encode it
     * for a client, so that its bytes differ.
     *
     * @returns the body to send
     */
    asStored (request: FastifyRequest, reply: FastifyReply, state: RequestCache, payload: unknown): MaybePromise<unknown> {
      const { answer, hasFailed } = state
      // Fastify gives one to bytes.
      if (answer !== undefined && answer.type === undefined && !hasFailed) reply.removeHeader('content-type')
      if (answer === undefined || payload === answer.body || hasFailed || reply.statusCode !== answer.status) return payload
      if (reply.getHeader('content-encoding') === answer.coding) {
        discard(payload)
        reply.removeHeader('content-length')
        return answer.body
      }
      const coding = decodableCoding(reply)
      const isWhole = answer.body === answer.entry.body && answer.coding === undefined
      if (coding !== undefined && isWhole && payload !== null && request.method === 'GET') return encodedResponses.adopt(request, reply, state, answer.entry, coding, payload)
      weakenEtag(reply)
      return payload
    }
  }

  /**
   * Makes what is to be stored: of a response that a hook has encoded the uncoded one, with its encoded copy, so that it is right for all. Where
   * that cannot be made it is stored as it was sent, for requests with the same `Accept-Encoding`.
   */
  async function makeOf (state: RequestCache, judged: Storable, body: Buffer, coding: string): Promise<Made> {
    const decoded = await decode(coding, body, state.route.maxEntrySize)
    return decoded === undefined ? { ...judged, body } : { ...uncoded(judged, state), body: decoded, encoded: { [coding]: body } }
  }

  /** A stream is stored when it has been sent. */
  function later (request: FastifyRequest, reply: FastifyReply, state: RequestCache, judged: Storable, payload: unknown, body: Promise<Captured>, coding: string | undefined): unknown {
    state.status.stored = true
    state.isStreamed = true
    body.then(async whole => {
      const made = typeof whole === 'string' ? undefined : coding === undefined ? wholly(state, judged, whole) : await makeOf(state, judged, whole, coding)
      // The code that produces a stream may read the request until the stream ends.
      const why = made && whyUnshareable(request, reply, state, judged, made.body, made.encoded !== undefined)
      readAs('suite', request)
      if (whole === 'broken') return state.fill?.finish(undefined)
      if (made === undefined || why !== undefined) {
        refuse(state, why ?? 'too large', judged.meta.status)
        unlessUnread(state, payload)
        return
      }
      if (state.route.etag && judged.meta.status === 200) made.meta.headers['etag'] ??= makeEtag(made.body)
      store(request, state, withAbsent(made, judged))
    }).catch(() => state.fill?.finish(undefined))
    return payload
  }

  function now (
    request: FastifyRequest, reply: FastifyReply, state: RequestCache, judged: Storable, payload: unknown, body: Captured, coding: string | undefined
  ): unknown {
    if (body === 'broken' || body === 'unstorable') {
      if (body === 'unstorable') refuse(state, 'too large', judged.meta.status)
      else state.fill?.finish(undefined)
      return unlessUnread(state, payload)
    }
    if (coding === undefined) return complete(request, reply, state, judged, payload, body, wholly(state, judged, body))
    return makeOf(state, judged, body, coding).then(made => complete(request, reply, state, judged, payload, body, made))
  }

  /** @param body - the bytes of the payload */
  function complete (request: FastifyRequest, reply: FastifyReply, state: RequestCache, judged: Storable, payload: unknown, body: Buffer, made: Made): unknown {
    const why = whyUnshareable(request, reply, state, judged, made.body, made.encoded !== undefined)
    if (why !== undefined) {
      refuse(state, why, judged.meta.status)
      return unlessUnread(state, payload)
    }
    if (state.route.etag && judged.meta.status === 200 && reply.getHeader('etag') === undefined) {
      const etag = makeEtag(made.body)
      made.meta.headers['etag'] = etag
      reply.header('etag', etag)
      if (made.encoded !== undefined) weakenEtag(reply)
    }
    state.status.stored = true
    store(request, state, withAbsent(made, judged))
    const { ifNoneMatch } = state.client
    const isKnown = reply.statusCode === 200 && ifNoneMatch !== undefined && matchesEtag(ifNoneMatch, joined(reply.getHeader('etag')))
    // Text has been made bytes: they are sent as they are.
    return isKnown ? notModified(reply) : typeof payload === 'string' ? body : payload
  }
}

/** A response that no hook has encoded. It is right for all, also where a hook has added `Vary: Accept-Encoding`. */
function wholly (state: RequestCache, judged: Storable, body: Buffer): Made {
  const isEncoded = judged.meta.headers['content-encoding'] !== undefined
  return { ...state.leavesEncoding && !isEncoded && judged.varies.includes(ENCODING) ? uncoded(judged, state) : judged, body }
}

/** Returns what would be stored if no hook had encoded the response. */
function uncoded ({ meta, life, varies }: Storable, { before }: RequestCache): Storable {
  const { [ENCODING]: _, ...vary } = meta.vary
  return { life, varies: varies.filter(name => name !== ENCODING), meta: { ...meta, vary, headers: withoutEncoding(meta.headers, joined(before['vary'])) } }
}

/** Adds the names that were read and not found, which are complete only now. */
function withAbsent (made: Made, { meta: { absent } }: Storable): Made {
  return absent === undefined ? made : { ...made, meta: { ...made.meta, absent } }
}

/** Whether the route stores an error also where it was thrown: it names the status. What an error handler makes of others says nothing of the resource. */
function isListedError (status: number, { ttl, statuses }: ResolvedRouteCache): boolean {
  return status >= 400 && ttl !== undefined && statuses.has(status)
}

function whyTagged ({ fill, extraTags }: RequestCache): string | undefined {
  // Those of its path are the cache's own.
  const named = fill?.lookup.tags.filter(tag => pathOfTag(tag) === undefined).length ?? 0
  return named + extraTags.length > MAX_ENTRY_TAGS ? 'too many tags' : undefined
}

function makeEtag (body: Buffer): string {
  return `"${hashId(body).slice(0, 27)}"`
}

/** Nobody reads a response in the background that is not stored, and a stream may have no end. @returns the body to send */
function unlessUnread ({ isBackground }: RequestCache, payload: unknown): unknown {
  if (!isBackground) return payload
  discard(payload)
  return ''
}
