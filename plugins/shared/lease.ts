import { setMaxListeners } from 'node:events'

/** The right to work on something alone, as far as this process can be certain of it. */
export class Lease {
  readonly token: string
  readonly fence: number
  readonly #ms: number
  readonly #end = new AbortController()
  #until = 0
  #timer: NodeJS.Timeout | undefined

  /**
   * @param ms - for how long the store keeps it
   * @param asked - when the store was asked for it, by `performance.now()`, which nobody sets
   */
  constructor (token: string, fence: number, ms: number, asked: number) {
    this.token = token
    this.fence = fence
    this.#ms = ms
    // All that goes on under it.
    setMaxListeners(0, this.#end.signal)
    this.extend(asked)
  }

  /** Fires when it may be somebody else's, or is not needed any more. */
  get signal (): AbortSignal {
    return this.#end.signal
  }

  get isCertain (): boolean {
    // The timer is late where the process was paused.
    return performance.now() < this.#until && !this.signal.aborted
  }

  extend (asked: number): void {
    // A tenth to spare, as clocks are not equally quick.
    this.#until = asked + this.#ms * 0.9
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.end(), this.#until - performance.now()).unref()
  }

  end (): void {
    clearTimeout(this.#timer)
    this.#end.abort()
  }
}
