import type { FastifyBaseLogger } from 'fastify'
import type { ResolvedWriteBehindOptions } from './options.js'
import type { PartitionEvents } from './events.js'
import { Partition } from './partition.js'
import { Gate } from './gate.js'
import type { BehindStore } from './store.js'

/** What this process did, since its start. */
export interface BehindCounts {
  accepted: number
  /** Writes that were not accepted as the backlog was full. */
  refused: number
  written: number
  /** Writes in whose place a later one of their key was written. */
  superseded: number
  /** Calls of `write` that failed. */
  failed: number
  /** Writes taken over from a writer that was gone: they may be written twice. */
  redelivered: number
  died: number
  /** Dead letters that went as there were too many. */
  dropped: number
}

export interface BehindWorkerOptions<T> {
  name: string
  store: BehindStore
  options: ResolvedWriteBehindOptions<T>
  decode: (bytes: Buffer) => T
  log: FastifyBaseLogger
  lease: number
  instance: string
}

/** Leases are renewed, and free ones taken, this often in the time of a lease. */
const TICKS_PER_LEASE = 5
const TICKS = -1

/**
 * Has this instance's part of the partitions. Each instance tells that it lives, takes partitions that are free up to an
 * equal share of all that live (rounded up, so that there is always one for each partition), and gives one back while it has more.
 */
export class BehindWorker<T> {
  readonly counts: BehindCounts = { accepted: 0, refused: 0, written: 0, superseded: 0, failed: 0, redelivered: 0, died: 0, dropped: 0 }
  readonly partitions: ReadonlyArray<Partition<T>>
  readonly #options: BehindWorkerOptions<T>
  #timer: NodeJS.Timeout | undefined
  #ticking: Promise<void> | undefined
  #isClosed = false
  #terms = 0
  /** Who cannot ask the store, and who cannot reach the source. */
  readonly #without = { store: new Set<number>(), source: new Set<number>() }

  constructor (options: BehindWorkerOptions<T>) {
    this.#options = options
    const { store, options: given, decode, lease } = options
    const gate = new Gate()
    this.partitions = Array.from({ length: given.partitions }, (_, index) =>
      new Partition({ store, index, gate, options: given, lease, decode, events: this.#eventsOf(index) }))
    this.#schedule(0)
  }

  get owned (): Array<Partition<T>> {
    return this.partitions.filter(({ isOwned }) => isOwned)
  }

  /** Ends after the batches at hand, or after `ms`. */
  async close (ms: number): Promise<void> {
    this.#isClosed = true
    clearTimeout(this.#timer)
    await this.#ticking
    const { store, instance, lease } = this.#options
    const keep = setInterval(() => { this.#renew().catch(() => {}) }, lease / TICKS_PER_LEASE)
    const giveUp = setTimeout(() => { for (const partition of this.partitions) partition.abandon() }, ms)
    await Promise.race([
      Promise.all(this.partitions.map(partition => partition.release())),
      // What does not heed its signal is not waited for.
      new Promise(resolve => setTimeout(resolve, ms + 100).unref())
    ])
    clearInterval(keep)
    clearTimeout(giveUp)
    await store.leave(instance).catch(() => {})
  }

  #schedule (ms: number): void {
    if (this.#isClosed) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#ticking ??= this.#tick().then(() => this.#note('store', TICKS, undefined), error => this.#note('store', TICKS, error)).finally(() => {
        this.#ticking = undefined
        this.#schedule(this.#options.lease / TICKS_PER_LEASE)
      })
    }, ms).unref()
  }

  async #tick (): Promise<void> {
    const { store, instance, lease } = this.#options
    const [live] = await Promise.all([store.alive(instance, lease), this.#renew()])
    const share = Math.ceil(this.partitions.length / live)
    const { owned } = this
    if (owned.length > share) {
      owned.at(-1)?.release().catch(() => {})
      return
    }
    // From its own place on, so that instances that come at the same time do not all ask for the same ones.
    const first = Number.parseInt(instance.slice(0, 8), 16) % this.partitions.length
    for (const partition of [...this.partitions.slice(first), ...this.partitions.slice(0, first)]) {
      if (this.#isClosed || this.owned.length >= share) return
      if (!partition.isOwned) await partition.tryOwn(`${instance}.${++this.#terms}`)
    }
  }

  async #renew (): Promise<void> {
    await Promise.all(this.owned.map(partition => partition.renew()))
  }

  #eventsOf (index: number): PartitionEvents {
    const { name, log } = this.#options
    return {
      store: error => this.#note('store', index, error),
      source: error => this.#note('source', index, error),
      count: (what, count) => { this.counts[what] += count },
      failed: (error, writes) => {
        this.counts.failed++
        log.debug({ name, writes, reason: error.message }, 'cache: writes failed and are given again')
      },
      died: ({ id, reason, given }, dropped) => {
        this.counts.died++
        this.counts.dropped += dropped
        log.error({ name, id: `${id}.${index}`, reason, given, ...dropped > 0 && { dropped } }, 'cache: a write became a dead letter')
      },
      ended: isLost => {
        for (const without of Object.values(this.#without)) without.delete(index)
        if (isLost) setImmediate(() => this.#schedule(0))
      }
    }
  }

  /** One line when the first one is without, and one when none is any more. */
  #note (what: 'store' | 'source', who: number, error: Error | undefined): void {
    const without = this.#without[what]
    const { name, log } = this.#options
    if (error !== undefined) {
      if (without.size === 0) log.warn({ name, reason: error.message }, `cache: the ${what} of accepted writes cannot be used, they wait`)
      without.add(who)
    } else if (without.delete(who) && without.size === 0) {
      log.info({ name }, `cache: the ${what} of accepted writes is used again`)
    }
  }
}
