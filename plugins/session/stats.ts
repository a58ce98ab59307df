import { systemClock, type Clock } from '../shared/plugin/clock.js'
import type { Milliseconds } from '../shared/plugin/units.js'

/** The counts of this process, `fastify.sessions.stats()`. */
export interface SessionStats {
  /** Sessions stored for the first time. */
  created: number
  /** Sessions that this process destroyed. Sessions that ended by time are not counted. */
  destroyed: number
  /**
   * Sessions used in about the last minute, or twentieth of the idle time-out if that is less. Each is counted by the
   * instance that renewed it, once in that time, so that the sum over all instances is their number.
   */
  active: number
}

export class SessionStatsCounter {
  readonly #length: Milliseconds
  readonly #clock: Clock
  #created = 0
  #destroyed = 0
  /** The number of this period, and the sessions renewed in it and in the one before. */
  #period = 0
  #count = 0
  #countBefore = 0

  /** @param length - the time between two renewals of a session */
  constructor (length: Milliseconds, clock: Clock = systemClock) {
    this.#length = length
    this.#clock = clock
  }

  created (): void {
    this.#created++
    this.renewed()
  }

  destroyed (count = 1): void {
    this.#destroyed += count
  }

  renewed (): void {
    this.#advance()
    this.#count++
  }

  get stats (): SessionStats {
    const passed = this.#advance()
    return {
      created: this.#created,
      destroyed: this.#destroyed,
      active: Math.round(this.#count + this.#countBefore * (1 - passed))
    }
  }

  /** Returns the part of this period that has passed. */
  #advance (): number {
    const periods = this.#clock.monotonic() / this.#length
    const period = Math.floor(periods)
    if (period !== this.#period) {
      this.#countBefore = period === this.#period + 1 ? this.#count : 0
      this.#count = 0
      this.#period = period
    }
    return periods - period
  }
}
