import type { FastifyRequest } from 'fastify'
import { isPromise } from '../../shared/plugin/maybe-promise.js'
import { validationHeaders } from '../rfc/conditional.js'
import { reuseOf } from '../rfc/reuse.js'
import { requestDirectives } from '../rfc/stored-headers.js'
import type { CacheKey } from '../store/cache-key.js'
import { isVariants } from '../store/entry.js'
import { MAX_LOOKUPS, type Fill } from '../tiers/coalescing.js'
import type { Tier } from '../tiers/two-tier-cache.js'
import { getL1Response, lookupResponse, matchesVary, type LookupResult } from './lookup.js'
import { tagsFor } from './path-tags.js'
import { carries } from './reads/unkeyed-headers.js'
import { watchGetters } from './reads/watch-decorators.js'
import { handOver, ownHeaders, readAs } from './reads/watch-request.js'
import type { RequestCache } from './request-state.js'
import { applyStored, validatorsOf } from './send-stored.js'
import { timeFor, type StoredResponse } from './stored-response.js'

/**
 * Serves a request from the cache, or prepares it for the handler.
 *
 * @returns whether the request was answered; a promise only where L1 has no fresh response
 */
export function serve (state: RequestCache, key: CacheKey): boolean | Promise<boolean> {
  const entry = getL1Response(state, key)
  return (entry !== undefined && tryServe(state, entry, 'l1')) || lookupOrLead(state, key)
}

/**
 * Serves a stored response if it may be used for the request. A stale one may be refreshed in the background; one that
 * has to be validated first becomes `state.stale`.
 */
function tryServe (state: RequestCache, entry: StoredResponse, tier: Tier): boolean {
  const { cache: { core, revalidation }, route } = state
  const { meta } = entry
  const now = timeFor(entry, core.now())
  // Another instance may have revalidated the response, so that the store has a fresher one.
  if (tier === 'l1' && (meta.noCache || now >= meta.staleAt)) return false
  const directives = route.requestDirectives === 'obey' ? requestDirectives(ownHeaders(state.request)) : undefined
  const reuse = reuseOf(meta, now, directives)
  if (reuse === 'validate' || (reuse === 'refresh' && !revalidation.start(state, entry))) {
    state.stale = entry
    state.why = directives?.has('no-cache') ? 'the request says no-cache' : 'not fresh'
    return false
  }
  serveEntry(state, entry, now, tier)
  return true
}

function serveEntry (state: RequestCache, entry: StoredResponse, now: number, tier: Tier): void {
  const { cache: { core }, request, reply, route, status } = state
  const { generatedAt, staleAt } = entry.meta
  const ttl = Math.floor((staleAt - now) / 1000)
  const isStale = ttl < 0
  core.count(state.key, isStale ? 'stale' : 'hits', tier)
  status.outcome = isStale ? 'STALE' : 'HIT'
  status.fwd = undefined
  status.ttl = ttl
  const coding = entry.encoded && route.codings.choose(request, entry.encoded)
  const body = applyStored(reply, entry, state.conditions, now - generatedAt, coding)
  state.phase = {
    kind: 'served',
    entry,
    statusCode: reply.statusCode,
    contentType: reply.getHeader('content-type'),
    contentEncoding: reply.getHeader('content-encoding'),
    body
  }
  reply.send(body)
}

/**
 * Looks a request up in the store, and leads or joins the fill of a response that is not there.
 *
 * @returns whether the request was answered
 */
