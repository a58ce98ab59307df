/** A write that this process has taken. */
export interface QueuedWrite<T> {
  readonly id: string
  readonly key: string
  /** Undefined only where it is doomed. */
  readonly value: T | undefined
  /** How often it was given. */
  deliveryCount: number
  /** Whether it was given alone before, by a writer that was gone then: perhaps by it. */
  isPoisonSuspect: boolean
  /** Not before this, by the clock of this process. */
  retryAt: number
  /** Why it is to become a dead letter. */
  deadReason: string | undefined
  /** Older writes of the key in whose place it stands. */
  readonly superseded: string[]
}

/**
 * The writes that were taken, in order. A write that was given before is given alone, so that it takes no other with it when it
 * fails again, or ends the process; while it waits, so do all later ones of its key, and no others.
 */
export class WriteQueue<T> {
  readonly #latest: boolean
  #taken: Array<QueuedWrite<T>> = []

  /** @param latest - whether a write takes the place of those of its key before it */
  constructor (latest: boolean) {
    this.#latest = latest
  }

  /** With those that are covered. */
  get size (): number {
    return this.#taken.reduce((sum, { superseded }) => sum + 1 + superseded.length, 0)
  }

  get doomed (): QueuedWrite<T> | undefined {
    return this.#taken.find(({ deadReason }) => deadReason !== undefined)
  }

  find (id: string): QueuedWrite<T> | undefined {
    return this.#taken.find(each => each.id === id)
  }

  push (write: QueuedWrite<T>): void {
    // What cannot be read takes nobody's place, and what is to be a dead letter keeps its own.
    const older = this.#latest && write.deadReason === undefined
      ? this.#taken.find(({ key, deadReason }) => key === write.key && deadReason === undefined)
      : undefined
    if (older !== undefined) {
      write.superseded.push(...older.superseded, older.id)
      this.remove([older])
    }
    this.#taken.push(write)
  }

  /** What may be given at this time: several that were never given, or one. */
  next (now: number, most: number): Array<QueuedWrite<T>> {
    const blocked = new Set<string>()
    const batch: Array<QueuedWrite<T>> = []
    for (const write of this.#taken) {
      if (blocked.has(write.key)) continue
      const isReady = write.retryAt <= now && write.deadReason === undefined
      if (isReady && write.deliveryCount === 0) batch.push(write)
      else if (isReady && batch.length === 0) return [write]
      else blocked.add(write.key)
      if (batch.length === most) break
    }
    return batch
  }

  /** When the next one that waits may be given. */
  get retryAt (): number {
    return this.#taken.reduce((first, { retryAt }) => retryAt > 0 ? Math.min(first, retryAt) : first, Infinity)
  }

  remove (writes: ReadonlyArray<QueuedWrite<T>>): void {
    const gone = new Set(writes)
    this.#taken = this.#taken.filter(each => !gone.has(each))
  }
}
