import type { FastifyReply, FastifyRequest } from 'fastify'
import { hashId } from '../shared/keys.js'
import type { MaybePromise } from '../shared/maybe-promise.js'
import { capture, type Captured } from './capture.js'
import { matchesEtag } from './conditional.js'
import type { CacheCore } from './core.js'
import { usabilityOf, type StoredResponse } from './entry.js'
import { joined } from './headers.js'
import { entryOf, keep } from './keep.js'
import { ageAndTtl } from './look-up.js'
import { freshen, judge, type Judged, type Storable } from './make-entry.js'
import { hasNonce } from './nonce.js'
import { pathOfTag } from './paths.js'
import type { Passes } from './passes.js'
import type { RequestCache } from './request-state.js'
import type { ResolvedRouteCache } from './resolve-options.js'
import { isUsableOnError } from './reuse.js'
import { applyEntry, notModified } from './send-entry.js'
import { isOfTheClient, judgeReads, warnOfTokens, warnOnce } from './unkeyed.js'
import { groupTag, parseGroups } from './unsafe.js'
import { MAX_ENTRY_TAGS } from './value-options.js'
import { readAs } from './watch-request.js'
import { isGone, isWithdrawn } from './withdrawal.js'

/** Deals with what the handler answered. @returns the body to send: at once, unless the route's `ttl` is async */
export function createTake (core: CacheCore, passes: Passes) {
  /** Gives what is stored in place of what the handler answered. */
  function replace (reply: FastifyReply, state: RequestCache, entry: StoredResponse, payload: unknown): Buffer | string {
    const fwdStatus = reply.statusCode
    discard(payload)
    for (const name of Object.keys(reply.getHeaders())) {
      // A cookie that is set now is this client's own, such as the session's.
      const isOwn = name === 'set-cookie' && entry.meta.headers[name] === undefined
      if (!isOwn && !(name in state.before)) reply.removeHeader(name)
    }
    const { age, ttl } = ageAndTtl(entry, core.now())
    // What has just been confirmed is right, even if it is never fresh.
    const isStale = ttl < 0 && fwdStatus !== 304
    state.status = { ...state.status, outcome: isStale ? 'STALE' : 'REVALIDATED', fwdStatus, ttl }
    return applyEntry(reply, entry, state.client, age)
  }

  function confirm (request: FastifyRequest, reply: FastifyReply, state: RequestCache, stored: StoredResponse, payload: unknown): MaybePromise<unknown> {
    const judged = freshen(request, reply, state, stored, core.now())
    if ('why' in judged && judged.ttl !== undefined) return takeWith(judged.ttl, request, reply, state, payload)
    if (!('why' in judged) && stored.meta.absent !== undefined) judged.meta.absent = stored.meta.absent
    const why = 'why' in judged ? judged.why : whyUnshareable(request, reply, state, judged, stored.body)
    if ('why' in judged || why !== undefined) {
      // The confirmed response is right for this client, and must not be stored for others.
      refuse(state, why ?? '', 200)
      return replace(reply, state, stored, payload)
    }
    store(request, state, judged, stored.body)
    const { meta, life } = judged
    const entry = entryOf({ meta, life, body: stored.body }, '', {}, state.fill?.startedAt ?? core.now())
    return replace(reply, state, entry, payload)
  }

  /** The response is not stored: lets those go on who wait for it. */
  function refuse (state: RequestCache, why: string, status: number): void {
    const { fill, place } = state
    state.why = why
    if (place !== undefined && isWithdrawn({ ...state, status, isOfTheClient: isOfTheClient(state) })) core.withdraw(place)
    fill?.finish(undefined)
  }

  function store (request: FastifyRequest, state: RequestCache, { meta, life, varies }: Storable, body: Buffer): void {
    keep(core, request.headers, state, { meta, life, body }, varies).catch(() => state.fill?.finish(undefined))
  }

  /**
   * Looks at what the handler, and hooks, have read by now.
   *
   * @returns why the response may not be stored
   */
  function whyUnshareable (request: FastifyRequest, reply: FastifyReply, state: RequestCache, judged: Storable, body: Buffer | undefined): string | undefined {
    const { meta, varies } = judged
    const reads = judgeReads(request, reply, state, varies)
    if ('why' in reads) {
      if (state.key !== undefined) passes.add(state.key.id, reads.names)
      return reads.why
    }
    if (reads.absent.length > 0) meta.absent = [...new Set([...meta.absent ?? [], ...reads.absent])]
    if (state.route.unkeyed !== 'bypass' || !hasNonce(reply.getHeaders(), meta.headers, body)) return undefined
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
      fill?.fall(stale)
      return replace(reply, state, stale, payload)
    }
    if (fill === undefined) {
      // A response to HEAD says as much.
      if (state.place !== undefined && isGone(reply.statusCode) && !isOfTheClient(state)) core.withdraw(state.place)
      return payload
    }
    const judged: Judged = state.hasFailed && !isListedError(reply.statusCode, route) ? { why: 'error' } : state.isRefused ? { why: 'the handler refused' } : judge(request, reply, state, core.now())
    if ('why' in judged && judged.ttl !== undefined) return takeWith(judged.ttl, request, reply, state, payload)
    state.extraTags.push(...parseGroups(joined(reply.getHeader('cache-groups'))).map(groupTag))
    const why = 'why' in judged ? judged.why : whyUnshareable(request, reply, state, judged, undefined) ?? whyTagged(state)
    if ('why' in judged || why !== undefined) {
      refuse(state, why ?? '', reply.statusCode)
      return unlessUnread(state, payload)
    }
    const length = Number(joined(reply.getHeader('content-length')) ?? NaN)
    // From then on Node.js reads the socket itself, to be ready for the next request, and may do so before the promise's turn.
    const captured = capture(payload, route.maxEntrySize, Number.isInteger(length) ? length : undefined, () => readAs('suite', request))
    return captured.body instanceof Promise
      ? later(request, reply, state, judged, captured.payload, captured.body)
      : now(request, reply, state, judged, captured.payload, captured.body)
  }

  return take

  /** A stream is stored when it has been sent. */
  function later (request: FastifyRequest, reply: FastifyReply, state: RequestCache, judged: Storable, payload: unknown, body: Promise<Captured>): unknown {
    state.status.stored = true
    state.isStreamed = true
    body.then(whole => {
      // The code that produces a stream may read the request until the stream ends.
      const why = typeof whole === 'string' ? undefined : whyUnshareable(request, reply, state, judged, whole)
      readAs('suite', request)
      if (whole === 'broken') return state.fill?.finish(undefined)
      if (whole === 'unstorable' || why !== undefined) {
        refuse(state, why ?? 'too large', judged.meta.status)
        unlessUnread(state, payload)
        return
      }
      if (state.route.makesEtag && judged.meta.status === 200) judged.meta.headers['etag'] ??= makeEtag(whole)
      store(request, state, judged, whole)
    }, () => state.fill?.finish(undefined))
    return payload
  }

  function now (
    request: FastifyRequest, reply: FastifyReply, state: RequestCache, judged: Storable, payload: unknown, body: Captured
  ): unknown {
    if (body === 'broken' || body === 'unstorable') {
      if (body === 'unstorable') refuse(state, 'too large', judged.meta.status)
      else state.fill?.finish(undefined)
      return unlessUnread(state, payload)
    }
    const why = whyUnshareable(request, reply, state, judged, body)
    if (why !== undefined) {
      refuse(state, why, judged.meta.status)
      return unlessUnread(state, payload)
    }
    if (state.route.makesEtag && judged.meta.status === 200 && reply.getHeader('etag') === undefined) {
      const etag = makeEtag(body)
      judged.meta.headers['etag'] = etag
      reply.header('etag', etag)
    }
    state.status.stored = true
    store(request, state, judged, body)
    const { ifNoneMatch } = state.client
    const isKnown = reply.statusCode === 200 && ifNoneMatch !== undefined && matchesEtag(ifNoneMatch, joined(reply.getHeader('etag')))
    // Text has been made bytes: they are sent as they are.
    return isKnown ? notModified(reply) : typeof payload === 'string' ? body : payload
  }
}

