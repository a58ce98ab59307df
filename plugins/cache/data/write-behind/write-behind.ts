import { randomUUID } from 'node:crypto'
import type { FastifyBaseLogger } from 'fastify'
import type { RedisClient } from '../../../shared/redis/client.js'
import { sleep, systemClock, type Clock } from '../../../shared/plugin/clock.js'
import type { DeadLetters } from '../../../shared/work-queue/dead-letters.js'
import type { Duration } from '../../../shared/plugin/duration.js'
import { invalidArgumentError, toError } from '../../../shared/plugin/errors.js'
import { warnOfEviction } from '../../../shared/redis/eviction-warning.js'
import { CircuitOpenError } from '../../../shared/redis/guard.js'
import { partitionOf } from '../../../shared/plugin/keys.js'
import { readOptions } from '../../../shared/plugin/option-reader.js'
import { compareIds, timeOfId } from '../../../shared/work-queue/stream-ids.js'
import { createWriteDeadLetters, type DeadLetter } from './dead-letters.js'
import { createMemoryWriteBehindStore } from './memory-store.js'
import { checkWriteKey, resolveWriteBehind, type ResolvedWriteBehindOptions, type WriteBehindOptions } from './options.js'
import { createRedisWriteBehindStore } from './redis-store.js'
import type { WriteBehindStore } from './store.js'
import { PartitionWorkers, type WriteBehindCounts } from './partition-workers.js'
import { json, toBytes, type Serializer } from '../serializer.js'
import { BacklogFullError, FlushIncompleteError, NotAcceptedError, UncertainError } from '../../errors.js'

/** Numbers of the store, and since the start of this process what it did itself. */
export interface WriteBehindStats extends WriteBehindCounts {
  /** Writes that were accepted and are neither written nor dead, of all instances. */
  backlog: number
  deadLetters: number
  /** Age of the oldest of the backlog in milliseconds; 0 where there is none. */
  oldestMs: number
  /** How many partitions this instance writes now. */
  owned: number
}

export interface WriteBehind<T> {
  /**
   * Resolves with its id when the write lies in the store: from then on it is written at least once, or becomes a dead letter.
   *
   * @throws `FST_REDIS_SUITE_CACHE_BACKLOG_FULL`, `FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE`: it was not accepted
   * @throws `FST_REDIS_SUITE_CACHE_UNCERTAIN` where the store did not answer in time: it may have been, or be yet, accepted
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` for a key, or `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE` for a value, that cannot be stored
   */
  add (key: string, value: T): Promise<string>
  /**
   * Resolves when all that was accepted before the call, on all instances, is written or dead. What this instance writes itself it
   * writes at once.
   *
   * @param options.timeout - default `'30s'`
   * @throws `FST_REDIS_SUITE_CACHE_FLUSH_INCOMPLETE` after that
   */
  flush (options?: { timeout?: Duration }): Promise<void>
  stats (): Promise<WriteBehindStats>
  /**
   * The writes that were given up. `replay` puts them behind all writes of their keys that were accepted meanwhile, and takes fewer where the
   * backlog is full.
   */
  readonly deadLetters: DeadLetters<DeadLetter<T>>
}

export interface WriteBehindsOptions {
  /** Undefined: the backlog lies in this process, and ends with it. */
  client: RedisClient | undefined
  prefix: string
  /** Calls Redis by the policy on failure. */
  run: <R>(operation: () => Promise<R>) => Promise<R>
  log: FastifyBaseLogger
  /** For how many milliseconds an instance that is gone keeps what it was writing. @default 4000 */
  lease?: number
  /** @default JSON */
  serializer?: Serializer
  /** The clock for leases, back-off, time-outs and the age of writes. @default the system's clock */
  clock?: Clock
}

export interface WriteBehinds {
  /**
   * Begins to write what waits under this name, and accepts more.
   *
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
   */
  writeBehind <T = unknown>(name: string, options: WriteBehindOptions<T>): WriteBehind<T>
  /** Of all that were opened, by name; of those whose store answers. */
  stats (): Promise<Record<string, WriteBehindStats>>
  /** Redis: ends after the batches at hand. In this process: writes what it can. Both within some seconds. */
  close (): Promise<void>
}

const LEASE_MS = 4000
const CLOSE_MS = 5000
const MAY_BE_EVICTED = 'cache: this server may evict accepted writes when its memory is full; use noeviction or a volatile policy'
const FIRST_POLL_MS = 5
const LONGEST_POLL_MS = 100

