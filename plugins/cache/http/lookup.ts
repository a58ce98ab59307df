import type { FastifyReply, FastifyRequest } from 'fastify'
import type { TwoTierCache, Lookup } from '../tiers/two-tier-cache.js'
import { isVariants, type VariantsMeta } from '../store/entry.js'
import { isResponse, type StoredResponse } from './stored-response.js'
import type { CacheKey } from '../store/cache-key.js'
import { variantKey } from './request-key.js'
import type { RequestCache } from './request-state.js'
import type { Usability } from '../rfc/reuse.js'
import { isRightByReads } from './reads/unkeyed-headers.js'
import { normalizeSelecting } from '../rfc/vary.js'
import { ownHeaders } from './reads/watch-request.js'

/** What is kept for a request, and where its answer is to be kept. */
export interface LookupResult {
  /** Of the key itself. */
  base: Lookup
  /** Of the place of this request's answer: the key itself, or one of its variants. */
  place: Lookup
  response: StoredResponse | undefined
}

/** Looks a request up in the first tier, at once. */
export function peekResponse (core: TwoTierCache, key: CacheKey, request: FastifyRequest, state: RequestCache): StoredResponse | undefined {
  const entry = core.getL1(key)
  if (entry === undefined) return undefined
  const variant = isVariants(entry) ? variantKey(key, entry.meta, ownHeaders(request)) : undefined
  const found = variant === undefined ? entry : core.getL1(variant)
  if (!isResponse(found) || !matchesVary(found, request, state)) return undefined
  if (variant !== undefined && isVariants(entry)) noteUse(key, variant, entry.meta, state)
  return found
}

/** Looks a request up in the store: one round trip, or two where the answers of its URL vary. */
export async function lookupResponse (core: TwoTierCache, key: CacheKey, tags: readonly string[], request: FastifyRequest, state: RequestCache): Promise<LookupResult> {
  const base = await core.lookup(key, tags)
  const { entry } = base
  if (!isVariants(entry)) return { base, place: base, response: isResponse(entry) && matchesVary(entry, request, state) ? entry : undefined }
  const place = await core.lookup(variantKey(key, entry.meta, ownHeaders(request)), tags)
  if (!isResponse(place.entry) || !matchesVary(place.entry, request, state)) return { base, place, response: undefined }
  noteUse(key, place.key, entry.meta, state)
  return { base, place, response: place.entry }
}

/** That a variant was served counts when there is no room for another one. */
function noteUse (key: CacheKey, variant: CacheKey, { ids }: VariantsMeta, { route: { maxVariants, variantUses } }: RequestCache): void {
  if (ids.length >= maxVariants) variantUses.record(key.text, variant.text, maxVariants)
}

/** RFC 9111 §4.1; and the request has nothing else on which its response may depend. */
export function matchesVary ({ meta: { vary, absent } }: StoredResponse, request: FastifyRequest, state: RequestCache): boolean {
  for (const name in vary) if (normalizeSelecting(name, ownHeaders(request)[name]) !== vary[name]) return false
  return (absent === undefined && (state.reads === undefined || state.reads.isEmpty)) || isRightByReads(request, state, absent, Object.keys(vary))
}

/** Returns for how many seconds a response is fresh still; below 0 it is stale. */
export function ttlOf ({ freshFor }: Usability): number {
  return Math.floor(freshFor / 1000)
}

/** Whether the handler is not to be asked: RFC 9111 §5.2.1.7. */
export function gatewayTimeout (reply: FastifyReply, state: RequestCache): FastifyReply {
  state.isAnswered = true
  state.isGenerated = true
  state.status.outcome = 'MISS'
  return reply.code(504).send('')
}