async function lookupOrLead (state: RequestCache, key: CacheKey): Promise<boolean> {
  const { cache: { core, fills, hitForPass }, request, route } = state
  const pendingTags = tagsFor(request, route)
  // The lookup is asynchronous from here on, so work that a hook started may read the request meanwhile.
  readAs('hooks', request)
  const tags = isPromise(pendingTags) ? await pendingTags : pendingTags
  const isFromCacheOnly = isOnlyIfCached(state)
  // A response to HEAD has no body to store.
  const mayFill = !isFromCacheOnly && request.method !== 'HEAD'
  for (let lookups = 1; ; lookups++) {
    const found = await lookupResponse(state, key, tags, mayFill)
    if (found.response !== undefined && tryServe(state, found.response, 'l2')) return true
    if (isFromCacheOnly) return sendGatewayTimeout(state)
    if (!mayFill) return forwardToHandler(state, found, undefined)
    const dependsOn = hitForPass.namesFor(key.id, name => carries(state, name))
    if (dependsOn !== undefined) {
      state.why = 'hit-for-pass'
      fills.giveUp(found.place)
      return forwardToHandler(state, found, undefined, dependsOn)
    }
    const admission = await fills.join(found.place)
    if (admission.kind === 'retry' && lookups < MAX_LOOKUPS) continue
    state.status.collapsed = admission.kind !== 'lead' && admission.kind !== 'failed'
    if ((admission.kind === 'filled' || admission.kind === 'stale') && admission.entry.kind === 'response') {
      const entry = admission.entry as StoredResponse
      if (matchesVary(entry, state)) {
        // RFC 5861 §4: the fill failed, and the stale response is served in place of the error.
        if (admission.kind === 'stale') serveEntry(state, entry, timeFor(entry, core.now()), 'l2')
        if (admission.kind === 'stale' || tryServe(state, entry, 'l2')) return true
      }
      // The fill showed by which headers responses vary: the next lookup leads the fill of this request's variant.
      if (lookups < MAX_LOOKUPS) continue
    }
    // After a failed fill, or too many lookups, the handler runs without a fill.
    return forwardToHandler(state, found, admission.kind === 'lead' ? admission.fill : undefined)
  }
}

/** Lets the handler respond, as the leader of a fill or without one. */
function forwardToHandler (
  state: RequestCache, found: LookupResult, fill: Fill | undefined, dependsOn?: readonly string[]
): false {
  const { base, response } = found
  state.cache.core.count(state.key, 'misses')
  const fwd = response !== undefined
    ? 'stale'
    : isVariants(base.entry) ? 'vary-miss' : base.entry === undefined ? 'uri-miss' : 'miss'
  state.status = { ...state.status, outcome: 'MISS', fwd, ttl: undefined }
  if (fill === undefined) state.phase = { kind: 'passing', found, headersBefore: state.reply.getHeaders(), dependsOn }
  else prepareHandler(state, found, fill, false)
  return false
}

/**
 * Prepares a request that leads a fill for the handler: the validators of a stored response replace the client's
 * conditions (RFC 9111 §4.3.1), and reads are recorded.
 */
export function prepareHandler (state: RequestCache, found: LookupResult, fill: Fill, isBackground: boolean): void {
  const { cache: { core }, request, reply, reads } = state
  const { response } = found
  const validated = response !== undefined && replaceConditions(request, response) ? response : undefined
  if (validated !== undefined) state.stale = validated
  state.phase = {
    kind: 'filling',
    found,
    headersBefore: reply.getHeaders(),
    fill,
    requestedAt: core.now(),
    isBackground,
    validated,
    ttl: undefined,
    leavesEncodingToHooks: false,
    response: 'awaited'
  }
  if (reads === undefined) return
  watchGetters(request)
  handOver(request, reply, reads)
}

/** Whether the client accepts only a stored response (RFC 9111 §5.2.1.7). */
function isOnlyIfCached ({ request, route }: RequestCache): boolean {
  return route.requestDirectives === 'obey' && (requestDirectives(ownHeaders(request))?.has('only-if-cached') ?? false)
}

function sendGatewayTimeout (state: RequestCache): true {
  state.phase = { kind: 'generated' }
  state.status.outcome = 'MISS'
  state.reply.code(504).send('')
  return true
}

const CONDITIONS = ['if-none-match', 'if-modified-since', 'if-match', 'if-unmodified-since', 'if-range', 'range']

/**
 * Replaces the client's conditions with the validators of a stored response. Returns false where it has none.
 */
function replaceConditions ({ raw: { headers } }: FastifyRequest, response: StoredResponse): boolean {
  const conditions = validationHeaders(validatorsOf(response))
  if (Object.keys(conditions).length === 0) return false
  for (const name of CONDITIONS) Reflect.deleteProperty(headers, name)
  Object.assign(headers, conditions)
  return true
}
