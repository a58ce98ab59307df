import type { FastifyBaseLogger } from 'fastify'
import type { RedisPort } from '../../shared/redis/port.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { createDeadLetters } from '../../shared/work-queue/dead-letter-admin.js'
import { invalidArgumentError, withoutCommand } from '../../shared/plugin/errors.js'
import { warnOfEviction } from '../../shared/redis/eviction-warning.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { partitionOf } from '../../shared/plugin/keys.js'
import { createAppendNotifiers } from './append-notifier.js'
import { startConsumer } from './consumer.js'
import { eventIdOf, parseCursor } from './cursor.js'
import { InvalidCursorError, StoreUnavailableError } from './errors.js'
import { decode, encode } from './codec.js'
import { createMemoryStreams } from './memory-store.js'
import { checkKey, checkName, resolveConsume, resolveStream, type ResolvedStreamOptions } from './options.js'
import { Readers } from './reader.js'
import { createRedisStreams } from './redis-store.js'
import type { AppendNotifier, StreamStore } from './store.js'
import type {
  Consumer, ConsumeOptions, EventDeadLetter, EventStream, GroupStats, StreamOptions, StreamStats
} from './types.js'

interface StreamsOptions {
  /** Undefined: events are stored in this process, and are lost when it ends. */
  client: RedisPort | undefined
  prefix: string
  /** Calls Redis by the policy on failure, with the plugin's `timeout`. */
  guard: RedisGuard | undefined
  log: FastifyBaseLogger
  clock: Clock
  /** How long an instance that ended keeps its partitions. @default 4000 */
  lease?: Milliseconds
}

export interface Streams {
  /**
   * Returns the stream of this name, the same one for each call.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_INVALID_OPTION`, also where it is open with other options
   */
  stream <T = unknown>(name: string, options?: StreamOptions): EventStream<T>
  /**
   * Returns the state of each group of the open streams.
   *
   * @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` (503)
   */
  stats (): Promise<GroupOfStream[]>
  /** Ends all readers, and the consumers once their running handlers have ended, within some seconds. */
  close (): Promise<void>
}

/** The state of a group of a stream. */
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
const MAY_BE_EVICTED =
  'events: this server may evict streams when its memory is full, as they have a TTL; use noeviction'

export function createStreams ({ client, prefix, guard, log, clock, lease = LEASE_MS }: StreamsOptions): Streams {
  const opened = new Map<string, Opened>()
  const notifiers = client && createAppendNotifiers(client, prefix, log, clock)

  function storeOf (name: string, options: ResolvedStreamOptions): { store: StreamStore, notifier: AppendNotifier } {
    if (client === undefined || !guard || !notifiers) return createMemoryStreams(options, clock)
    const store = createRedisStreams({ client, prefix, name, options, run: guard.run, clock })
    return { store, notifier: notifiers.of(name) }
  }

  return {
    stream <T> (name: string, streamOptions?: StreamOptions): EventStream<T> {
      checkName('name', name)
      const options = resolveStream(streamOptions ?? {})
      const known = opened.get(name)
      if (known !== undefined) {
        const isSame = streamOptions === undefined || JSON.stringify(known.options) === JSON.stringify(options)
        if (isSame) return known.stream as EventStream<T>
        throw invalidArgumentError('events', 'options', streamOptions, `those of the open stream "${name}"`)
      }
      if (client !== undefined && opened.size === 0) {
        warnOfEviction(client, 'events', log, MAY_BE_EVICTED, policy => policy !== 'noeviction')
      }
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
      notifiers?.close()
    }
  }
}

interface Parts {
  name: string
  store: StreamStore
  notifier: AppendNotifier
  options: ResolvedStreamOptions
  log: FastifyBaseLogger
  lease: Milliseconds
  clock: Clock
}

function openStream ({ name, store, notifier, options, log, lease, clock }: Parts): Omit<Opened, 'options'> {
  const { partitions } = options
  const indices = Array.from({ length: partitions }, (_, index) => index)
  const readers = new Readers({ name, store, notifier, partitions, log, clock })
  const consumers = new Set<Consumer>()
  let isClosed = false
  let nextPartition = 0

  /** Calls the store. @throws `FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE` */
  async function callStore<R> (operation: () => Promise<R>): Promise<R> {
    if (isClosed) throw new StoreUnavailableError({ cause: new Error('the stream is closed') })
    return await operation().catch((error: unknown) => {
      throw new StoreUnavailableError({ cause: withoutCommand(error) })
    })
  }

  const stream: EventStream<unknown> = {
    async append (data, { key } = {}) {
      const partition = checkKey(key) === undefined ? nextPartition++ % partitions : partitionOf(key ?? '', partitions)
      const value = encode(name, data)
      const { id, n } = await callStore(() => store.append(partition, key, value))
      return eventIdOf({ id, n, key, value }, partition, partitions)
    },
    read ({ after, signal } = {}) {
      const positions = after === undefined ? undefined : parseCursor(after, partitions)
      if (after !== undefined && positions === undefined) {
        throw new InvalidCursorError(name, String(after).slice(0, 100))
      }
      return readers.read(positions, signal)
    },
    async consume (consumeOptions: ConsumeOptions<unknown>) {
      const resolved = resolveConsume(consumeOptions)
      if (isClosed) throw new StoreUnavailableError({ cause: new Error('the stream is closed') })
      // If this fails, the first take creates the group.
      const { group, from } = resolved
      await Promise.all(indices.map(partition => store.ensureGroup(partition, group, from))).catch(() => {})
      const consumer = startConsumer({
        ...{ name, store, notifier, partitions, lease, log, clock },
        options: resolved,
        onClosed: () => consumers.delete(consumer)
      })
      consumers.add(consumer)
      if (isClosed) await consumer.close()
      return consumer
    },
    stats: () => callStore(async () => await statsOf(store, indices)),
    deadLetters (group) {
      checkName('group', group)
      return createDeadLetters({
        plugin: 'events',
        queues: indices.map(partition => store.queue(partition, group)),
        decode: decode<unknown>,
        toLetter (common, data, letter, partition): EventDeadLetter<unknown> {
          const eventId = eventIdOf({ ...letter, id: letter.messageId }, partition, partitions)
          return { ...common, eventId, key: letter.key, data }
        },
        run: callStore
      })
    }
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
  for (const { group, ...stats } of states.flatMap(({ groups }) => groups)) {
    const sum = sums.get(group) ?? { lag: 0, pending: 0, deadLetters: 0, lost: 0 }
    for (const field of ['lag', 'pending', 'deadLetters', 'lost'] as const) sum[field] += stats[field]
    sums.set(group, sum)
  }
  return { length: states.reduce((sum, { length }) => sum + length, 0), groups: Object.fromEntries(sums) }
}
