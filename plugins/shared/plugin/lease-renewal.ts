import type { Clock, Timer } from './clock.js'
import type { Milliseconds } from './units.js'

/** Two renewals may fail before the lease expires. */
const RENEWALS_PER_LEASE = 3

interface LeaseRenewalOptions {
  clock: Clock
  /** How long the store keeps the lease after it is acquired or renewed. */
  lease: Milliseconds
  /** Renews the lease in the store. */
  renew: () => unknown
  /** The pause after a renewal that threw or rejected. @default a third of `lease` */
  retryDelay?: Milliseconds
  /** After this time the holder is taken to hang, and the lease is not renewed any more. @default unlimited */
  maxDuration?: Milliseconds
  /** Called once at the first renewal after `maxDuration`, in place of it. */
  onMaxDuration?: () => void
}

/** Renews a lease every third of its time until it is stopped. Its timer does not keep the process alive. */
export class LeaseRenewal {
  readonly #options: LeaseRenewalOptions
  readonly #deadline: number
  #timer: Timer | undefined
  #renewing: Promise<void> | undefined
  #isStopped = false

  constructor (options: LeaseRenewalOptions) {
    this.#options = options
    this.#deadline = options.clock.monotonic() + (options.maxDuration ?? Infinity)
    this.#schedule(options.lease / RENEWALS_PER_LEASE)
  }

  /** Whether `maxDuration` is over. */
  get isOverdue (): boolean {
    return this.#options.clock.monotonic() >= this.#deadline
  }

  /** Stops the renewals. @returns a promise for the end of the renewal in flight, if there is one; it never rejects */
  stop (): Promise<void> | undefined {
    this.#isStopped = true
    this.#options.clock.clearTimeout(this.#timer)
    return this.#renewing
  }

  #schedule (ms: Milliseconds): void {
    if (this.#isStopped) return
    this.#timer = this.#options.clock.setTimeout(() => { this.#renewing = this.#renew() }, ms).unref()
  }

  async #renew (): Promise<void> {
    const { lease, renew, retryDelay, onMaxDuration } = this.#options
    if (this.isOverdue) return onMaxDuration?.()
    let delay = lease / RENEWALS_PER_LEASE
    try {
      await renew()
    } catch {
      delay = retryDelay ?? delay
    }
    this.#schedule(delay)
  }
}
