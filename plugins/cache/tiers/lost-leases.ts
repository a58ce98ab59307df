import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { FillLease } from '../store/store.js'

/** How often the release of a lost lease is tried. A lease that expires earlier needs no release. */
export const RETRY_MS = 50
/** More leases than that expire by themselves. */
const MAX_LEASES = 1000

/**
 * Leases that may stand in the store without a fill, as the reply to `acquire` was lost, or their release failed. All
 * instances would wait until they expire, so they are released as soon as the store is available.
 */
export class LostLeases {
  readonly #release: (lease: FillLease, isShareable: boolean) => Promise<unknown>
  readonly #clock: Clock
  readonly #lost = new Map<FillLease, boolean>()
  #timer: Timer | undefined
  #isClosed = false

  /** @param release - releases a lease in the store; rejects while the store is unavailable */
  constructor (release: (lease: FillLease, isShareable: boolean) => Promise<unknown>, clock: Clock) {
    this.#release = release
    this.#clock = clock
  }

  /** @param isShareable - see {@link FillLease.release} */
  add (lease: FillLease, isShareable: boolean): void {
    if (this.#isClosed || this.#lost.size >= MAX_LEASES) return
    this.#lost.set(lease, isShareable)
    this.#schedule()
  }

  close (): void {
    this.#isClosed = true
    this.#clock.clearTimeout(this.#timer)
    this.#lost.clear()
  }

  #schedule (): void {
    this.#timer ??= this.#clock.setTimeout(() => { this.#retry().catch(() => {}) }, RETRY_MS).unref()
  }

  /** Releases one lease, and the others if that succeeds: an unavailable store is not asked for each of them. */
  async #retry (): Promise<void> {
    const [first] = this.#lost.keys()
    if (first !== undefined && await this.#tryRelease(first)) {
      await Promise.all(Array.from(this.#lost.keys(), lease => this.#tryRelease(lease)))
    }
    this.#timer = undefined
    if (this.#lost.size > 0 && !this.#isClosed) this.#schedule()
  }

  async #tryRelease (lease: FillLease): Promise<boolean> {
    try {
      await this.#release(lease, this.#lost.get(lease) ?? true)
      this.#lost.delete(lease)
      return true
    } catch {
      return false
    }
  }
}
