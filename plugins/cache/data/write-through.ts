import { toError } from '../../shared/plugin/errors.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { FactoryTimeoutError } from '../errors.js'
import { runFactory } from './run-factory.js'
import type { CacheKey } from '../store/cache-key.js'
import { ALL_TAG, TOMBSTONE_MS, type FillLease, type WriteLock } from '../store/store.js'
import type { TaggedPlan } from './value-options.js'
import { entryOf, type ValueCodec } from './value-codec.js'

/** Writes a value to its source. @returns what is there now, where that is not what was given */
export type Writer<T> = (value: T, context: { key: string, signal: AbortSignal }) => T | void | Promise<T | void>

/** What one call is about. */
interface Call<T> {
  key: CacheKey
  value: T
  writer: Writer<T>
  plan: TaggedPlan
  invalidates: readonly string[]
}

/**
 * Writes the source, then the cache. While the source is being written the key is marked: nothing is read of it, and
 * nothing that others read from the source meanwhile is stored. Whoever dies in between leaves the mark, which means "not
 * there". Of several writers of a key at once none knows whose the source took last, so the value is removed.
 */
export class WriteThrough {
  readonly #core: TwoTierCache
  readonly #values: ValueCodec

  constructor (core: TwoTierCache, values: ValueCodec) {
    this.#core = core
    this.#values = values
  }

  /** @throws what the writer throws: then the cache is as it was */
  async write<T> (call: Call<T>): Promise<T> {
    const { key, value, plan, invalidates } = call
    // What cannot be stored is said before anything is written.
    this.#values.draft(key, value, 0, plan)
    const begin = this.#core.acquireFill(`${key.id}.through`, '', [ALL_TAG, ...plan.tags], 1)
    const [mark, begun] = await Promise.all([this.#core.lockKey(key), begin])
    const written = await this.#writeSource(call, mark)
    // What cannot be invalidated now is, as soon as that can be.
    const invalidated = invalidates.length > 0 && this.#core.invalidate(invalidates).catch(() => {})
    if (!await this.#store(call, written, mark, begun).catch(error => this.#tell(key, error))) await this.#remove(key)
    await invalidated
    return written
  }

  async #writeSource<T> ({ key, value, writer, plan: { hardTimeout } }: Call<T>, mark: WriteLock | undefined): Promise<T> {
    let writing: Promise<T | void> = Promise.resolve()
    try {
      const work = (signal: AbortSignal): Promise<T | void> => {
        writing = Promise.resolve(writer(value, { key: key.label, signal }))
        return writing
      }
      const returned = await runFactory(work, { key: key.label, hardTimeout, clock: this.#core.clock })
      return returned === undefined ? value : returned
    } catch (error) {
      // What is still being written may be there at any time until it ends.
      if (error instanceof FactoryTimeoutError) writing.catch(() => {}).finally(() => this.#remove(key)).catch(() => {})
      // A mark that was there before is another writer's, who may have succeeded.
      else if (mark?.wasLocked === false) await this.#core.unlockKey(key, mark)
      // It may have been written all the same, and would stand for long.
      else if (mark === undefined) await this.#remove(key)
      throw error
    }
  }

  async #store<T> ({ key, plan }: Call<T>, written: T, mark: WriteLock | undefined, begun: FillLease | undefined): Promise<boolean> {
    const draft = this.#values.draft(key, written, await this.#values.ttlOf(written, plan), plan)
    if (mark === undefined || begun === undefined || draft.life === 0) return false
    const late = await plan.tagsOf?.(written) ?? []
    const lateVersions = late.length === 0 ? {} : await this.#core.versionsSince(late, begun.now)
    if (lateVersions === undefined) return false
    const versions = { ...lateVersions, ...begun.versions }
    const lookup = { key, snapshot: { token: mark.token, versions }, epoch: this.#core.epoch }
    // As long as a tombstone, so that what was begun before is refused even if this expires.
    return await this.#core.write(lookup, entryOf(draft, begun.now, versions), versions, TOMBSTONE_MS)
  }

  /** The source is written: that its value cannot be cached is told, and not thrown. */
  #tell (key: CacheKey, error: unknown): false {
    this.#core.events.emit('error', { key: key.label, error: toError(error) })
    return false
  }

  async #remove (key: CacheKey): Promise<void> {
    await this.#core.remove([key]).catch(() => {})
  }
}
