import { randomUUID } from 'node:crypto'
import { sleep, type Clock, type Timer } from '../plugin/clock.js'
import type { Milliseconds } from '../plugin/units.js'
import { ExclusiveSemaphore } from './exclusive-semaphore.js'
import type { OutageLog } from './outage-log.js'
import { PartitionWorker, type DeliveryOptions } from './partition-worker.js'
import type { InstanceRegistry, PartitionQueue } from './queue.js'

interface PartitionAssignmentOptions<T> {
  /** One for each partition. */
  queues: readonly PartitionQueue[]
  instances: InstanceRegistry
  delivery: DeliveryOptions<T>
  /** How many batches this process delivers at a time, in all partitions. @default unlimited */
  maxConcurrency?: number
  lease: Milliseconds
  /** Logs outages of the store. */
  outages: OutageLog
  clock: Clock
}

/** How often leases are renewed, and free partitions acquired, in the time of a lease. */
const TICKS_PER_LEASE = 5
/** Stands for the ticks in the outage log, where partitions have numbers from 0. */
const TICKS = -1

/**
 * Consumes this instance's share of the partitions of a queue. Each instance sends heartbeats, and acquires free
 * partitions until it has an equal share (rounded up, so that each partition has an owner). It releases one a tick
 * while it has more.
 */
export class PartitionAssignment<T> {
  readonly workers: ReadonlyArray<PartitionWorker<T>>
  readonly #options: PartitionAssignmentOptions<T>
  readonly #instance = randomUUID()
  #timer: Timer | undefined
  #ticking: Promise<void> | undefined
  #isClosed = false
  #terms = 0

  constructor (options: PartitionAssignmentOptions<T>) {
    const { queues, delivery, maxConcurrency, lease, outages, clock } = this.#options = options
    const semaphore = new ExclusiveSemaphore(maxConcurrency)
    this.workers = queues.map((queue, partition) => new PartitionWorker({
      queue,
      partition,
      delivery,
      lease,
      semaphore,
      clock,
      onStore: error => outages.note(partition, error),
      onReleased: isLost => {
        outages.forget(partition)
        if (isLost) setImmediate(() => this.#tickIn(0))
      }
    }))
    this.#tickIn(0)
  }

  get owned (): Array<PartitionWorker<T>> {
    return this.workers.filter(({ isOwned }) => isOwned)
  }

  /** Releases all partitions once the running batches have ended, or gives these up after `ms`. */
  async close (ms: Milliseconds): Promise<void> {
    const { lease, instances, clock } = this.#options
    this.#isClosed = true
    clock.clearTimeout(this.#timer)
    await this.#ticking
    const keep = clock.setInterval(() => { this.#renew().catch(() => {}) }, lease / TICKS_PER_LEASE)
    const giveUp = clock.setTimeout(() => { for (const worker of this.workers) worker.abandon() }, ms)
    await Promise.race([
      Promise.all(this.workers.map(worker => worker.release())),
      // A delivery that ignores its signal may never end.
      sleep(clock, ms + 100, { ref: false })
    ])
    clock.clearInterval(keep)
    clock.clearTimeout(giveUp)
    await instances.deregister(this.#instance).catch(() => {})
  }

  #tickIn (ms: Milliseconds): void {
    if (this.#isClosed) return
    const { lease, outages, clock } = this.#options
    clock.clearTimeout(this.#timer)
    this.#timer = clock.setTimeout(() => {
      const note = (error?: Error) => outages.note(TICKS, error)
      this.#ticking ??= this.#tick().then(() => note(), note).finally(() => {
        this.#ticking = undefined
        this.#tickIn(lease / TICKS_PER_LEASE)
      })
    }, ms).unref()
  }

  async #tick (): Promise<void> {
    const { instances, lease } = this.#options
    const [live] = await Promise.all([instances.heartbeat(this.#instance, lease), this.#renew()])
    const share = Math.ceil(this.workers.length / live)
    const { owned } = this
    if (owned.length > share) {
      owned.at(-1)?.release().catch(() => {})
      return
    }
    // Instances that start at the same time begin at different partitions.
    const first = Number.parseInt(this.#instance.slice(0, 8), 16) % this.workers.length
    for (const worker of [...this.workers.slice(first), ...this.workers.slice(0, first)]) {
      if (this.#isClosed || this.owned.length >= share) return
      if (!worker.isOwned) await worker.tryAcquire(`${this.#instance}.${++this.#terms}`)
    }
  }

  async #renew (): Promise<void> {
    await Promise.all(this.owned.map(worker => worker.renew()))
  }
}
