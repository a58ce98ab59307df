import { randomUUID } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { hashId } from '../../shared/plugin/keys.js'
import type { CacheKey } from '../store/cache-key.js'
import { type Entry, type VariantsMeta, isVariants } from '../store/entry.js'
import { EntryTags } from '../store/entry-tags.js'
import { ALL_TAG } from '../store/store.js'
import type { Fill } from '../tiers/coalescing.js'
import type { TwoTierCache, Lookup } from '../tiers/two-tier-cache.js'
import { variantKey } from './request-key.js'
import type { Filling, RequestCache } from './request-state.js'
import type { StoredResponse } from './stored-response.js'

/** How often a variant is added to a list that other requests change at the same time. */
const MAX_ATTEMPTS = 5

/** A whole response that is to be stored. */
export interface StorableResponse extends Pick<StoredResponse, 'meta' | 'body' | 'encoded' | 'deleteAt'> {
  /** The request headers that distinguish its variants. */
  varies: readonly string[]
}

/** Stores a response where requests of its kind look for it, and lets waiting requests proceed. */
export async function storeResponse (state: RequestCache, filling: Filling, response: StorableResponse): Promise<void> {
  const { cache: { core }, extraTags } = state
  const { fill, found: { base } } = filling
  const { key } = base
  if (fill.versions === undefined) {
    // The store is unavailable, but requests that wait in this process may share the response.
    fill.finish(entryOf(response, key.label, {}, fill.startedAt))
    return
  }
  const tags = await versionsOf(core, fill, extraTags)
  if (tags === undefined) {
    core.withdraw(fill.lookup)
    fill.finish(undefined)
    return
  }
  const entry = entryOf(response, key.label, tags, fill.startedAt)
  const place = response.varies.length === 0 && !isVariants(base.entry)
    ? { lookup: fill.lookup, isWritten: false }
    : await placeOf(state, filling, entry, response.varies)
  if (place === undefined) return fill.finish(entry)
  if (place.lookup.key.text === fill.lookup.key.text) {
    await fill.store(entry)
    return
  }
  fill.finish(entry, place.isWritten || await core.write(place.lookup, entry, fill.versions))
}

export function entryOf (
  { meta, deleteAt, body, encoded }: StorableResponse, label: string, tags: Record<string, string>, storedAt: number
): StoredResponse {
  return { kind: 'response', label, meta, body, encoded, storedAt, deleteAt, tags }
}

const entryTags = new EntryTags()

/**
 * Returns the versions of all tags of a response; undefined where a tag that the handler added was invalidated during
 * the fill.
 */
async function versionsOf (
  core: TwoTierCache, { versions, startedAt }: Fill, extraTags: readonly string[]
): Promise<Record<string, string> | undefined> {
  const known = entryTags.of(versions ?? {})
  if (extraTags.length === 0) return known
  const extra = await core.versionsSince(extraTags, startedAt)
  return extra && { ...extra, ...known }
}

interface Place {
  lookup: Lookup
  /** Whether the response is stored there already. */
  isWritten: boolean
}

/**
 * Returns where a response that varies by request headers is stored.
 *
 * The key holds a list of the header names and of the variants, and each variant has a key of its own (RFC 9111 §4.1).
 * The list is bounded: the least recently used variant is evicted.
 *
 * @returns undefined where the list could not be written, so that the response would not be found
 */
async function placeOf (
  { cache: { core }, request: { headers }, route }: RequestCache, { fill, found }: Filling, entry: StoredResponse,
  varies: readonly string[]
): Promise<Place | undefined> {
  let { base } = found
  const { key } = base
  const { versions } = fill
  if (versions === undefined) return undefined
  let known = isVariants(base.entry) ? base.entry : undefined
  const names = [...new Set([...known?.meta.names ?? [], ...varies])].sort()
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
    // With more names the present variants can no longer be found.
    const list = known?.meta.names.length === names.length ? known.meta : undefined
    const meta: VariantsMeta = list ?? { names, nonce: randomUUID(), origin: base.snapshot?.token ?? '', ids: [] }
    const variant = variantKey(key, meta, headers)
    const lookup: Lookup = variant.text === fill.lookup.key.text
      ? fill.lookup
      : { ...base, key: variant, snapshot: base.snapshot && { versions: base.snapshot.versions, token: '' } }
    if (list?.ids.includes(variant.id)) return { lookup, isWritten: false }

    const ids = [...route.variantUses.inOrder(key.text, meta.ids), variant.id]
    const evicted = ids.splice(0, Math.max(0, ids.length - route.maxVariants))
    // A new list is published after its response: another instance that finds the list would fill the response again.
    const isWritten = list === undefined && await core.write(lookup, entry, versions)
    if (await core.write(base, listOf(key, { ...meta, ids }, entry, known), versions)) {
      core.evict(evicted)
      return { lookup, isWritten }
    }
    // No list leads to the response.
    if (isWritten) core.evict([variant.id])
    // Another request has changed the list. If it is the same list, or one that replaced the same entry, the key was
    // not removed since.
    const now = await core.lookup(key, [])
    if (!isVariants(now.entry) || now.entry.meta.names.join() !== names.join()) return undefined
    if (now.entry.meta.nonce !== meta.nonce && now.entry.meta.origin !== meta.origin) return undefined
    base = now
    known = now.entry
  }
  return undefined
}

function listOf (
  key: CacheKey, meta: VariantsMeta, entry: StoredResponse, known: Entry<VariantsMeta> | undefined
): Entry<VariantsMeta> {
  const allVersion = entry.tags[ALL_TAG]
  return {
    kind: 'variants',
    label: key.label,
    meta,
    body: Buffer.alloc(0),
    storedAt: entry.storedAt,
    deleteAt: Math.max(entry.deleteAt, known?.deleteAt ?? 0),
    tags: allVersion === undefined ? {} : { [ALL_TAG]: allVersion }
  }
}

const MAX_KEYS = 1000
/** The length of a variant's key in characters: clients choose the length of the headers that it holds. */
const MAX_KEY_LENGTH = 500

/**
 * The variants that this process has served, so that the least recently used one is evicted first. Uses are recorded
 * only while there is no room for another variant, so that a hit costs next to nothing before.
 */
export class VariantUses {
  /** By the text of a key, the texts of its variants' keys, the most recently used one last. */
  #uses: LRUCache<string, Set<string>> | undefined

  /** @param maxVariants - how many uses are recorded at most */
  record (key: string, variant: string, maxVariants: number): void {
    if (variant.length > MAX_KEY_LENGTH) return
    this.#uses ??= new LRUCache({ max: MAX_KEYS })
    let used = this.#uses.get(key)
    if (used === undefined) this.#uses.set(key, used = new Set())
    used.delete(variant)
    used.add(variant)
    if (used.size <= maxVariants) return
    const [oldest = ''] = used
    used.delete(oldest)
  }

  /**
   * Returns the ids in the order of their last use. Those that this process has not used come first, in their given
   * order.
   */
  inOrder (key: string, ids: readonly string[]): string[] {
    const used = this.#uses?.get(key)
    if (used === undefined) return [...ids]
    const recent = [...used].map(hashId).filter(id => ids.includes(id))
    return [...ids.filter(id => !recent.includes(id)), ...recent]
  }
}
