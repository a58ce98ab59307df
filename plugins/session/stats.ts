import { systemClock, type Clock } from '../shared/plugin/clock.js'

/** What this process counted of sessions, `fastify.sessions.stats()`. */
export interface SessionStats {
  /** Sessions stored for the first time. */
  created: number
  /** Sessions destroyed, here; those that ended by time are not known. */
  destroyed: number
  /**
   * Sessions used in about the last minute (or twentieth of the idle time-out, if that is less). A session in use is renewed once in
   * that time, whichever instance it is on, and counts where that was: the sum of all instances is their number.
   */
  active: number
}

export class SessionStatsCounter {
  readonly #period: number
  readonly #clock: Clock
  #created = 0
  #destroyed = 0
  /** Which period this is, and how many were seen in it and in the one before. */
  #at = 0
  #now = 0
  #before = 0

  /** @param period - milliseconds between two renewals of a session */
  constructor (period: number, clock: Clock = systemClock) {
    this.#period = period
    this.#clock = clock
  }

  created (): void {
    this.#created++
    this.seen()
  }

  destroyed (count = 1): void {
    this.#destroyed += count
  }

  /** A session was renewed. */
  seen (): void {
    this.#advance()
    this.#now++
  }

  get stats (): SessionStats {
    const passed = this.#advance()
    return { created: this.#created, destroyed: this.#destroyed, active: Math.round(this.#now + this.#before * (1 - passed)) }
  }

  /** @returns which part of this period has passed */
  #advance (): number {
    const periods = this.#clock.monotonic() / this.#period
    const at = Math.floor(periods)
    if (at !== this.#at) {
      this.#before = at === this.#at + 1 ? this.#now : 0
      this.#now = 0
      this.#at = at
    }
    return periods - at
  }
}
