import type { Milliseconds } from '../../shared/plugin/units.js'
import type { CacheKey } from '../store/cache-key.js'
import { isRecord, type Entry } from '../store/entry.js'
import { EntryTags } from '../store/entry-tags.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { toBytes, type Serializer } from './serializer.js'
import type { ValuePlan } from './value-options.js'

/** Stored with each value. Times are milliseconds since the epoch, by the store's clock. */
interface ValueMeta {
  /** When the TTL ends. */
  staleAt: number
  /** Until when the value may be served while it is refreshed. */
  revalidateUntil: number
  /** The serializer's name. */
  format: string
  /** Whether the value is `undefined`, which not every serializer can represent. */
  isAbsent?: boolean
}

/** A value that was read from the cache. */
export interface CachedValue<T> {
  value: T
  /** `stale`: may be served while it is refreshed; `fallback`: may be served if its factory fails. */
  state: 'fresh' | 'stale' | 'fallback'
  /** The share of its TTL that is left: 1 when it was stored, 0 when it expires. */
  remainingShare: number
}

/** A serialized value, whose time of storage and tag versions are not known yet. */
interface ValueDraft {
  readonly label: string
  readonly body: Buffer
  readonly isAbsent: boolean
  /** 0: the value is not stored. */
  readonly ttl: Milliseconds
  readonly staleWhileRevalidate: Milliseconds
  readonly staleIfError: Milliseconds
}

/** Converts between values and entries. */
export class ValueCodec {
  readonly #cache: TwoTierCache
  readonly #serializer: Serializer
  readonly #frozen: WeakMap<Entry, unknown> | undefined
  readonly #entryTags = new EntryTags()

  /** @param freezes - whether all readers of an entry share one frozen value, in place of a copy each */
  constructor (cache: TwoTierCache, serializer: Serializer, freezes = false) {
    this.#cache = cache
    this.#serializer = serializer
    this.#frozen = freezes ? new WeakMap() : undefined
  }

  /** @returns undefined for an entry that holds no value, is damaged, or was written by another serializer */
  read<T> (entry: Entry | undefined): CachedValue<T> | undefined {
    if (!isValue(entry) || entry.meta.format !== this.#serializer.name) return undefined
    const { staleAt, revalidateUntil, isAbsent } = entry.meta
    const now = this.#cache.now()
    const state = now < staleAt ? 'fresh' : now < revalidateUntil ? 'stale' : 'fallback'
    try {
      const value = isAbsent
        ? undefined
        : this.#frozen === undefined ? this.#serializer.deserialize(entry.body) : this.#frozenValue(entry)
      return { value: value as T, state, remainingShare: (staleAt - now) / (staleAt - entry.storedAt) }
    } catch {
      return undefined
    }
  }

  #frozenValue (entry: Entry): unknown {
    const shared = this.#frozen?.get(entry)
    if (shared !== undefined) return shared
    const value = freeze(this.#serializer.deserialize(entry.body))
    this.#frozen?.set(entry, value)
    return value
  }

  /** @returns for how long the result of a factory or a writer is fresh */
  ttlOf (value: unknown, { ttl, negativeTtl }: ValuePlan): Milliseconds | Promise<Milliseconds> {
    return value === undefined || value === null ? negativeTtl : ttl(value)
  }

  /**
   * Serializes a value, and shortens its TTL by the jitter.
   *
   * @throws `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE`
   */
  draft ({ label }: CacheKey, value: unknown, ttl: Milliseconds, plan: ValuePlan): ValueDraft {
    const isAbsent = value === undefined
    // A value that was not found is never served stale: it may exist by now.
    const { staleWhileRevalidate, staleIfError } = isAbsent || value === null ? NEVER_STALE : plan
    const body = isAbsent ? Buffer.alloc(0) : toBytes(this.#serializer, value, label)
    return { label, body, isAbsent, ttl: ttl * (1 - plan.jitter * Math.random()), staleWhileRevalidate, staleIfError }
  }

  /** @param versions - by tag, as they were when the computation of the value began */
  toEntry (draft: ValueDraft, storedAt: number, versions: Readonly<Record<string, string>>): Entry<ValueMeta> {
    const { label, body, isAbsent, ttl, staleWhileRevalidate, staleIfError } = draft
    const tags = this.#entryTags.of(versions)
    const staleAt = storedAt + ttl
    const revalidateUntil = staleAt + staleWhileRevalidate
    const meta = { staleAt, revalidateUntil, format: this.#serializer.name, ...isAbsent && { isAbsent } }
    const deleteAt = ttl === 0 ? storedAt : Math.max(revalidateUntil, staleAt + staleIfError)
    return { kind: 'value', label, meta, body, storedAt, deleteAt, tags }
  }
}

const NEVER_STALE = { staleWhileRevalidate: 0, staleIfError: 0 }

/** Returns whether an entry holds a value. Entries of the store may be damaged. */
export function isValue (entry: Entry | undefined): entry is Entry<ValueMeta> {
  if (entry?.kind !== 'value' || !isRecord(entry.meta)) return false
  const { staleAt, revalidateUntil, format } = entry.meta
  return Number.isFinite(staleAt) && Number.isFinite(revalidateUntil) && typeof format === 'string'
}

/** Freezes a value, as deep as JSON goes. */
function freeze (value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  for (const member of Object.values(value)) freeze(member)
  return Object.freeze(value)
}
