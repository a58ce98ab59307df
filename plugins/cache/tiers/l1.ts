import { LRUCache } from 'lru-cache'
import type { Counts } from '../stats.js'
import { bytesOf, ownEntry, type Entry } from '../store/entry.js'
import type { CacheKey } from '../store/cache-key.js'
import { EVERYTHING, PATTERNS } from '../store/store.js'

interface Kept {
  entry: Entry
  id: string
  counts: Counts
  /** What had been heard when it was read. */
  mark: number
}

const MAX_TAGS = 100_000
const MAX_REMOVED = 10_000

/**
 * The first tier: entries in this process, bounded in bytes. What is heard to be invalid is gone at once, also what was
 * being read meanwhile: `mark` is taken before the read.
 */
export class L1 {
  readonly #kept: LRUCache<string, Kept>
  readonly #textOf = new Map<string, string>()
  /** The mark of a tag's last invalidation. */
  readonly #tags = new LRUCache<string, number>({ max: MAX_TAGS, dispose: (mark, _tag, reason) => { if (reason === 'evict') this.#oldest = Math.max(this.#oldest, mark) } })
  readonly #removed = new LRUCache<string, number>({ max: MAX_REMOVED, dispose: (mark, _id, reason) => { if (reason === 'evict') this.#readSince = Math.max(this.#readSince, mark) } })
  #mark = 0
  // Tags were dropped: what is kept with an older mark may have one of them.
  #oldest = 0
  // Removals were dropped: what was read with an older mark may be one of them.
  #readSince = 0

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

  get mark (): number { return this.#mark }
  get bytes (): number { return this.#kept.calculatedSize }
  get size (): number { return this.#kept.size }

  has (id: string): boolean {
    return this.#textOf.has(id)
  }

  /** @param now - by the store's clock */
  get (key: CacheKey, now: number): Entry | undefined {
    const kept = this.#kept.get(key.text)
    if (kept === undefined) return undefined
    if (now < kept.entry.storedAt + kept.entry.life && this.#isValid(kept)) return kept.entry
    this.#kept.delete(key.text)
    return undefined
  }

  set (key: CacheKey, entry: Entry, mark: number): void {
    const kept: Kept = { entry: ownEntry(entry), id: key.id, counts: key.counts, mark }
    if (mark < this.#readSince || (this.#removed.get(key.id) ?? 0) > mark || !this.#isValid(kept)) return
    this.#textOf.set(key.id, key.text)
    this.#kept.set(key.text, kept)
    // Larger than all there is to keep it in.
    if (!this.#kept.has(key.text)) this.#textOf.delete(key.id)
  }

  invalidate (tags: readonly string[]): void {
    if (tags.includes(EVERYTHING) || tags.includes(PATTERNS)) return this.clear()
    this.#mark++
    for (const tag of tags) this.#tags.set(tag, this.#mark)
  }

  remove (ids: readonly string[]): void {
    this.#mark++
    for (const id of ids) {
      this.#removed.set(id, this.#mark)
      const text = this.#textOf.get(id)
      if (text !== undefined) this.#kept.delete(text)
    }
  }

  clear (): void {
    this.#readSince = ++this.#mark
    this.#kept.clear()
  }

  #drop ({ id, entry, counts }: Kept, reason: LRUCache.DisposeReason): void {
    counts.l1Entries--
    counts.l1Bytes -= bytesOf(entry)
    if (reason === 'evict') counts.l1Evicted++
    if (reason !== 'set') this.#textOf.delete(id)
  }

  #isValid ({ entry, mark }: Kept): boolean {
    if (mark < this.#oldest) return false
    for (const tag in entry.tags) {
      const invalidated = this.#tags.get(tag)
      if (invalidated !== undefined && invalidated > mark) return false
    }
    return true
  }
}
