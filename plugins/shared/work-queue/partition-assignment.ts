import { sleep, type Clock, type Timer } from '../plugin/clock.js'

/** A part of some work, on which one instance at a time works by a lease. */
export interface AssignedPartition {
  readonly isOwned: boolean
  /** Takes the lease if nobody has it. */
  tryOwn (token: string): Promise<void>
  renew (): Promise<void>
  /** Ends the work at hand, and gives the lease back. */
  release (): Promise<void>
  /** Does not wait for the work at hand any longer. */
  abandon (): void
}

export interface PartitionAssignmentOptions<S extends AssignedPartition> {
  all: readonly S[]
  /** A UUID. */
  instance: string
  /** How long a lease is, in milliseconds. */
  lease: number
  /** Tells that an instance lives for `ms` more. @returns how many do */
  alive (instance: string, ms: number): Promise<number>
  leave (instance: string): Promise<void>
  /** Called after each look, with what went wrong. */
  onTick (error: Error | undefined): void
  clock: Clock
}

/**
 * How long a share that is released still tries to report finished work to a store that fails. What it cannot report is done once more by
 * the next owner, and a closing app does not wait for the lease to expire.
 */
export const RELEASE_MS = 500

/** Leases are renewed, and free ones taken, this often in the time of a lease. */
const TICKS_PER_LEASE = 5

/**
 * Has this instance's part of the shares. Each instance tells that it lives, takes shares that are free up to an
 * equal number of all that live (rounded up, so that there is always one for each share), and gives one back while it has more.
 */
export class PartitionAssignment<S extends AssignedPartition> {
  readonly all: readonly S[]
  readonly #options: PartitionAssignmentOptions<S>
  #timer: Timer | undefined
  #ticking: Promise<void> | undefined
  #isClosed = false
  #terms = 0

  constructor (options: PartitionAssignmentOptions<S>) {
    this.#options = options
    this.all = options.all
    this.look(0)
  }

  get owned (): S[] {
    return this.all.filter(({ isOwned }) => isOwned)
  }

  /** Looks again after so many milliseconds. */
  look (ms: number): void {
    if (this.#isClosed) return
    const { clock } = this.#options
    clock.clearTimeout(this.#timer)
    this.#timer = clock.setTimeout(() => {
      const { onTick } = this.#options
      this.#ticking ??= this.#tick().then(() => onTick(undefined), onTick).finally(() => {
        this.#ticking = undefined
        this.look(this.#options.lease / TICKS_PER_LEASE)
      })
    }, ms).unref()
  }

  /** Ends after the work at hand, or after `ms`. */
  async close (ms: number): Promise<void> {
    const { lease, leave, instance, clock } = this.#options
    this.#isClosed = true
    clock.clearTimeout(this.#timer)
    await this.#ticking
    const keep = clock.setInterval(() => { this.#renew().catch(() => {}) }, lease / TICKS_PER_LEASE)
    const giveUp = clock.setTimeout(() => { for (const share of this.all) share.abandon() }, ms)
    await Promise.race([
      Promise.all(this.all.map(share => share.release())),
      // What does not heed its signal is not waited for.
      sleep(clock, ms + 100, { ref: false })
    ])
    clock.clearInterval(keep)
    clock.clearTimeout(giveUp)
    await leave(instance).catch(() => {})
  }

  async #tick (): Promise<void> {
    const { alive, instance, lease } = this.#options
    const [live] = await Promise.all([alive(instance, lease), this.#renew()])
    const most = Math.ceil(this.all.length / live)
    const { owned } = this
    if (owned.length > most) {
      owned.at(-1)?.release().catch(() => {})
      return
    }
    // From its own place on, so that instances that come at the same time do not all ask for the same ones.
    const first = Number.parseInt(instance.slice(0, 8), 16) % this.all.length
    for (const share of [...this.all.slice(first), ...this.all.slice(0, first)]) {
      if (this.#isClosed || this.owned.length >= most) return
      if (!share.isOwned) await share.tryOwn(`${instance}.${++this.#terms}`)
    }
  }

  async #renew (): Promise<void> {
    await Promise.all(this.owned.map(share => share.renew()))
  }
}
