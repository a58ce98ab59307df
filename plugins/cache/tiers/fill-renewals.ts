import { AsyncResource } from 'node:async_hooks'
import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { FillLease } from '../store/store.js'

/** How long other instances wait for an instance that has died while it led a fill. */
export const LEASE_MS = 1500
/** Two renewals may fail before a lease expires. */
const INTERVAL_MS = LEASE_MS / 3
/** A fill that takes longer is taken to hang, and its lease is not renewed any more. */
const MAX_FILL_MS = 10 * 60 * 1000

/**
 * Renews the leases of the fills of this process, each every third of its time. One timer serves all of them: one for
 * each would cost most fills more than the rest of their lease, as they end before the first renewal.
 */
export class FillRenewals {
  readonly #clock: Clock
  readonly #renew: (lease: FillLease) => void
  /** In the order in which they are due. */
  readonly #leases = new Map<FillLease, { dueAt: number, endsAt: number }>()
  /** A timer that a request started would hold that request in memory. */
  readonly #context = new AsyncResource('fastify-redis-suite.FillRenewals')
  #timer: Timer | undefined

  constructor (clock: Clock, renew: (lease: FillLease) => void) {
    this.#clock = clock
    this.#renew = renew
  }

  add (lease: FillLease): void {
    const now = this.#clock.monotonic()
    this.#leases.set(lease, { dueAt: now + INTERVAL_MS, endsAt: now + MAX_FILL_MS })
    if (this.#timer === undefined) this.#schedule(INTERVAL_MS)
  }

  /** The timer goes on: it ends at its next turn if there is no other lease. */
  remove (lease: FillLease): void {
    this.#leases.delete(lease)
  }

  #schedule (ms: number): void {
    this.#timer = this.#context.runInAsyncScope(() => this.#clock.setTimeout(() => this.#renewDue(), ms).unref())
  }

  #renewDue (): void {
    const now = this.#clock.monotonic()
    this.#timer = undefined
    for (const [lease, { dueAt, endsAt }] of this.#leases) {
      if (dueAt > now) return this.#schedule(dueAt - now)
      this.#leases.delete(lease)
      if (now >= endsAt) continue
      this.#renew(lease)
      // Behind all others, where this loop ends.
      this.#leases.set(lease, { dueAt: now + INTERVAL_MS, endsAt })
    }
  }
}
