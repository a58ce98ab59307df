import { performance } from 'node:perf_hooks'

// After this the store is asked again.
const VALID_MS = 60_000

/** The store's clock, as far as this process knows it. */
export class Clock {
  readonly #ask: () => Promise<number | undefined>
  #offset = 0
  #setAt = -Infinity

  /** @param ask - milliseconds since the epoch; undefined where the store does not answer */
  constructor (ask: () => Promise<number | undefined>) {
    this.#ask = ask
  }

  now (): number {
    return Date.now() + this.#offset
  }

  get isSet (): boolean {
    return performance.now() - this.#setAt <= VALID_MS
  }

  async set (): Promise<void> {
    // At once, so that one of all who come asks.
    this.#setAt = performance.now()
    const before = Date.now()
    const now = await this.#ask()
    if (now === undefined) this.#setAt = -Infinity
    else this.#offset = now - (before + Date.now()) / 2
  }
}
