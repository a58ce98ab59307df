import type { Clock } from '../../shared/plugin/clock.js'
import type { Milliseconds } from '../../shared/plugin/units.js'

/** How long a measurement is used. */
const VALID_MS = 60_000
/** A reply that took longer is inaccurate, and the store is asked again. */
const PROMPT_MS = 5
const MAX_ATTEMPTS = 5
/**
 * A step of the system clock, or a suspended machine, on which `monotonic()` stands still: the store is asked again at
 * once.
 */
const JUMP_MS = 1000

/** The store's clock as measured by this process. The error is at most half the time that the reply took. */
export class StoreClock {
  readonly #clock: Clock
  readonly #ask: () => Promise<number | undefined>
  /** The store's time minus `monotonic()` of the clock. A system clock that is set back makes no entry fresh again. */
  offset: Milliseconds
  #setAt = -Infinity
  /** The difference between the system clock and `monotonic()`. */
  #systemOffset: Milliseconds

  /**
   * @param clock - the clock of this process
   * @param ask - returns milliseconds since the epoch; undefined where the store does not reply
   */
  constructor (clock: Clock, ask: () => Promise<number | undefined>) {
    this.#clock = clock
    this.#systemOffset = clock.now() - clock.monotonic()
    this.offset = this.#systemOffset
    this.#ask = ask
  }

  get isSet (): boolean {
    const now = this.#clock.monotonic()
    return now - this.#setAt <= VALID_MS && Math.abs(this.#clock.now() - now - this.#systemOffset) < JUMP_MS
  }

  async set (): Promise<void> {
    // Marked as set at once, so that only one of the concurrent callers asks.
    this.#setAt = this.#clock.monotonic()
    this.#systemOffset = this.#clock.now() - this.#setAt
    const took = await this.#measure(Infinity)
    if (took === undefined) this.#setAt = -Infinity
    // In the background: the first reply comes while the process starts, and is late.
    else if (took > PROMPT_MS) this.#improve(took).catch(() => {})
  }

  async #improve (took: Milliseconds): Promise<void> {
    let best = took
    for (let attempts = 1; attempts < MAX_ATTEMPTS && best > PROMPT_MS; attempts++) {
      const next = await this.#measure(best)
      if (next === undefined) return
      best = Math.min(best, next)
    }
  }

  /**
   * Asks the store, and uses the reply where it took less time than `best`.
   *
   * @returns how long the reply took; undefined without a reply
   */
  async #measure (best: Milliseconds): Promise<Milliseconds | undefined> {
    const askedAt = this.#clock.monotonic()
    const storeTime = await this.#ask()
    if (storeTime === undefined) return undefined
    const took = this.#clock.monotonic() - askedAt
    if (took < best) this.offset = storeTime - (askedAt + took / 2)
    return took
  }
}
