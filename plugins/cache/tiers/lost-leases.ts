import type { Clock, Timer } from '../../shared/plugin/clock.js'

/** How often a lost claim is tried to be ended; one that expires before needs no end. */
export const RETRY_MS = 50
/** More than that expire by themselves. */
const MOST = 1000

export interface LostLease {
  work: string
  token: string
  /** See {@link CacheStore.end}. */
  pass: boolean
}

/**
 * Claims that may stand in the store although nothing is made under them, as the reply to the claim was lost, or its end. All instances would
 * wait for them until they expire. They are ended as soon as the store is back.
 */
export class LostLeases {
  readonly #end: (claim: LostLease) => Promise<unknown>
  readonly #clock: Clock
  readonly #claims = new Map<string, LostLease>()
  #timer: Timer | undefined
  #isClosed = false

  /** @param end - ends one in the store; rejects where that cannot be done now */
  constructor (end: (claim: LostLease) => Promise<unknown>, clock: Clock) {
    this.#end = end
    this.#clock = clock
  }

  add (claim: LostLease): void {
    if (this.#isClosed || this.#claims.size >= MOST) return
    this.#claims.set(claim.token, claim)
    this.#schedule()
  }

  close (): void {
    this.#isClosed = true
    this.#clock.clearTimeout(this.#timer)
    this.#claims.clear()
  }

  #schedule (): void {
    this.#timer ??= this.#clock.setTimeout(() => { this.#retry().catch(() => {}) }, RETRY_MS).unref()
  }

  /** Tries one, and the others where that succeeds: a store that fails is not asked for each of them. */
  async #retry (): Promise<void> {
    const [first] = this.#claims.values()
    if (first !== undefined && await this.#tryEnd(first)) await Promise.all(Array.from(this.#claims.values(), claim => this.#tryEnd(claim)))
    this.#timer = undefined
    if (this.#claims.size > 0 && !this.#isClosed) this.#schedule()
  }

  async #tryEnd (claim: LostLease): Promise<boolean> {
    try {
      await this.#end(claim)
      this.#claims.delete(claim.token)
      return true
    } catch {
      return false
    }
  }
}
