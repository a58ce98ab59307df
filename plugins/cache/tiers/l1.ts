import { LRUCache } from 'lru-cache'
import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import type { Bytes, Milliseconds } from '../../shared/plugin/units.js'
import type { StatsCounter } from '../stats.js'
import type { CacheKey } from '../store/cache-key.js'
import { bytesOf, ownEntry, type Entry } from '../store/entry.js'
import { ALL_TAG, PATTERN_TAG } from '../store/store.js'

interface Slot {
  entry: Entry
  id: string
  counts: StatsCounter
  /** The epoch before the entry was read. */
  epoch: number
  /** Until when it may be served, by the clock's `monotonic()`. */
  until: number
}

/** Size and age limit of L1. */
export interface L1Limits {
  maxSize: Bytes
  /** How long an entry is served after it was read; undefined where L1 gets the invalidations of other instances. */
  maxAge: Milliseconds | undefined
}

const MAX_TAGS = 100_000
const MAX_REMOVED = 10_000

/**
 * The first of the two tiers: entries in the memory of this process, bounded in bytes.
 *
 * Each invalidation starts an epoch. A reader takes the epoch before it reads the store, so that an entry is not kept
 * that was invalidated while it was being read.
 */
export class L1 {
  readonly #slots: LRUCache<string, Slot>
  readonly #maxAge: Milliseconds
  readonly #clock: Clock
  readonly #textOf = new Map<string, string>()
  /** The epoch of each tag's last invalidation. */
  readonly #tags = new LRUCache<string, number>({
    max: MAX_TAGS,
    dispose: (epoch, _tag, reason) => {
      if (reason === 'evict') this.#minTagEpoch = Math.max(this.#minTagEpoch, epoch)
    }
  })

  /** The epoch of each key's last removal. */
  readonly #removed = new LRUCache<string, number>({
    max: MAX_REMOVED,
    dispose: (epoch, _id, reason) => {
      if (reason === 'evict') this.#minReadEpoch = Math.max(this.#minReadEpoch, epoch)
    }
  })

  #epoch = 0
  /**
   * Tags invalidated up to this epoch are not remembered, so that an entry of an earlier epoch may have one of them.
   */
  #minTagEpoch = 0
  /** Keys removed up to this epoch are not remembered, so that an entry read in an earlier epoch may be one of them. */
  #minReadEpoch = 0

  constructor ({ maxSize, maxAge }: L1Limits, clock: Clock = systemClock) {
    this.#maxAge = maxAge ?? Infinity
    this.#clock = clock
    this.#slots = new LRUCache({
      maxSize,
      sizeCalculation: ({ entry }) => bytesOf(entry),
      onInsert: ({ entry, counts }) => {
        counts.l1Entries++
        counts.l1Bytes += bytesOf(entry)
      },
      dispose: (slot, _text, reason) => this.#onDrop(slot, reason)
    })
  }

  get epoch (): number { return this.#epoch }
  get bytes (): Bytes { return this.#slots.calculatedSize }
  get size (): number { return this.#slots.size }

  has (id: string): boolean {
    return this.#textOf.has(id)
  }

  /** @param now - by the store's clock */
  get (key: CacheKey, now: number): Entry | undefined {
    const slot = this.#slots.get(key.text)
    if (slot === undefined) return undefined
    // Nearly always nothing has been invalidated since the entry was read.
    const isFresh = now < slot.entry.deleteAt && (slot.until === Infinity || this.#clock.monotonic() < slot.until)
    if (isFresh && (slot.epoch === this.#epoch || this.#isValid(slot))) return slot.entry
    this.#slots.delete(key.text)
    return undefined
  }

  /** @param epoch - before the entry was read */
  set (key: CacheKey, entry: Entry, epoch: number): void {
    const until = this.#clock.monotonic() + this.#maxAge
    const slot: Slot = { entry: ownEntry(entry), id: key.id, counts: key.counts, epoch, until }
    if (epoch < this.#minReadEpoch || (this.#removed.get(key.id) ?? 0) > epoch || !this.#isValid(slot)) return
    this.#textOf.set(key.id, key.text)
    this.#slots.set(key.text, slot)
    // An entry larger than all of L1 is not kept.
    if (!this.#slots.has(key.text)) this.#textOf.delete(key.id)
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
      if (text !== undefined) this.#slots.delete(text)
    }
  }

  clear (): void {
    this.#minReadEpoch = ++this.#epoch
    this.#slots.clear()
  }

  #onDrop ({ id, entry, counts }: Slot, reason: LRUCache.DisposeReason): void {
    counts.l1Entries--
    counts.l1Bytes -= bytesOf(entry)
    if (reason === 'evict') counts.l1Evicted++
    if (reason !== 'set') this.#textOf.delete(id)
  }

  #isValid ({ entry, epoch }: Slot): boolean {
    if (epoch < this.#minTagEpoch) return false
    for (const tag in entry.tags) {
      const invalidatedIn = this.#tags.get(tag)
      if (invalidatedIn !== undefined && invalidatedIn > epoch) return false
    }
    return true
  }
}
