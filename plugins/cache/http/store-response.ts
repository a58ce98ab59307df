import { randomUUID } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { hashId } from '../../shared/plugin/keys.js'
import type { CacheKey } from '../store/cache-key.js'
import { type Entry, type VariantsMeta, isVariants } from '../store/entry.js'
import { ALL_TAG, PATTERN_TAG } from '../store/store.js'
import type { TwoTierCache, Lookup } from '../tiers/two-tier-cache.js'
import { variantKey } from './request-key.js'
import type { RequestCache } from './request-state.js'
import type { StoredResponse } from './stored-response.js'

// How often a variant is entered into a list that others change at the same time.
const MAX_ATTEMPTS = 5

type RequestHeaders = Record<string, string | string[] | undefined>

/** What an answer is kept as. */
interface Made extends Pick<StoredResponse, 'meta' | 'body' | 'encoded'> {
  /** How long both tiers keep it: milliseconds. */
  life: number
}

/** Puts an answer where requests of its kind look for it, and lets those go on who wait for it. */
export async function storeResponse (core: TwoTierCache, headers: RequestHeaders, state: RequestCache, entry: Made, varies: readonly string[]): Promise<boolean> {
  const { fill, key, base } = state
  if (fill?.versions === undefined || key === undefined || base === undefined) {
    // It cannot be stored, but those who wait in this process may have it.
    fill?.finish(entryOf(entry, key?.label ?? '', {}, fill.startedAt))
    return false
  }
  const tags = await tagsOf(core, state)
  if (tags === undefined) {
    core.withdraw(fill.lookup)
    fill.finish(undefined)
    return false
  }
  const whole = entryOf(entry, key.label, tags, fill.startedAt)
  if (varies.length === 0 && !isVariants(base.entry)) return await fill.store(whole)
  const place = await placeOf(core, headers, state, whole, varies)
  if (place === undefined) {
    fill.finish(whole)
    return false
  }
  if (place.lookup.key.text === fill.lookup.key.text) return await fill.store(whole)
  const stored = place.isWritten || await core.write(place.lookup, whole, fill.versions)
  fill.finish(whole, stored)
  return stored
}

export function entryOf ({ life, ...entry }: Made, label: string, tags: Record<string, string>, storedAt: number): StoredResponse {
  return { kind: 'response', label, ...entry, storedAt, deleteAt: storedAt + life, tags }
}

/** The versions of the route's tags, and of those that the handler named, unless one of these was invalidated meanwhile. */
async function tagsOf (core: TwoTierCache, { fill, extraTags }: RequestCache): Promise<Record<string, string> | undefined> {
  const { [PATTERN_TAG]: _, ...versions } = fill?.versions ?? {}
  if (fill === undefined || extraTags.length === 0) return versions
  const extra = await core.versionsSince(extraTags, fill.startedAt)
  return extra && { ...extra, ...versions }
}

interface Place {
  lookup: Lookup
  /** Whether the response is stored there already. */
  isWritten: boolean
}

/**
 * Where answers of a key differ by request headers, it holds the names of these, and the answers lie under keys of their
 * own. Their number is bounded: the one that was used least recently goes when there are too many.
 */
async function placeOf (core: TwoTierCache, headers: RequestHeaders, state: RequestCache, entry: StoredResponse, varies: readonly string[]): Promise<Place | undefined> {
  const { fill, key, route } = state
  let { base } = state
  if (fill?.versions === undefined || key === undefined || base === undefined) return undefined
  let known = isVariants(base.entry) ? base.entry : undefined
  const names = [...new Set([...known?.meta.names ?? [], ...varies])].sort()
  for (let tries = 1; tries <= MAX_ATTEMPTS; tries++) {
    // With more names the present variants cannot be found any more.
    const isSame = known !== undefined && known.meta.names.length === names.length
    const meta: VariantsMeta = isSame && known ? known.meta : { names, nonce: randomUUID(), origin: base.snapshot?.token ?? '', ids: [] }
    const place = variantKey(key, meta, headers)
    const lookup: Lookup = place.text === fill.lookup.key.text ? fill.lookup : { ...base, key: place, snapshot: base.snapshot && { versions: base.snapshot.versions, token: '' } }
    if (isSame && meta.ids.includes(place.id)) return { lookup, isWritten: false }

    const ids = [...route.variantUses.inOrder(key.text, meta.ids), place.id]
    const dropped = ids.splice(0, Math.max(0, ids.length - route.maxVariants))
    // A new list is published after the response that it leads to: an instance that finds the list would otherwise make that response again.
    const isWritten = !isSame && await core.write(lookup, entry, fill.versions)
    if (await core.write(base, listOf(key, { ...meta, ids }, entry, known), fill.versions)) {
      core.evict(dropped)
      return { lookup, isWritten }
    }
    // Nothing leads there.
    if (isWritten) core.evict([place.id])
    // Somebody else put another variant there. Only of the same list, or of one that was made in the same place of nothing, is it
    // certain that the key was not removed meanwhile; and what is in no list would never be dropped.
    const now = await core.lookup(key, [])
    if (!isVariants(now.entry) || now.entry.meta.names.join() !== names.join()) return undefined
    if (now.entry.meta.nonce !== meta.nonce && now.entry.meta.origin !== meta.origin) return undefined
    base = now
    known = now.entry
  }
  return undefined
}

function listOf (key: CacheKey, meta: VariantsMeta, entry: StoredResponse, known: Entry<VariantsMeta> | undefined): Entry<VariantsMeta> {
  const everything = entry.tags[ALL_TAG]
  return {
    kind: 'variants',
    label: key.label,
    meta,
    body: Buffer.alloc(0),
    storedAt: entry.storedAt,
    deleteAt: Math.max(entry.deleteAt, known?.deleteAt ?? 0),
    tags: everything === undefined ? {} : { [ALL_TAG]: everything }
  }
}

const MOST_KEYS = 1000

/** A client chooses how long the header is that the text holds. */
const LONGEST_TEXT = 500

/**
 * Which variants of a key this process has served, so that the one that was used least recently is the first to go. Uses are recorded only
 * while there is no room for another variant: a hit costs next to nothing before that.
 */
export class VariantUses {
  /** By the text of the key, the texts of its variants' keys, the one used last at the end. */
  #uses: LRUCache<string, Set<string>> | undefined

  /** @param maxVariants - how many variants there may be, so that this is the bound of what is recorded as well */
  record (key: string, variant: string, maxVariants: number): void {
    if (variant.length > LONGEST_TEXT) return
    this.#uses ??= new LRUCache({ max: MOST_KEYS })
    let used = this.#uses.get(key)
    if (used === undefined) this.#uses.set(key, used = new Set())
    used.delete(variant)
    used.add(variant)
    if (used.size <= maxVariants) return
    const [oldest = ''] = used
    used.delete(oldest)
  }

  /** @returns the ids in the order of their last use, those that this process has not used first, in the order they have */
  inOrder (key: string, ids: readonly string[]): string[] {
    const used = this.#uses?.get(key)
    if (used === undefined) return [...ids]
    const recent = [...used].map(hashId).filter(id => ids.includes(id))
    return [...ids.filter(id => !recent.includes(id)), ...recent]
  }
}
