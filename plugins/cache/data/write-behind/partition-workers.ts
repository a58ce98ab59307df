import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../../shared/plugin/clock.js'
import { ExclusiveSemaphore } from '../../../shared/work-queue/exclusive-semaphore.js'
import { PartitionAssignment } from '../../../shared/work-queue/partition-assignment.js'
import type { ResolvedWriteBehindOptions } from './options.js'
import type { WritePartitionEvents } from './partition-events.js'
import { PartitionWorker } from './partition-worker.js'
import type { WriteBehindStore } from './store.js'

/** What this process did, since its start. */
export interface WriteBehindCounts {
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

export interface PartitionWorkersOptions<T> {
  name: string
  store: WriteBehindStore
  options: ResolvedWriteBehindOptions<T>
  decode: (bytes: Buffer) => T
  log: FastifyBaseLogger
  lease: number
  instance: string
  clock: Clock
}

const TICKS = -1

/** Has this instance's part of the partitions. */
export class PartitionWorkers<T> {
  readonly counts: WriteBehindCounts = { accepted: 0, refused: 0, written: 0, superseded: 0, failed: 0, redelivered: 0, died: 0, dropped: 0 }
  readonly #options: PartitionWorkersOptions<T>
  readonly #shares: PartitionAssignment<PartitionWorker<T>>
  /** Who cannot ask the store, and who cannot reach the source. */
  readonly #without = { store: new Set<number>(), source: new Set<number>() }

  constructor (options: PartitionWorkersOptions<T>) {
    this.#options = options
    const { store, options: given, decode, lease, instance, clock } = options
    const gate = new ExclusiveSemaphore()
    const all = Array.from({ length: given.partitions }, (_, index) =>
      new PartitionWorker({ store, index, gate, options: given, lease, decode, events: this.#eventsOf(index), clock }))
    this.#shares = new PartitionAssignment({ all, lease, instance, alive: store.heartbeat, leave: store.deregister, onTick: error => this.#note('store', TICKS, error), clock })
  }

  get partitions (): ReadonlyArray<PartitionWorker<T>> {
    return this.#shares.all
  }

  get owned (): Array<PartitionWorker<T>> {
    return this.#shares.owned
  }

  /** Ends after the batches at hand, or after `ms`. */
  async close (ms: number): Promise<void> {
    await this.#shares.close(ms)
  }

  #eventsOf (index: number): WritePartitionEvents {
    const { name, log } = this.#options
    return {
      store: error => this.#note('store', index, error),
      source: error => this.#note('source', index, error),
      count: (what, count) => { this.counts[what] += count },
      failed: (error, writes) => {
        this.counts.failed++
        log.debug({ plugin: 'cache', writeBehind: name, writes, reason: error.message }, 'cache: writes failed and are given again')
      },
      unjudged: error => log.error({ plugin: 'cache', writeBehind: name, reason: error.message }, 'cache: `isOutage` failed, so the writes count as failed'),
      died: ({ id, reason, given: attempts }, dropped) => {
        this.counts.died++
        this.counts.dropped += dropped
        log.error({ plugin: 'cache', writeBehind: name, id: `${id}.${index}`, reason, attempts, ...dropped > 0 && { dropped } }, 'cache: a write became a dead letter')
      },
      ended: isLost => {
        for (const without of Object.values(this.#without)) without.delete(index)
        if (isLost) setImmediate(() => this.#shares.look(0))
      }
    }
  }

  /** One line when the first one is without, and one when none is any more. */
  #note (what: 'store' | 'source', who: number, error: Error | undefined): void {
    const without = this.#without[what]
    const { name, log } = this.#options
    if (error !== undefined) {
      if (without.size === 0) log.warn({ plugin: 'cache', writeBehind: name, reason: error.message }, `cache: the ${what} of accepted writes cannot be used, they wait`)
      without.add(who)
    } else if (without.delete(who) && without.size === 0) {
      log.info({ plugin: 'cache', writeBehind: name }, `cache: the ${what} of accepted writes is used again`)
    }
  }
}
