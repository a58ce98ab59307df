import type { Clock } from '../shared/clock.js'

// After this the store is asked again.
const VALID_MS = 60_000
/** An answer that took longer than this says the time less well than another one may. */
const PROMPT_MS = 5
const MOST_ASKED = 5

/** The store's clock, as far as this process knows it: to half the time that the answer took. */
export class StoreClock {
  readonly #clock: Clock
  readonly #ask: () => Promise<number | undefined>
  #offset = 0
  #setAt = -Infinity

  /**
   * @param clock - this process's
   * @param ask - milliseconds since the epoch; undefined where the store does not answer
   */
  constructor (clock: Clock, ask: () => Promise<number | undefined>) {
    this.#clock = clock
    this.#ask = ask
  }

  now (): number {
    return this.#clock.now() + this.#offset
  }

  get isSet (): boolean {
    return this.#clock.monotonic() - this.#setAt <= VALID_MS
  }

  async set (): Promise<void> {
    // At once, so that one of all who come asks.
    this.#setAt = this.#clock.monotonic()
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
    const [asked, before] = [this.#clock.monotonic(), this.#clock.now()]
    const now = await this.#ask()
    if (now === undefined) return undefined
    const took = this.#clock.monotonic() - asked
    if (took < best) this.#offset = now - (before + this.#clock.now()) / 2
    return took
  }
}
