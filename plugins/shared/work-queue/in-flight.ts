import type { MessageRef, TakenMessage } from './queue.js'

/** A message that this process has taken. */
export interface InFlightMessage<T> {
  readonly taken: TakenMessage
  /** The decoded message; undefined only where it could not be decoded and `deadReason` is set. */
  readonly value: T | undefined
  deliveryCount: number
  /** Whether an earlier holder of the lease ended more than once while it was delivered: it may be the cause. */
  readonly isPoisonSuspect: boolean
  isRunning: boolean
  /** The earliest time of its next delivery, by the clock's `monotonic()`. */
  retryAt: number
  /** Why it is to become a dead letter. */
  deadReason: string | undefined
  /** Older messages of its key that it replaces. */
  superseded: MessageRef[]
}

/** Messages that are delivered together, the oldest first. */
export type Batch<T> = [InFlightMessage<T>, ...Array<InFlightMessage<T>>]

/**
 * The messages that this process has taken, in order. While one is running or waits for a retry, later ones of its key
 * wait, and no others.
 */
export class InFlightMessages<T> {
  readonly #keepsLatest: boolean
  readonly #messages = new Map<string, InFlightMessage<T>>()
  #size = 0

  /** @param keepsLatest - whether a message replaces the waiting ones of its key */
  constructor (keepsLatest: boolean) {
    this.#keepsLatest = keepsLatest
  }

  /** Counts superseded messages as well. */
  get size (): number {
    return this.#size
  }

  get running (): Array<InFlightMessage<T>> {
    return [...this.#messages.values()].filter(({ isRunning }) => isRunning)
  }

  /** Returns the time of the next retry after `now`; Infinity where none is scheduled. */
  nextRetryAfter (now: number): number {
    let first = Infinity
    for (const { retryAt, isRunning } of this.#messages.values()) {
      if (retryAt > now && !isRunning) first = Math.min(first, retryAt)
    }
    return first
  }

  find (message: MessageRef): InFlightMessage<T> | undefined {
    return this.#messages.get(nameOf(message))
  }

  push (added: InFlightMessage<T>): void {
    // An undecodable message replaces no other one, and a message that becomes a dead letter is not replaced.
    const older = this.#keepsLatest && added.deadReason === undefined ? this.#replaceable(added.taken.key) : undefined
    if (older !== undefined) {
      added.superseded.push(...older.superseded, older.taken)
      this.#messages.delete(nameOf(older.taken))
    }
    this.#messages.set(nameOf(added.taken), added)
    this.#size++
  }

  remove (message: InFlightMessage<T>): void {
    if (this.#messages.delete(nameOf(message.taken))) this.#size -= 1 + message.superseded.length
  }

  /**
   * Returns up to `count` batches that can be delivered at `now`. A batch has up to `size` messages that were never
   * delivered, or a single one that was: a message that failed fails no other one with it.
   *
   * @param isPaused - whether only messages that become dead letters are returned
   */
  next (now: number, count: number, size: number, isPaused: boolean): Array<Batch<T>> {
    const blocked = new Set<string>()
    const batches: Array<Batch<T>> = []
    let open: Batch<T> | undefined
    for (const each of this.#messages.values()) {
      if (batches.length >= count && open === undefined) break
      const { taken: { key }, isRunning, retryAt, deadReason } = each
      const isDue = retryAt <= now && (!isPaused || deadReason !== undefined)
      const isReady = !isRunning && isDue && (key === undefined || !blocked.has(key))
      if (isReady && open !== undefined && isNew(each)) {
        open.push(each)
        if (open.length === size) open = undefined
        continue
      }
      if (isReady && batches.length < count) {
        const batch: Batch<T> = [each]
        batches.push(batch)
        if (size > 1 && isNew(each)) {
          open = batch
          continue
        }
      }
      if (key !== undefined) blocked.add(key)
    }
    return batches
  }

  #replaceable (key: string | undefined): InFlightMessage<T> | undefined {
    for (const each of this.#messages.values()) {
      if (each.taken.key === key && each.deadReason === undefined && !each.isRunning) return each
    }
    return undefined
  }
}

/** Whether a message was never delivered, and can be decoded. */
export function isNew ({ deliveryCount, deadReason }: InFlightMessage<unknown>): boolean {
  return deliveryCount === 0 && deadReason === undefined
}

/** Names an entry among those of all sources. */
export function nameOf ({ source, entryId }: MessageRef): string {
  return `${source} ${entryId}`
}