/**
 * What is stored was changed by the hooks of others once; they do not change it once more. But one may encode it for a
 * client: then it is not the same any more byte for byte.
 *
 * @returns the body to send
 */
export function asStored (reply: FastifyReply, { answer, hasFailed }: RequestCache, payload: unknown): unknown {
  // Fastify gives one to bytes.
  if (answer !== undefined && answer.type === undefined && !hasFailed) reply.removeHeader('content-type')
  if (answer === undefined || payload === answer.body || hasFailed || reply.statusCode !== answer.status) return payload
  if (reply.getHeader('content-encoding') === answer.coding) {
    discard(payload)
    reply.removeHeader('content-length')
    return answer.body
  }
  const etag = joined(reply.getHeader('etag'))
  if (etag?.startsWith('"')) reply.header('etag', `W/${etag}`)
  return payload
}

/** Whether the route stores an error also where it was thrown: it names the status. What an error handler makes of others says nothing of the resource. */
function isListedError (status: number, { ttlOf, statuses }: ResolvedRouteCache): boolean {
  return status >= 400 && ttlOf !== undefined && statuses.has(status)
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

/** Of a body that is not sent: a stream has to be ended, or what it comes from is held. */
function discard (payload: unknown): void {
  if (typeof payload !== 'object' || payload === null) return
  if ('destroy' in payload && typeof payload.destroy === 'function') payload.destroy()
  else if (payload instanceof ReadableStream) payload.cancel().catch(() => {})
}
