import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../../shared/redis/client.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { createDeadLetters, type DeadLetters } from '../../shared/work-queue/dead-letters.js'
import { invalidArgumentError, reasonOf } from '../../shared/plugin/errors.js'
import { warnOfEviction } from '../../shared/redis/eviction-warning.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { partitionOf } from '../../shared/plugin/keys.js'
import { timeOfId } from '../../shared/work-queue/stream-ids.js'
import { createAppendNotifier } from './append-notifier.js'
import { startConsumer } from './consumer.js'
import { eventIdOf, parseCursor } from './cursor.js'
import { InvalidCursorError, StoreUnavailableError } from './errors.js'
import { decode, encode } from './codec.js'
import { createMemoryStreams } from './memory-store.js'
import { checkKey, checkName, resolveConsume, resolveStream, type ResolvedStreamOptions } from './options.js'
import { Readers } from './reader.js'
import { createRedisStreams } from './redis-store.js'
import type { AppendNotifier, StoredEventDeadLetter, StreamStore } from './store.js'
import type { Consumer, ConsumeOptions, DeadLetter, EventStream, GroupStats, StreamOptions, StreamStats } from './types.js'

export interface StreamsOptions {
  /** Undefined: events lie in this process, and end with it. */
  client: RedisClient | undefined
  prefix: string
  /** Calls Redis by the policy on failure, with the plugin's `timeout`. */
  guard: RedisGuard | undefined
  log: FastifyBaseLogger
  clock: Clock
  /** For how many milliseconds an instance that is gone keeps its partitions. @default 4000 */
  lease?: number
}

export interface Streams {
  /**
   * The stream of this name; each call gives the same one.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, also where it is open with other options
   */
  stream <T = unknown>(name: string, options?: StreamOptions): EventStream<T>
  /** @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503) */
  stats (): Promise<GroupOfStream[]>
  /** Ends all readers, and the consumers after the events at hand, within some seconds. */
  close (): Promise<void>
}

/** How far a group is with a stream. */
export interface GroupOfStream extends GroupStats {
  stream: string
  group: string
}

interface Opened {
  options: ResolvedStreamOptions
  stream: EventStream<unknown>
  close: () => Promise<void>
}

const LEASE_MS = 4000
const MAY_BE_EVICTED = 'events: this server may evict streams when its memory is full, as they have a TTL; use noeviction'

export function createStreams ({ client, prefix, guard, log, clock, lease = LEASE_MS }: StreamsOptions): Streams {
  const opened = new Map<string, Opened>()
  const bells = client && createAppendNotifier(client, prefix, log, clock)

  function storeOf (name: string, options: ResolvedStreamOptions): { store: StreamStore, bell: AppendNotifier } {
    if (client === undefined || guard === undefined || bells === undefined) return createMemoryStreams(options, clock)
    return { store: createRedisStreams({ client, prefix, name, options, run: guard.run, clock }), bell: bells.bellOf(name) }
  }

  return {
    stream <T> (name: string, given?: StreamOptions): EventStream<T> {
      checkName('name', name)
      const options = resolveStream(given ?? {})
      const known = opened.get(name)
      if (known !== undefined) {
        const isSame = given === undefined || JSON.stringify(known.options) === JSON.stringify(options)
        if (!isSame) throw invalidArgumentError('events', 'options', given, `those that stream "${name}" is open with`)
        return known.stream as EventStream<T>
      }
      if (client !== undefined && opened.size === 0) warnOfEviction(client, 'events', log, MAY_BE_EVICTED, policy => policy !== 'noeviction')
      const made = openStream({ ...storeOf(name, options), name, options, log, lease, clock })
      opened.set(name, { ...made, options })
      return made.stream as EventStream<T>
    },
    async stats () {
      const found = await Promise.all([...opened].map(async ([name, { stream }]) => {
        const { groups } = await stream.stats()
        return Object.entries(groups).map(([group, stats]) => ({ stream: name, group, ...stats }))
      }))
      return found.flat()
    },
    async close () {
      await Promise.all([...opened.values()].map(each => each.close()))
      bells?.close()
    }
  }
}

