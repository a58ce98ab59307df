import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import type { Batch } from '../../shared/work-queue/in-flight.js'
import { LeaseLostError, type Lease } from '../../shared/work-queue/lease.js'
import { createOutageLog } from '../../shared/work-queue/outage-log.js'
import { PartitionAssignment } from '../../shared/work-queue/partition-assignment.js'
import type { StoredMessage } from '../../shared/work-queue/queue.js'
import { decodeEvent } from './codec.js'
import { eventIdOf } from './cursor.js'
import type { ResolvedConsumeOptions } from './options.js'
import type { AppendNotifier, StreamStore } from './store.js'
import type { Consumer, StreamEvent } from './types.js'

interface ConsumerOptions<T> {
  name: string
  store: StreamStore
  notifier: AppendNotifier
  partitions: number
  options: ResolvedConsumeOptions<T>
  lease: Milliseconds
  log: FastifyBaseLogger
  clock: Clock
  onClosed: () => void
}

const CLOSE_MS = 5000
const PAGE_SIZE = 100
/** How many events of a partition are held at most while some keys wait for a retry. */
const MAX_HELD = 1000
/** New events are notified of; those whose notification was lost are found after this. */
const POLL_MS = 1000

/** Has this instance's share of the partitions handled. */
export function startConsumer<T> (
  { name, store, notifier, partitions, options, lease, log, clock, onClosed }: ConsumerOptions<T>
): Consumer {
  const { group, handler, concurrency, retries, backoff, deadLetter, from } = options
  const fields = { plugin: 'events', stream: name, group }
  const idOf = (event: StoredMessage, partition: number) => eventIdOf(event, partition, partitions)
  const decode = (event: StoredMessage, partition: number) => decodeEvent<T>(event, idOf(event, partition))

  const assignment = new PartitionAssignment<StreamEvent<T>>({
    queues: Array.from({ length: partitions }, (_, partition) => store.queue(partition, group, from)),
    instances: store.instances(group),
    maxConcurrency: concurrency,
    lease,
    clock,
    outages: createOutageLog(log, fields,
      'events: the store of a stream is unavailable, its events wait',
      'events: the store of a stream is available again'),
    delivery: {
      concurrency,
      batchSize: 1,
      pageSize: PAGE_SIZE,
      maxHeld: MAX_HELD,
      takeEvery: POLL_MS,
      isEager: true,
      retries,
      backoff,
      keepsDeadLetters: deadLetter,
      keepsLatest: false,
      decode,
      async deliver ([{ taken: message, value, deliveryCount }]: Batch<StreamEvent<T>>, lease, partition) {
        // A handler may have changed the event of the attempt before.
        const event = value === undefined || deliveryCount > 0 ? decode(message, partition) : value
        await whileLeased(lease, async signal => { await handler(event, { attempt: deliveryCount + 1, signal }) })
      },
      onFailure ([{ taken: message, deliveryCount }], { message: reason }, partition) {
        const attempts = deliveryCount + 1
        log.debug({ ...fields, id: idOf(message, partition), reason, attempts }, 'events: an event failed')
      },
      onDead ({ taken: message, deliveryCount: attempts }, reason, dropped, partition) {
        const entry = { ...fields, id: idOf(message, partition), reason, attempts, ...dropped > 0 && { dropped } }
        log.error(entry, `events: an event ${deadLetter ? 'became a dead letter' : 'was given up'}`)
      }
    }
  })
  const stopListening = notifier.listen(partition => {
    const { workers } = assignment
    for (const worker of partition === undefined ? workers : workers.slice(partition, partition + 1)) worker.flush()
  })
  let closing: Promise<void> | undefined

  return {
    group,
    get owned () { return assignment.owned.length },
    close () {
      stopListening()
      closing ??= assignment.close(CLOSE_MS).finally(onClosed)
      return closing
    }
  }
}

/**
 * Runs a handler with a signal of its own. Rejects at once when the lease is lost, as the handler may ignore the
 * signal.
 */
async function whileLeased (lease: Lease, run: (signal: AbortSignal) => Promise<void>): Promise<void> {
  const stop = new AbortController()
  let onLost = (): void => {}
  const lost = new Promise<never>((_resolve, reject) => {
    onLost = () => {
      stop.abort()
      reject(new LeaseLostError())
    }
  })
  lease.signal.addEventListener('abort', onLost)
  try {
    await Promise.race([run(stop.signal), lost])
  } finally {
    lease.signal.removeEventListener('abort', onLost)
  }
}
