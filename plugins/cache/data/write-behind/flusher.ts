import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../../shared/plugin/clock.js'
import { reasonOf, toError } from '../../../shared/plugin/errors.js'
import type { Milliseconds } from '../../../shared/plugin/units.js'
import { withDeadline } from '../../../shared/redis/deadline.js'
import type { Batch, InFlightMessage } from '../../../shared/work-queue/in-flight.js'
import type { Lease } from '../../../shared/work-queue/lease.js'
import { createOutageLog } from '../../../shared/work-queue/outage-log.js'
import { PartitionAssignment } from '../../../shared/work-queue/partition-assignment.js'
import type { PartitionQueue } from '../../../shared/work-queue/queue.js'
import { timeOfId } from '../../../shared/work-queue/stream-ids.js'
import type { Cached } from '../jsonify.js'
import type { CachedWrites } from './cached-writes.js'
import type { ResolvedWriteBehindOptions, Write } from './options.js'
import type { WriteBehindStore } from './store.js'

/** Counts since the start of this process. */
export interface WriteBehindCounts {
  accepted: number
  /** Writes that were refused because the backlog was full. */
  refused: number
  written: number
  /** Writes that were replaced by a later one of their key. */
  superseded: number
  /** Calls of `write` that failed. */
  failed: number
  /** Writes taken over from an instance that ended: they may be written twice. */
  redelivered: number
  died: number
  /** Dead letters that were dropped because there were too many. */
  dropped: number
}

interface FlusherParts<T> {
  name: string
  store: WriteBehindStore
  queues: readonly PartitionQueue[]
  options: ResolvedWriteBehindOptions<T>
  decode: (bytes: Buffer) => Cached<T>
  cached: CachedWrites | undefined
  log: FastifyBaseLogger
  lease: Milliseconds
  clock: Clock
}

/** How many batches are held at most while writes of some keys wait for a retry. */
const MAX_BATCHES = 10
const MIN_HELD = 100

/** Writes this instance's share of the partitions to the source. */
export function startFlusher<T> (parts: FlusherParts<T>) {
  const { name, store, queues, options, decode, cached, log, lease, clock } = parts
  const { batch: batchSize, flushEvery, hardTimeout, retries, backoff, latest } = options
  const none = { accepted: 0, refused: 0, written: 0, superseded: 0, failed: 0, redelivered: 0, died: 0, dropped: 0 }
  const counts: WriteBehindCounts = none
  const fields = { plugin: 'cache', writeBehind: name }
  const outagesOf = (what: string) => createOutageLog(log, fields,
    `cache: the ${what} of accepted writes is unavailable, writes wait`,
    `cache: the ${what} of accepted writes is available again`)
  const source = outagesOf('source')

  async function deliver (batch: Batch<Cached<T>>, lease: Lease, partition: number): Promise<void> {
    await writeBatch(options, batch.map(each => toWrite(each, partition)), lease, clock)
    source.note(partition, undefined)
    // Before the acknowledgement: the successor of a process that ends here repeats both.
    await cached?.settle(batch.map(({ taken: { key = '', id } }) => ({ key, id })))
    counts.written += batch.length
    counts.superseded += batch.reduce((sum, { superseded }) => sum + superseded.length, 0)
  }

  async function isOutage (error: unknown, partition: number): Promise<boolean> {
    const onTimeout = () => new Error(`no result within ${hardTimeout} ms`)
    try {
      const decision = Promise.resolve(error).then(options.isOutage)
      const isOut = Boolean(await withDeadline(decision, hardTimeout, onTimeout, clock))
      if (isOut) source.note(partition, toError(error))
      return isOut
    } catch (failure) {
      log.error({ ...fields, reason: reasonOf(failure) }, 'cache: `isOutage` failed, so the writes count as failed')
      return false
    }
  }

  const partitions = new PartitionAssignment({
    queues,
    instances: store.instances,
    lease,
    clock,
    outages: outagesOf('store'),
    delivery: {
      concurrency: 1,
      batchSize,
      pageSize: batchSize,
      maxHeld: Math.max(batchSize * MAX_BATCHES, MIN_HELD),
      takeEvery: flushEvery,
      isEager: false,
      retries,
      backoff,
      keepsDeadLetters: true,
      keepsLatest: latest,
      decode: message => decode(message.value),
      deliver,
      isOutage,
      onFailure (batch, error) {
        counts.failed++
        log.debug({ ...fields, writes: batch.length, reason: error.message }, 'cache: writes failed, they are retried')
      },
      onDead ({ taken: { id, key }, deliveryCount: attempts }, reason, dropped, partition) {
        if (key !== undefined) cached?.giveUp(key, id)
        counts.died++
        counts.dropped += dropped
        const entry = { ...fields, id: `${id}.${partition}`, reason, attempts, ...dropped > 0 && { dropped } }
        log.error(entry, 'cache: a write became a dead letter')
      },
      onRedelivery (count) { counts.redelivered += count },
      onReleased: partition => source.forget(partition)
    }
  })
  return { counts, partitions }
}

function toWrite<T> ({ taken: message, value, deliveryCount }: InFlightMessage<T>, partition: number): Write<T> {
  const { id, key = '' } = message
  return { id: `${id}.${partition}`, key, value: value as T, attempt: deliveryCount + 1, acceptedAt: timeOfId(id) }
}

/** Calls `write`, and aborts its signal when the lease is lost or `hardTimeout` has passed. */
async function writeBatch<T> (
  { write, hardTimeout }: ResolvedWriteBehindOptions<T>, batch: Array<Write<Cached<T>>>, lease: Lease, clock: Clock
): Promise<void> {
  const stop = new AbortController()
  const abort = () => stop.abort()
  lease.signal.addEventListener('abort', abort)
  try {
    const written = Promise.resolve(batch).then(writes => write(writes, { signal: stop.signal, fence: lease.fence }))
    await withDeadline(written, hardTimeout, () => {
      abort()
      return new Error(`not written within ${hardTimeout} ms`)
    }, clock)
  } finally {
    lease.signal.removeEventListener('abort', abort)
  }
}
