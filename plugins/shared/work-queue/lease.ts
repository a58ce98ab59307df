import { setMaxListeners } from 'node:events'
import type { Clock, Timer } from '../plugin/clock.js'

/** The right to work on something alone, as far as this process can be certain of it. */
export class Lease {
  readonly token: string
  readonly fence: number
  readonly #ms: number
  readonly #clock: Clock
  readonly #end = new AbortController()
  #until = 0
  #timer: Timer | undefined

  /**
   * @param ms - for how long the store keeps it
   * @param asked - when the store was asked for it, by the clock's monotonic time
   */
  constructor (token: string, fence: number, ms: number, asked: number, clock: Clock) {
    this.token = token
    this.fence = fence
    this.#ms = ms
    this.#clock = clock
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
    return this.#clock.monotonic() < this.#until && !this.signal.aborted
  }

  extend (asked: number): void {
    // A tenth to spare, as clocks are not equally quick.
    this.#until = asked + this.#ms * 0.9
    this.#clock.clearTimeout(this.#timer)
    this.#timer = this.#clock.setTimeout(() => this.end(), this.#until - this.#clock.monotonic()).unref()
  }

  end (): void {
    this.#clock.clearTimeout(this.#timer)
    this.#end.abort()
  }
}
