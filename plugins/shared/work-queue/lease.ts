import { setMaxListeners } from 'node:events'
import type { Clock, Timer } from '../plugin/clock.js'
import type { Milliseconds } from '../plugin/units.js'

/** The lease ended, or the store replied that another instance holds it. */
export class LeaseLostError extends Error {}

/** The right to work alone, for as long as this process can be certain of it. */
export class Lease {
  readonly token: string
  readonly fence: number
  readonly #ms: Milliseconds
  readonly #clock: Clock
  readonly #end = new AbortController()
  #until = 0
  #timer: Timer | undefined

  /**
   * @param ms - how long the store keeps it
   * @param requestedAt - when the store was called, by the clock's `monotonic()`
   */
  constructor (token: string, fence: number, ms: Milliseconds, requestedAt: number, clock: Clock) {
    this.token = token
    this.fence = fence
    this.#ms = ms
    this.#clock = clock
    // Each delivery under the lease adds a listener.
    setMaxListeners(0, this.#end.signal)
    this.extend(requestedAt)
  }

  /** Aborts when another instance may hold the lease, or when it is released. */
  get signal (): AbortSignal {
    return this.#end.signal
  }

  get isCertain (): boolean {
    // After a pause of the process the timer is late.
    return this.#clock.monotonic() < this.#until && !this.signal.aborted
  }

  extend (requestedAt: number): void {
    // The clocks of Redis and of this process differ in speed: a tenth is in reserve.
    this.#until = requestedAt + this.#ms * 0.9
    this.#clock.clearTimeout(this.#timer)
    this.#timer = this.#clock.setTimeout(() => this.end(), this.#until - this.#clock.monotonic()).unref()
  }

  end (): void {
    this.#clock.clearTimeout(this.#timer)
    this.#end.abort()
  }
}
