import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { isValue, type Entry, type ValueMeta } from '../store/entry.js'
import type { CacheKey } from '../store/cache-key.js'
import { toBytes, type Serializer } from './serializer.js'
import { PATTERN_TAG } from '../store/store.js'
import type { ValuePlan } from './value-options.js'

/** A value that is there. */
export interface ReadValue<T> {
  value: T
  /** `stale`: to be given while it is made anew; `fallback`: where that fails. */
  state: 'fresh' | 'stale' | 'fallback'
  /** How much of its ttl is left: milliseconds, and as a part. */
  left: number
  leftPart: number
}

/** What a value is stored as, before the versions of its tags are known. */
export interface UnsavedValue extends Omit<Entry<ValueMeta>, 'storedAt' | 'deleteAt' | 'tags'> {
  /** How long both tiers keep it: milliseconds; 0: not at all. */
  life: number
}

/** Values as entries. */
export class ValueCodec {
  readonly #core: TwoTierCache
  readonly #serializer: Serializer
  readonly #shared: WeakMap<Entry, unknown> | undefined

  /** @param freezes - whether all who read an entry get the same value, frozen, in place of a copy each */
  constructor (core: TwoTierCache, serializer: Serializer, freezes = false) {
    this.#core = core
    this.#serializer = serializer
    this.#shared = freezes ? new WeakMap() : undefined
  }

  /** @returns undefined for what is none, or was written by another serializer, or is damaged */
  read<T> (entry: Entry | undefined): ReadValue<T> | undefined {
    if (!isValue(entry) || entry.meta.format !== this.#serializer.name) return undefined
    const { fresh, staleWhileRevalidate, isAbsent } = entry.meta
    const left = entry.storedAt + fresh - this.#core.now()
    const state = left > 0 ? 'fresh' : left + staleWhileRevalidate > 0 ? 'stale' : 'fallback'
    try {
      const value = isAbsent ? undefined : this.#valueOf(entry)
      return { value: value as T, state, left, leftPart: left / fresh }
    } catch {
      return undefined
    }
  }

  /**
   * @param ttl - milliseconds
   * @throws `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE`
   */
  draft (key: CacheKey, value: unknown, ttl: number, { jitter, staleWhileRevalidate, staleIfError }: ValuePlan): UnsavedValue {
    const isAbsent = value === undefined
    const fresh = ttl * (1 - jitter * Math.random())
    // What was not found is not given once it is stale: it may be there now.
    const isNegative = isAbsent || value === null
    const [revalidate, error] = isNegative ? [0, 0] : [staleWhileRevalidate, staleIfError]
    const body = isAbsent ? Buffer.alloc(0) : toBytes(this.#serializer, value, key.label)
    const meta: ValueMeta = { fresh, staleWhileRevalidate: revalidate, staleIfError: error, format: this.#serializer.name, ...isAbsent && { isAbsent } }
    return { kind: 'value', label: key.label, meta, body, life: fresh === 0 ? 0 : fresh + Math.max(revalidate, error) }
  }

  #valueOf (entry: Entry): unknown {
    if (this.#shared === undefined) return this.#serializer.deserialize(entry.body)
    const present = this.#shared.get(entry)
    if (present !== undefined) return present
    const value = freeze(this.#serializer.deserialize(entry.body))
    this.#shared.set(entry, value)
    return value
  }

  /** For how many milliseconds what a factory or writer returned is kept. */
  ttlOf (value: unknown, { ttlOf, negativeTtl }: ValuePlan): number | Promise<number> {
    return value === undefined || value === null ? negativeTtl : ttlOf(value)
  }
}

export function entryOf ({ life, ...draft }: UnsavedValue, storedAt: number, versions: Readonly<Record<string, string>>): Entry<ValueMeta> {
  const { [PATTERN_TAG]: _, ...tags } = versions
  return { ...draft, storedAt, deleteAt: storedAt + life, tags }
}

/** As deep as JSON goes. */
function freeze (value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  for (const member of Object.values(value)) freeze(member)
  return Object.freeze(value)
}
