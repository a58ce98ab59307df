import { normalizeSelecting } from '../rfc/vary.js'
import type { CacheKey } from '../store/cache-key.js'
import { isVariants, type VariantsMeta } from '../store/entry.js'
import type { Lookup } from '../tiers/two-tier-cache.js'
import { ownHeaders } from './reads/watch-request.js'
import { isRightByReads } from './reads/unkeyed-headers.js'
import { variantKey } from './request-key.js'
import type { RequestCache } from './request-state.js'
import { isResponse, isResponseOfL1, type StoredResponse } from './stored-response.js'

/** The stored response for a request, and where its response is to be stored. */
export interface LookupResult {
  /** The lookup of the key itself. */
  base: Lookup
  /** The lookup of the place of this request's response: the key itself, or one of its variants. */
  place: Lookup
  response: StoredResponse | undefined
}

/** Returns the response that L1 has for a request. */
export function getL1Response (state: RequestCache, key: CacheKey): StoredResponse | undefined {
  const { core } = state.cache
  const entry = core.getL1(key)
  if (isResponseOfL1(entry)) return matchesVary(entry, state) ? entry : undefined
  if (!isVariants(entry)) return undefined
  const variant = variantKey(key, entry.meta, ownHeaders(state.request))
  const response = core.getL1(variant)
  if (!isResponseOfL1(response) || !matchesVary(response, state)) return undefined
  recordUse(key, variant, entry.meta, state)
  return response
}

/**
 * Looks a request up in the store: one round trip, or two where the responses of its URL vary.
 *
 * @param mayFill - whether the caller joins the fill of a response that is not there, or gives it up
 */
export async function lookupResponse (
  state: RequestCache, key: CacheKey, tags: readonly string[], mayFill = false
): Promise<LookupResult> {
  const { core, fills } = state.cache
  const lookUp = (each: CacheKey): Promise<Lookup> => mayFill ? fills.lookup(each, tags) : core.lookup(each, tags)
  const base = await lookUp(key)
  const { entry } = base
  if (!isVariants(entry)) {
    return { base, place: base, response: isResponse(entry) && matchesVary(entry, state) ? entry : undefined }
  }
  const place = await lookUp(variantKey(key, entry.meta, ownHeaders(state.request)))
  if (!isResponse(place.entry) || !matchesVary(place.entry, state)) return { base, place, response: undefined }
  recordUse(key, place.key, entry.meta, state)
  return { base, place, response: place.entry }
}

/**
 * Records that a variant was served, which decides about the variant to evict. Recording starts when there is no room
 * for another one.
 */
function recordUse (
  key: CacheKey, variant: CacheKey, { ids }: VariantsMeta, { route: { maxVariants, variantUses } }: RequestCache
): void {
  if (ids.length >= maxVariants) variantUses.record(key.text, variant.text, maxVariants)
}

/** Whether a request selects a response (RFC 9111 §4.1), and carries nothing else that its response may depend on. */
export function matchesVary ({ meta: { vary, absent } }: StoredResponse, state: RequestCache): boolean {
  for (const name in vary) if (normalizeSelecting(name, ownHeaders(state.request)[name]) !== vary[name]) return false
  return (absent === undefined && (state.reads === undefined || state.reads.isEmpty)) ||
    isRightByReads(state, absent, Object.keys(vary))
}
