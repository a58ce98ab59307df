import { AsyncResource } from 'node:async_hooks'
import { batchesOf } from '../data/batches.js'
import type { Clock, Timer } from './clock.js'
import type { Bytes, Milliseconds } from './units.js'

/** The items that are written together. */
const BATCH = { items: 50, bytes: 1024 * 1024 }

export interface RetryItem {
  /** When the item is given up, by the clock's `monotonic()`. */
  readonly deadline: number
  /** @default 0 */
  readonly bytes?: Bytes
}

interface RetryQueueOptions<T extends RetryItem> {
  clock: Clock
  /** The pause between two attempts. While the circuit is open, an attempt costs nothing. */
  retryDelay: Milliseconds
  /** Writes an item to the store; rejects while the store does not take it. */
  write: (item: T) => Promise<unknown>
  /** Called with each item that was written, given up or removed. */
  onRemove?: (item: T) => void
}

/**
 * Writes what a store did not take as soon as the store is available again, or gives it up at its deadline.
 *
 * Each attempt begins with one item, and writes the others in batches only if the store takes that one: an unavailable
 * store gets one call an attempt.
 */
export class RetryQueue<T extends RetryItem> implements Iterable<T> {
  readonly #options: RetryQueueOptions<T>
  readonly #items = new Set<T>()
  /** Timers run in the context of the plugin: one that a request started would hold that request in memory. */
  readonly #context = new AsyncResource('fastify-redis-suite.RetryQueue')
  #timer: Timer | undefined
  #flushing: Promise<void> | undefined

  constructor (options: RetryQueueOptions<T>) {
    this.#options = options
  }

  get size (): number {
    return this.#items.size
  }

  [Symbol.iterator] (): Iterator<T> {
    return this.#items.values()
  }

  add (item: T): void {
    this.#items.add(item)
    this.#schedule()
  }

  remove (item: T): void {
    if (!this.#items.delete(item)) return
    this.#options.onRemove?.(item)
    if (this.#items.size === 0) this.#stop()
  }

  /** Makes a last attempt and removes all items. @returns how many were not written */
  async close (): Promise<number> {
    await this.#flushing
    await this.#flush()
    const { size } = this
    for (const item of this.#items) this.remove(item)
    return size
  }

  #schedule (): void {
    this.#timer ??= this.#context.runInAsyncScope(() => this.#options.clock.setTimeout(() => {
      this.#flush().finally(() => {
        this.#stop()
        if (this.size > 0) this.#schedule()
      }).catch(() => {})
    }, this.#options.retryDelay).unref())
  }

  #stop (): void {
    this.#options.clock.clearTimeout(this.#timer)
    this.#timer = undefined
  }

  async #flush (): Promise<void> {
    this.#flushing ??= this.#writeAll().finally(() => { this.#flushing = undefined })
    await this.#flushing
  }

  async #writeAll (): Promise<void> {
    const now = this.#options.clock.monotonic()
    for (const item of this.#items) if (now > item.deadline) this.remove(item)
    const [first] = this.#items
    if (first === undefined) return
    if (!await this.#write(first)) {
      // The store may refuse this item alone: the next attempt begins with another one.
      if (this.#items.delete(first)) this.#items.add(first)
      return
    }
    for (const batch of batchesOf([...this.#items], ({ bytes = 0 }) => bytes, BATCH)) {
      const areWritten = await Promise.all(batch.map(item => this.#write(item)))
      if (!areWritten.includes(true)) return
    }
  }

  async #write (item: T): Promise<boolean> {
    if (!this.#items.has(item)) return true
    try {
      await this.#options.write(item)
      this.remove(item)
      return true
    } catch {
      return false
    }
  }
}