export function createWriteBehinds (given: WriteBehindsOptions): WriteBehinds {
  const { client, prefix, run, log, lease = LEASE_MS, serializer = json, clock = systemClock } = given
  const opened = new Map<string, { close: () => Promise<void>, stats: () => Promise<WriteBehindStats> }>()

  return {
    writeBehind <T> (name: string, options: WriteBehindOptions<T>): WriteBehind<T> {
      const resolved = resolveWriteBehind(name, options)
      if (opened.has(name)) throw invalidArgumentError('cache', 'name', name, 'a name that is not in use')
      if (client !== undefined && opened.size === 0) warnOfEviction(client, 'cache', log, MAY_BE_EVICTED, policy => policy.startsWith('allkeys-'))
      const store = client === undefined ? createMemoryWriteBehindStore(resolved.partitions, clock) : createRedisWriteBehindStore(client, prefix, name, run, clock)
      const codec = { encode: (key: string, value: unknown) => toBytes(serializer, value, key), decode: (bytes: Buffer) => serializer.deserialize(bytes) as T }
      const { behind, close } = open(name, resolved, { store, codec, log, lease, clock, isLocal: client === undefined })
      opened.set(name, { close, stats: behind.stats })
      return behind
    },
    async stats () {
      const found = await Promise.allSettled([...opened].map(async ([name, { stats }]) => [name, await stats()] as const))
      return Object.fromEntries(found.flatMap(each => each.status === 'fulfilled' ? [each.value] : []))
    },
    async close () {
      await Promise.all([...opened.values()].map(each => each.close()))
    }
  }
}

interface Parts<T> {
  store: WriteBehindStore
  codec: { encode: (key: string, value: unknown) => Buffer, decode: (bytes: Buffer) => T }
  log: FastifyBaseLogger
  lease: number
  clock: Clock
  /** Whether the backlog ends with this process. */
  isLocal: boolean
}

function open <T> (name: string, options: ResolvedWriteBehindOptions<T>, { store, codec, log, lease, clock, isLocal }: Parts<T>): { behind: WriteBehind<T>, close: () => Promise<void> } {
  const worker = new PartitionWorkers({ name, store, options, decode: codec.decode, log, lease, clock, instance: randomUUID() })
  const partitions = Array.from({ length: options.partitions }, (_, index) => index)
  let isClosed = false

  async function add (key: string, value: T): Promise<string> {
    if (isClosed) throw new NotAcceptedError(name, 'closed')
    const partition = partitionOf(checkWriteKey(key), options.partitions)
    const bytes = codec.encode(key, value)
    const added = await store.add(partition, key, bytes, options.maxBacklog).catch((error: unknown) => { throw refusalOf(name, error) })
    if (added === undefined) {
      worker.counts.refused++
      throw new BacklogFullError(name, options.maxBacklog)
    }
    worker.counts.accepted++
    worker.partitions[partition]?.added(added.backlog)
    return `${added.id}.${partition}`
  }

  async function flushPartition (partition: number, until: number): Promise<boolean> {
    let target: string | undefined
    for (let pause = FIRST_POLL_MS; ; pause = Math.min(pause * 2, LONGEST_POLL_MS)) {
      worker.partitions[partition]?.flush()
      const state = await store.state(partition).catch(() => undefined)
      target ??= state?.last
      if (state !== undefined && (state.first === undefined || target === undefined || compareIds(state.first, target) > 0)) return true
      if (clock.monotonic() >= until) return false
      await sleep(clock, pause, { ref: false })
    }
  }

  async function flushAll (ms: number): Promise<boolean> {
    const until = clock.monotonic() + ms
    return (await Promise.all(partitions.map(partition => flushPartition(partition, until)))).every(Boolean)
  }

  const behind: WriteBehind<T> = {
    deadLetters: createWriteDeadLetters(store, options, codec.decode),
    add,
    async flush (given = {}) {
      const ms = readOptions('cache', given).duration('timeout', '30s')
      if (!await flushAll(ms)) throw new FlushIncompleteError(name, ms)
    },
    async stats () {
      const states = await Promise.all(partitions.map(partition => store.state(partition)))
      const sum = (of: 'backlog' | 'deadLetters') => states.reduce((total, state) => total + state[of], 0)
      const ages = states.map(({ first, now }) => first === undefined ? 0 : now - timeOfId(first))
      return { backlog: sum('backlog'), deadLetters: sum('deadLetters'), oldestMs: Math.max(0, ...ages), owned: worker.owned.length, ...worker.counts }
    }
  }

  async function close (): Promise<void> {
    isClosed = true
    const until = clock.monotonic() + CLOSE_MS
    if (isLocal) await flushAll(CLOSE_MS)
    await worker.close(Math.max(0, until - clock.monotonic()))
    if (!isLocal) return
    const { backlog, deadLetters } = await behind.stats()
    if (backlog + deadLetters > 0) log.error({ plugin: 'cache', writeBehind: name, backlog, deadLetters }, 'cache: accepted writes are lost with this process, which has no Redis')
  }

  return { behind, close }
}

/** An answer, even an error, says that nothing was done; without one nobody knows. */
function refusalOf (name: string, error: unknown): Error {
  const { name: kind, message } = toError(error)
  const isCertain = kind === 'ReplyError' || error instanceof CircuitOpenError
  return isCertain ? new NotAcceptedError(name, message) : new UncertainError(name, message)
}
