import type { Clock } from '../../shared/plugin/clock.js'

// After this the store is asked again.
const VALID_MS = 60_000
/** An answer that took longer than this says the time less well than another one may. */
const PROMPT_MS = 5
const MOST_ASKED = 5
/** The system's clock was set, or `monotonic()` stood still while the machine slept: the store is asked at once. */
const JUMP_MS = 1000

/** The store's clock, as far as this process knows it: to half the time that the answer took. */
export class StoreClock {
  readonly #clock: Clock
  readonly #ask: () => Promise<number | undefined>
  /** From the clock's `monotonic()`: a system clock that is set back makes no entry fresh again. */
  #offset: number
  #setAt = -Infinity
  /** By how much the system's clock was ahead of `monotonic()`. */
  #ahead: number

  /**
   * @param clock - this process's
   * @param ask - milliseconds since the epoch; undefined where the store does not answer
   */
  constructor (clock: Clock, ask: () => Promise<number | undefined>) {
    this.#clock = clock
    this.#ahead = clock.now() - clock.monotonic()
    this.#offset = this.#ahead
    this.#ask = ask
  }

  now (): number {
    return this.#clock.monotonic() + this.#offset
  }

  get isSet (): boolean {
    const now = this.#clock.monotonic()
    return now - this.#setAt <= VALID_MS && Math.abs(this.#clock.now() - now - this.#ahead) < JUMP_MS
  }

  async set (): Promise<void> {
    // At once, so that one of all who come asks.
    this.#setAt = this.#clock.monotonic()
    this.#ahead = this.#clock.now() - this.#setAt
    const took = await this.#setBy(Infinity)
    if (took === undefined) this.#setAt = -Infinity
    // Nobody waits for that: the first answer comes while a process starts, and is late.
    else if (took > PROMPT_MS) this.#improve(took).catch(() => {})
  }

  async #improve (took: number): Promise<void> {
    let best = took
    for (let asked = 1; asked < MOST_ASKED && best > PROMPT_MS; asked++) {
      const next = await this.#setBy(best)
      if (next === undefined) return
      best = Math.min(best, next)
    }
  }

  /**
   * @param best - milliseconds that an answer took until now: one that takes longer is worth less
   * @returns for how long it took; undefined where there was none
   */
  async #setBy (best: number): Promise<number | undefined> {
    const asked = this.#clock.monotonic()
    const now = await this.#ask()
    if (now === undefined) return undefined
    const took = this.#clock.monotonic() - asked
    if (took < best) this.#offset = now - (asked + took / 2)
    return took
  }
}
