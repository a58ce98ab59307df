import type { FastifyReply, FastifyRequest, onSendHookHandler } from 'fastify'
import { failHook, finishHook, holdPayload } from '../../../shared/http/hook-callback.js'
import { unwrapResponse } from '../../../shared/http/response-payload.js'
import type { MaybePromise } from '../../../shared/plugin/maybe-promise.js'
import { addVary } from '../../rfc/vary.js'
import { leavesEncodingToHooks } from '../body/content-codings.js'
import { handleResponse } from '../handle-response.js'
import type { Invalidations } from '../invalidation.js'
import { createForcePrivate, forcePrivateIfPersonal } from '../reads/force-private.js'
import { readAs } from '../reads/watch-request.js'
import { STATE, type RequestCache } from '../request-state.js'
import type { ResolvedRouteCache } from '../route-options.js'
import { restoreStoredBody, withoutLength } from '../send-stored.js'

interface SendHookOptions {
  route: ResolvedRouteCache
  /** Undefined where requests of the route never invalidate responses. */
  invalidations: Invalidations | undefined
  addCacheStatus (state: RequestCache): MaybePromise<void>
}

/** Records whether the handler encoded the response, before other `onSend` hooks may encode it for its client. */
export const recordEncoding: onSendHookHandler = function cacheRecordEncoding (request, reply, sent, done) {
  const phase = request[STATE]?.phase
  if (phase?.kind !== 'filling') return done()
  const payload = unwrapResponse(reply, sent)
  phase.leavesEncodingToHooks = leavesEncodingToHooks(reply)
  done(null, payload)
}

/**
 * Returns the hook that stores a response, or completes one from the cache. It runs after all other `onSend` hooks, so
 * that the stored response is the one that is sent.
 */
export function createSendHook ({ route, invalidations, addCacheStatus }: SendHookOptions): onSendHookHandler {
  const forcePrivate = route.private && createForcePrivate(route.targeted)

  function prepare (request: FastifyRequest, reply: FastifyReply, payload: unknown): MaybePromise<unknown> {
    const state = request[STATE]
    if (state === null) return addHeaders(request, reply, state, payload)
    const { phase } = state
    if (phase.kind === 'filling' && phase.response === 'awaited') phase.response = 'received'
    let body: unknown = payload
    if (phase.kind === 'served') {
      body = restoreStoredBody(state, phase, payload)
    } else if (phase.kind !== 'generated') {
      // This precedes storing, so that a hit has the field too.
      forcePrivate?.(request, reply)
      body = handleResponse(state, payload)
    }
    return body instanceof Promise
      ? body.then(body => addHeaders(request, reply, state, body))
      : addHeaders(request, reply, state, body)
  }

  function addHeaders (
    request: FastifyRequest, reply: FastifyReply, state: RequestCache | null, payload: unknown
  ): MaybePromise<unknown> {
    const added = state !== null && route.stores ? addCacheStatus(state) : undefined
    // The code that produces a stream may read the request until the stream ends.
    if (state?.phase.kind === 'filling' && state.phase.response === 'streamed') readAs('handler', request)
    if (state !== null && state.phase.kind !== 'served' && state.phase.kind !== 'generated' && !state.status.stored) {
      forcePrivateIfPersonal(state)
    }
    // A response without an owner, or one sent before the lookup, is marked as well: a CDN would serve it to clients
    // that have an owner.
    forcePrivate?.(request, reply)
    // `Vary` is added after storing: headers that are a part of the key need no variants of the stored response.
    if (route.varyField !== undefined && route.stores) addVary(reply, route.varyField)
    const body = reply.statusCode === 304 ? withoutLength(reply, payload) : payload
    return added instanceof Promise ? added.then(() => body) : body
  }

  return function cacheOnSend (request, reply, sent, done) {
    const state = request[STATE]
    const payload = typeof sent === 'string' || Buffer.isBuffer(sent) ? sent : unwrapResponse(reply, sent)
    if (state?.reads !== undefined) readAs('suite', request)
    let invalidated: Promise<void> | undefined
    if (invalidations?.mayInvalidate(request, route)) {
      if (state?.phase.kind === 'served' || state?.phase.kind === 'generated') invalidations.skip(request)
      else invalidated = invalidations.invalidate(request, reply, route)
    }
    const prepared = invalidated === undefined
      ? prepare(request, reply, payload)
      : invalidated.then(() => prepare(request, reply, payload))
    if (!(prepared instanceof Promise)) return done(null, prepared)
    holdPayload(payload)
    prepared.then(body => finishHook('cache', reply, done, null, body),
      error => failHook('cache', reply, done, error, payload))
  }
}
