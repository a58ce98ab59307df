import { toError } from '../../shared/plugin/errors.js'
import { FactoryTimeoutError } from '../errors.js'
import type { CacheKey } from '../store/cache-key.js'
import { ALL_TAG, TOMBSTONE_MS, type FillStart, type WriteLock } from '../store/store.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { runFactory } from './run-factory.js'
import type { ValueCodec } from './value-codec.js'
import type { TaggedPlan } from './value-options.js'

/** Writes a value to its source. @returns the value that the source holds now, if it differs from `value` */
export type Writer<T> = (value: T, context: { key: string, signal: AbortSignal }) => T | void | Promise<T | void>

interface Call<T> {
  key: CacheKey
  value: T
  writer: Writer<T>
  plan: TaggedPlan
  invalidates: readonly string[]
}

/**
 * Writes the source, then the cache.
 *
 * The key is locked while the source is written: it reads as missing, and no fill stores a value that it read from the
 * source meanwhile. A process that dies leaves the lock, which expires. Concurrent writers of one key cannot know the
 * order of their writes in the source, so the value is removed.
 */
export class WriteThrough {
  readonly #cache: TwoTierCache
  readonly #codec: ValueCodec

  constructor (cache: TwoTierCache, codec: ValueCodec) {
    this.#cache = cache
    this.#codec = codec
  }

  /** @throws the error of the writer: the cache is as it was before */
  async write<T> (call: Call<T>): Promise<T> {
    const { key, value, plan, invalidates } = call
    // Refuses a value that cannot be stored before the source is written.
    this.#codec.draft(key, value, 0, plan)
    const starting = this.#cache.attempt(() => this.#cache.store.tags([ALL_TAG, ...plan.tags]))
    const [lock, start] = await Promise.all([this.#cache.lockKey(key), starting])
    const written = await this.#writeSource(call, lock)
    // An invalidation that fails is pending, and repeated until it succeeds.
    const invalidated = invalidates.length > 0 && this.#cache.invalidate(invalidates).catch(() => {})
    const isStored = await this.#store(call, written, lock, start).catch((error: unknown) => {
      // The source is written, so the call has succeeded.
      this.#cache.events.emit('error', { key: key.label, error: toError(error) })
      return false
    })
    if (!isStored) await this.#remove(key)
    await invalidated
    return written
  }

  async #writeSource<T> (
    { key, value, writer, plan: { hardTimeout } }: Call<T>, lock: WriteLock | undefined
  ): Promise<T> {
    let writing: Promise<T | void> = Promise.resolve()
    try {
      const work = (signalOf: () => AbortSignal): Promise<T | void> => {
        writing = Promise.resolve(writer(value, { key: key.label, signal: signalOf() }))
        return writing
      }
      const returned = await runFactory(work, { key: key.label, hardTimeout, clock: this.#cache.clock })
      return returned === undefined ? value : returned
    } catch (error) {
      // A writer that timed out may still change the source until it ends.
      if (error instanceof FactoryTimeoutError) writing.catch(() => {}).finally(() => this.#remove(key)).catch(() => {})
      // A lock that was there before belongs to another writer, which may have succeeded.
      else if (lock?.wasLocked === false) await this.#cache.attempt(() => lock.unlock())
      // The lock may have been written although its reply was lost, and would last for minutes.
      else if (lock === undefined) await this.#remove(key)
      throw error
    }
  }

  /** @returns whether the value is cached */
  async #store<T> (
    { key, plan }: Call<T>, written: T, lock: WriteLock | undefined, start: FillStart | undefined
  ): Promise<boolean> {
    const draft = this.#codec.draft(key, written, await this.#codec.ttlOf(written, plan), plan)
    if (lock === undefined || start === undefined || draft.ttl === 0) return false
    const lateTags = await plan.tagsOf?.(written) ?? []
    const lateVersions = lateTags.length === 0 ? {} : await this.#cache.versionsSince(lateTags, start.now)
    if (lateVersions === undefined) return false
    const versions = { ...lateVersions, ...start.versions }
    const lookup = { key, snapshot: { token: lock.token, versions }, epoch: this.#cache.epoch }
    // Held as long as a tombstone: fills that began before are refused even if the value expires.
    return await this.#cache.write(lookup, this.#codec.toEntry(draft, start.now, versions), versions, TOMBSTONE_MS)
  }

  async #remove (key: CacheKey): Promise<void> {
    await this.#cache.remove([key]).catch(() => {})
  }
}
