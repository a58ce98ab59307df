import { LRUCache } from 'lru-cache'
import type { StatsCounter } from '../stats.js'
import { bytesOf, ownEntry, type Entry } from '../store/entry.js'
import type { CacheKey } from '../store/cache-key.js'
import { ALL_TAG, PATTERN_TAG } from '../store/store.js'

interface Slot {
  entry: Entry
  id: string
  counts: StatsCounter
  /** What had been heard when it was read. */
  epoch: number
}

const MAX_TAGS = 100_000
const MAX_REMOVED = 10_000

/**
 * The first tier: entries in this process, bounded in bytes. What is heard to be invalid is gone at once, also what was
 * being read meanwhile: `mark` is taken before the read.
 */
export class L1 {
  readonly #kept: LRUCache<string, Slot>
  readonly #textOf = new Map<string, string>()
  /** The mark of a tag's last invalidation. */
  readonly #tags = new LRUCache<string, number>({ max: MAX_TAGS, dispose: (epoch, _tag, reason) => { if (reason === 'evict') this.#minTagEpoch = Math.max(this.#minTagEpoch, epoch) } })
  readonly #removed = new LRUCache<string, number>({ max: MAX_REMOVED, dispose: (mark, _id, reason) => { if (reason === 'evict') this.#minReadEpoch = Math.max(this.#minReadEpoch, mark) } })
  #epoch = 0
  // Tags were dropped: what is kept with an older mark may have one of them.
  #minTagEpoch = 0
  // Removals were dropped: what was read with an older mark may be one of them.
  #minReadEpoch = 0

  /** @param maxSize - bytes */
  constructor (maxSize: number) {
    this.#kept = new LRUCache({
      maxSize,
      sizeCalculation: ({ entry }) => bytesOf(entry),
      onInsert: ({ entry, counts }) => {
        counts.l1Entries++
        counts.l1Bytes += bytesOf(entry)
      },
      dispose: (kept, _text, reason) => this.#drop(kept, reason)
    })
  }

  get mark (): number { return this.#epoch }
  get bytes (): number { return this.#kept.calculatedSize }
  get size (): number { return this.#kept.size }

  has (id: string): boolean {
    return this.#textOf.has(id)
  }

  /** @param now - by the store's clock */
  get (key: CacheKey, now: number): Entry | undefined {
    const kept = this.#kept.get(key.text)
    if (kept === undefined) return undefined
    if (now < kept.entry.deleteAt && this.#isValid(kept)) return kept.entry
    this.#kept.delete(key.text)
    return undefined
  }

  set (key: CacheKey, entry: Entry, mark: number): void {
    const kept: Slot = { entry: ownEntry(entry), id: key.id, counts: key.counts, epoch: mark }
    if (mark < this.#minReadEpoch || (this.#removed.get(key.id) ?? 0) > mark || !this.#isValid(kept)) return
    this.#textOf.set(key.id, key.text)
    this.#kept.set(key.text, kept)
    // Larger than all there is to keep it in.
    if (!this.#kept.has(key.text)) this.#textOf.delete(key.id)
  }

  invalidate (tags: readonly string[]): void {
    if (tags.includes(ALL_TAG) || tags.includes(PATTERN_TAG)) return this.clear()
    this.#epoch++
    for (const tag of tags) this.#tags.set(tag, this.#epoch)
  }

  remove (ids: readonly string[]): void {
    this.#epoch++
    for (const id of ids) {
      this.#removed.set(id, this.#epoch)
      const text = this.#textOf.get(id)
      if (text !== undefined) this.#kept.delete(text)
    }
  }

  clear (): void {
    this.#minReadEpoch = ++this.#epoch
    this.#kept.clear()
  }

  #drop ({ id, entry, counts }: Slot, reason: LRUCache.DisposeReason): void {
    counts.l1Entries--
    counts.l1Bytes -= bytesOf(entry)
    if (reason === 'evict') counts.l1Evicted++
    if (reason !== 'set') this.#textOf.delete(id)
  }

  #isValid ({ entry, epoch }: Slot): boolean {
    if (epoch < this.#minTagEpoch) return false
    for (const tag in entry.tags) {
      const invalidated = this.#tags.get(tag)
      if (invalidated !== undefined && invalidated > epoch) return false
    }
    return true
  }
}
