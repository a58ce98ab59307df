/** A write that this process has taken. */
export interface Taken<T> {
  readonly id: string
  readonly key: string
  /** Undefined only where it is doomed. */
  readonly value: T | undefined
  /** How often it was given. */
  given: number
  /** Whether it was given alone before, by a writer that was gone then: perhaps by it. */
  isSuspect: boolean
  /** Not before this, by the clock of this process. */
  retryAt: number
  /** Why it is to become a dead letter. */
  doomed: string | undefined
  /** Older writes of the key in whose place it stands. */
  readonly covered: string[]
}

/**
 * The writes that were taken, in order. A write that was given before is given alone, so that it takes no other with it when it
 * fails again, or ends the process; while it waits, so do all later ones of its key, and no others.
 */
export class Line<T> {
  readonly #latest: boolean
  #taken: Array<Taken<T>> = []

  /** @param latest - whether a write takes the place of those of its key before it */
  constructor (latest: boolean) {
    this.#latest = latest
  }

  /** With those that are covered. */
  get size (): number {
    return this.#taken.reduce((sum, { covered }) => sum + 1 + covered.length, 0)
  }

  get doomed (): Taken<T> | undefined {
    return this.#taken.find(({ doomed }) => doomed !== undefined)
  }

  find (id: string): Taken<T> | undefined {
    return this.#taken.find(each => each.id === id)
  }

  push (write: Taken<T>): void {
    // What cannot be read takes nobody's place, and what is to be a dead letter keeps its own.
    const older = this.#latest && write.doomed === undefined
      ? this.#taken.find(({ key, doomed }) => key === write.key && doomed === undefined)
      : undefined
    if (older !== undefined) {
      write.covered.push(...older.covered, older.id)
      this.remove([older])
    }
    this.#taken.push(write)
  }

  /** What may be given at this time: several that were never given, or one. */
  next (now: number, most: number): Array<Taken<T>> {
    const blocked = new Set<string>()
    const batch: Array<Taken<T>> = []
    for (const write of this.#taken) {
      if (blocked.has(write.key)) continue
      const isReady = write.retryAt <= now && write.doomed === undefined
      if (isReady && write.given === 0) batch.push(write)
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

  remove (writes: ReadonlyArray<Taken<T>>): void {
    const gone = new Set(writes)
    this.#taken = this.#taken.filter(each => !gone.has(each))
  }
}
