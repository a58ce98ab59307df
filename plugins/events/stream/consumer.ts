import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { Clock } from '../../shared/plugin/clock.js'
import { ExclusiveSemaphore } from '../../shared/work-queue/exclusive-semaphore.js'
import { PartitionAssignment } from '../../shared/work-queue/partition-assignment.js'
import { eventIdOf } from './cursor.js'
import { decodeEvent } from './codec.js'
import type { ResolvedConsumeOptions } from './options.js'
import { PartitionConsumer, type PartitionConsumerEvents } from './partition-consumer.js'
import type { AppendNotifier, StreamStore } from './store.js'
import type { Consumer } from './types.js'

export interface ConsumerOptions<T> {
  name: string
  store: StreamStore
  bell: AppendNotifier
  partitions: number
  options: ResolvedConsumeOptions<T>
  /** Milliseconds. */
  lease: number
  log: FastifyBaseLogger
  clock: Clock
  onClosed: () => void
}

const CLOSE_MS = 5000
const TICKS = -1

/** Has this instance's part of the partitions handled. */
export function startConsumer<T> ({ name, store, bell, partitions, options, lease, log, clock, onClosed }: ConsumerOptions<T>): Consumer {
  const { group, concurrency } = options
  const about = { plugin: 'events', stream: name, group }
  const idOf = (event: Parameters<typeof eventIdOf>[0], index: number) => eventIdOf(event, index, partitions)
  /** Who cannot use the store. */
  const without = new Set<number>()

  /** One line when the first one is without, and one when none is any more. */
  function note (who: number, error: Error | undefined): void {
    if (error !== undefined) {
      if (without.size === 0) log.warn({ ...about, reason: error.message }, 'events: the store of a stream cannot be used, its events wait')
      without.add(who)
    } else if (without.delete(who) && without.size === 0) {
      log.info(about, 'events: the store of a stream is used again')
    }
  }

  const eventsOf = (index: number): PartitionConsumerEvents => ({
    store: error => note(index, error),
    failed: (event, { message: reason }, attempts) =>
      log.debug({ ...about, id: idOf(event, index), reason, attempts }, 'events: an event was not handled'),
    died: (event, reason, attempts, dropped) =>
      log.error({ ...about, id: idOf(event, index), reason, attempts, ...dropped > 0 && { dropped } }, options.deadLetter
        ? 'events: an event became a dead letter'
        : 'events: an event was given up'),
    ended: isLost => {
      without.delete(index)
      if (isLost) setImmediate(() => shares.look(0))
    }
  })

  const gate = new ExclusiveSemaphore(concurrency)
  const all = Array.from({ length: partitions }, (_, index) =>
    new PartitionConsumer<T>({ store, index, options, lease, clock, gate, decode: event => decodeEvent<T>(event, idOf(event, index)), events: eventsOf(index) }))
  const shares = new PartitionAssignment({
    all,
    lease,
    instance: randomUUID(),
    alive: (instance, ms) => store.heartbeat(group, instance, ms),
    leave: instance => store.deregister(group, instance),
    onTick: error => note(TICKS, error),
    clock
  })
  const stopListening = bell.listen(partition => {
    for (const each of partition === undefined ? all : all.slice(partition, partition + 1)) each.wake()
  })
  let closing: Promise<void> | undefined

  return {
    group,
    get owned () { return shares.owned.length },
    close () {
      stopListening()
      closing ??= shares.close(CLOSE_MS).finally(onClosed)
      return closing
    }
  }
}