interface Parts {
  name: string
  store: StreamStore
  bell: AppendNotifier
  options: ResolvedStreamOptions
  log: FastifyBaseLogger
  lease: number
  clock: Clock
}

function openStream ({ name, store, bell, options, log, lease, clock }: Parts): Omit<Opened, 'options'> {
  const { partitions } = options
  const indices = Array.from({ length: partitions }, (_, index) => index)
  const readers = new Readers({ name, store, bell, partitions, log, clock })
  const consumers = new Set<Consumer>()
  let isClosed = false
  let turn = 0

  /** Asks the store for somebody who hears of it when it fails. */
  async function ask<R> (question: () => Promise<R>): Promise<R> {
    if (isClosed) throw new StoreUnavailableError(name, 'closed')
    return await question().catch((error: unknown) => { throw new StoreUnavailableError(name, reasonOf(error)) })
  }

  const stream: EventStream<unknown> = {
    async append (data, { key } = {}) {
      const partition = checkKey(key) === undefined ? turn++ % partitions : partitionOf(key ?? '', partitions)
      const value = encode(name, data)
      const { id, n } = await ask(() => store.append(partition, key, value))
      return eventIdOf({ id, n, key, value }, partition, partitions)
    },
    read ({ after, signal } = {}) {
      const positions = after === undefined ? undefined : parseCursor(after, partitions)
      if (after !== undefined && positions === undefined) throw new InvalidCursorError(name, String(after).slice(0, 100))
      return readers.read(positions, signal)
    },
    async consume (given: ConsumeOptions<unknown>) {
      const resolved = resolveConsume(given)
      if (isClosed) throw new StoreUnavailableError(name, 'closed')
      // Where that fails it is done when the store is there.
      await Promise.all(indices.map(partition => store.found(partition, resolved.group, resolved.from))).catch(() => {})
      const consumer = startConsumer({ name, store, bell, partitions, options: resolved, lease, log, clock, onClosed: () => consumers.delete(consumer) })
      consumers.add(consumer)
      if (isClosed) await consumer.close()
      return consumer
    },
    stats: () => ask(async () => await statsOf(store, indices)),
    deadLetters: group => lettersOf({ store, ask, partitions, group: checkName('group', group) })
  }

  async function close (): Promise<void> {
    isClosed = true
    readers.close()
    await Promise.all([...consumers].map(consumer => consumer.close()))
  }

  return { stream, close }
}

async function statsOf (store: StreamStore, indices: readonly number[]): Promise<StreamStats> {
  const states = await Promise.all(indices.map(index => store.state(index)))
  const sums = new Map<string, GroupStats>()
  for (const { group, lag, pending, deadLetters, lost } of states.flatMap(({ groups }) => groups)) {
    const sum = sums.get(group) ?? { lag: 0, pending: 0, deadLetters: 0, lost: 0 }
    sums.set(group, { lag: sum.lag + lag, pending: sum.pending + pending, deadLetters: sum.deadLetters + deadLetters, lost: sum.lost + lost })
  }
  return { length: states.reduce((sum, { length }) => sum + length, 0), groups: Object.fromEntries(sums) }
}

interface LettersParts {
  store: StreamStore
  ask: <R>(question: () => Promise<R>) => Promise<R>
  partitions: number
  group: string
}

function lettersOf<T> ({ store, ask, partitions, group }: LettersParts): DeadLetters<DeadLetter<T>> {
  return createDeadLetters<StoredEventDeadLetter, DeadLetter<T>>({
    plugin: 'events',
    partitions,
    size: partition => ask(() => store.deadLetterCount(partition, group)),
    list: (partition, from, count) => ask(() => store.deadLetters(partition, group, from, count)),
    replay: (partition, ids) => ask(() => store.replay(partition, group, ids)),
    discard: (partition, ids) => ask(() => store.discard(partition, group, ids))
  }, (letter, partition) => {
    const { id, eventId, key, value, reason, deliveryCount: attempts } = letter
    const known = { id: `${id}.${partition}`, eventId: eventIdOf({ ...letter, id: eventId }, partition, partitions), key, reason, attempts, diedAt: timeOfId(id) }
    try {
      return { ...known, data: decode<T>(value) }
    } catch {
      return { ...known, data: undefined }
    }
  })
}
