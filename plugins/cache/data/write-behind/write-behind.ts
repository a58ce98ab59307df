import type { FastifyBaseLogger } from 'fastify'
import type { RedisPort } from '../../../shared/redis/port.js'
import { Poller, systemClock, type Clock } from '../../../shared/plugin/clock.js'
import { createDeadLetters, type DeadLetters } from '../../../shared/work-queue/dead-letter-admin.js'
import type { Duration } from '../../../shared/plugin/duration.js'
import { invalidArgumentError, toError } from '../../../shared/plugin/errors.js'
import type { Milliseconds } from '../../../shared/plugin/units.js'
import { warnOfEviction } from '../../../shared/redis/eviction-warning.js'
import { CircuitOpenError } from '../../../shared/redis/guard.js'
import { partitionOf } from '../../../shared/plugin/keys.js'
import { duration } from '../../../shared/plugin/option-kinds.js'
import { resolveOptions } from '../../../shared/plugin/option-table.js'
import { compareIds, timeOfId } from '../../../shared/work-queue/stream-ids.js'
import type { CachedWrites, OpenCachedWrites, StagedWrite } from './cached-writes.js'
import { startFlusher, type WriteBehindCounts } from './flusher.js'
import { createMemoryWriteBehindStore } from './memory-store.js'
import {
  checkWriteKey, resolveWriteBehind, type ResolvedWriteBehindOptions, type WriteBehindOptions
} from './options.js'
import { createRedisWriteBehindStore } from './redis-store.js'
import type { WriteBehindStore } from './store.js'
import type { Cached } from '../jsonify.js'
import { json, toBytes, type Serializer } from '../serializer.js'
import { BacklogFullError, FlushIncompleteError, NotAcceptedError, UncertainError } from '../../errors.js'

/** The state of the store, and counts since the start of this process. */
export interface WriteBehindStats extends WriteBehindCounts {
  /** Writes of all instances that were accepted and are neither written nor dead. */
  backlog: number
  deadLetters: number
  /** The age of the oldest write of the backlog, in milliseconds; 0 where the backlog is empty. */
  oldestMs: number
  /** How many partitions this instance writes now. */
  owned: number
}

export interface WriteBehind<T> {
  /**
   * Accepts a write, and resolves with its id once the write is in the store. From then on it is written at least once,
   * or becomes a dead letter. With the option `cache`, its value is cached by then.
   *
   * @throws an error of the functions `ttl` and `tags` of the option `cache`: it was not accepted
   * @throws `FST_REDIS_SUITE_CACHE_BACKLOG_FULL`, `FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE`: it was not accepted
   * @throws `FST_REDIS_SUITE_CACHE_UNCERTAIN` where the store did not reply in time: the write may be accepted
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` for a key, or `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE` for a value,
   *   that cannot be stored
   */
  add (key: string, value: T): Promise<string>
  /**
   * Resolves when all writes that were accepted before the call, on all instances, are written or dead. This instance
   * writes its share at once.
   *
   * @param options.timeout - default `'30s'`
   * @throws `FST_REDIS_SUITE_CACHE_FLUSH_INCOMPLETE` after the timeout
   */
  flush (options?: { timeout?: Duration }): Promise<void>
  stats (): Promise<WriteBehindStats>
  /**
   * The writes that were given up. `replay` adds them behind all writes of their keys that were accepted meanwhile, and
   * replays fewer where the backlog is full.
   */
  readonly deadLetters: DeadLetters<WriteDeadLetter<T>>
}

/** A write that was given up. */
export interface WriteDeadLetter<T> {
  /** The dead letter's own id, for `after`, `replay` and `discard`. */
  id: string
  /** The id of the write. */
  writeId: string
  key: string
  /** Undefined where it cannot be decoded. */
  value: Cached<T> | undefined
  /** The message of the last error. */
  reason: string
  /** How often the write was attempted. */
  attempts: number
  /** When it was given up, by the store's clock: milliseconds since the epoch. */
  diedAt: number
}

export interface WriteBehindsOptions {
  /** Undefined: the backlog is in this process, and is lost when it ends. */
  client: RedisPort | undefined
  prefix: string
  /** Calls Redis by the policy on failure. */
  run: <R>(operation: () => Promise<R>) => Promise<R>
  log: FastifyBaseLogger
  /** How long an instance that ended keeps its partitions. @default 4000 */
  lease?: Milliseconds
  /** @default JSON */
  serializer?: Serializer
  /** The clock of leases, back-off, time-outs and the age of writes. @default the system's clock */
  clock?: Clock
}

export interface WriteBehinds {
  /**
   * Starts to write the backlog of this name, and accepts more writes.
   *
   * @param openCached - opens the cached values of the option `cache`
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
   */
  writeBehind <T = unknown>(name: string, options: WriteBehindOptions<T>, openCached?: OpenCachedWrites): WriteBehind<T>
  /** Returns the statistics of each opened write-behind whose store replies, by name. */
  stats (): Promise<Record<string, WriteBehindStats>>
  /**
   * Ends within some seconds. With Redis, the batches in flight are finished; without, the whole backlog is written if
   * possible.
   */
  close (): Promise<void>
}

const FLUSH_OPTIONS = { timeout: duration('30s') }
const LEASE_MS = 4000
const CLOSE_MS = 5000
const MAY_BE_EVICTED =
  'cache: this server may evict accepted writes when its memory is full; use noeviction or a volatile policy'

export function createWriteBehinds (
  { client, prefix, run, log, lease = LEASE_MS, serializer = json, clock = systemClock }: WriteBehindsOptions
): WriteBehinds {
  const opened = new Map<string, { close: () => Promise<void>, stats: () => Promise<WriteBehindStats> }>()

  return {
    writeBehind <T> (name: string, options: WriteBehindOptions<T>, openCached?: OpenCachedWrites): WriteBehind<T> {
      const resolved = resolveWriteBehind(name, options)
      if (opened.has(name)) throw invalidArgumentError('cache', 'name', name, 'a name that is not in use')
      const { cache } = resolved
      const cached = cache === false ? undefined : openCached?.(cache === true ? {} : cache)
      if (client !== undefined && opened.size === 0) {
        warnOfEviction(client, 'cache', log, MAY_BE_EVICTED, policy => policy.startsWith('allkeys-'))
      }
      const store = client === undefined
        ? createMemoryWriteBehindStore(resolved, clock)
        : createRedisWriteBehindStore({ client, prefix, name, run, clock, limits: resolved })
      const codec = {
        encode: (key: string, value: unknown) => toBytes(serializer, value, key),
        decode: (bytes: Buffer) => serializer.deserialize(bytes) as Cached<T>
      }
      const isLocal = client === undefined
      const { behind, close } = open<T>(name, resolved, { store, codec, cached, log, lease, clock, isLocal })
      opened.set(name, { close, stats: behind.stats })
      return behind
    },
    async stats () {
      const settled = await Promise.allSettled([...opened].map(async ([name, { stats }]) => [name, await stats()]))
      return Object.fromEntries(settled.flatMap(each => each.status === 'fulfilled' ? [each.value] : []))
    },
    async close () {
      await Promise.all([...opened.values()].map(each => each.close()))
    }
  }
}

interface Parts<T> {
  store: WriteBehindStore
  codec: { encode: (key: string, value: unknown) => Buffer, decode: (bytes: Buffer) => Cached<T> }
  /** The cached values of the writes, with the option `cache`. */
  cached: CachedWrites | undefined
  log: FastifyBaseLogger
  lease: Milliseconds
  clock: Clock
  /** Whether the backlog is lost when this process ends. */
  isLocal: boolean
}

function open <T> (
  name: string, options: ResolvedWriteBehindOptions<T>, { store, codec, cached, log, lease, clock, isLocal }: Parts<T>
): { behind: WriteBehind<T>, close: () => Promise<void> } {
  const indices = Array.from({ length: options.partitions }, (_, index) => index)
  const queues = indices.map(store.queue)
  const { counts, partitions } = startFlusher({
    name, store, queues, options, decode: codec.decode, cached, log, lease, clock
  })
  const inOrder = createOrder()
  let isClosed = false

  async function add (key: string, value: T): Promise<string> {
    if (isClosed) throw new NotAcceptedError(name, 'closed')
    const partition = partitionOf(checkWriteKey(key), options.partitions)
    const bytes = codec.encode(key, value)
    if (cached === undefined) return `${await enqueue(partition, key, bytes)}.${partition}`
    const staging = cached.stage(key, value)
    const { id, staged } = await inOrder(key, staging, async () => {
      const staged = await staging
      return { id: await enqueueStaged(partition, key, bytes, staged), staged }
    })
    await staged.confirm(id)
    return `${id}.${partition}`
  }

  async function enqueue (partition: number, key: string, bytes: Buffer): Promise<string> {
    const added = await store.add(partition, key, bytes).catch((error: unknown) => { throw refusalOf(name, error) })
    if (added === undefined) {
      counts.refused++
      throw new BacklogFullError(name, options.maxBacklog)
    }
    counts.accepted++
    const worker = partitions.workers[partition]
    if (worker !== undefined && added.backlog - worker.size >= options.batch) worker.flush()
    return added.id
  }

  async function enqueueStaged (partition: number, key: string, bytes: Buffer, staged: StagedWrite): Promise<string> {
    try {
      return await enqueue(partition, key, bytes)
    } catch (error) {
      // A write whose acceptance is unknown is not cached: readers get what the source holds.
      await (error instanceof UncertainError ? staged.remove() : staged.undo())
      throw error
    }
  }

  async function flushPartition (partition: number, ms: Milliseconds): Promise<boolean> {
    const poller = new Poller(clock, ms, { ref: false })
    let target: string | undefined
    do {
      partitions.workers[partition]?.flush()
      const state = await store.state(partition).catch(() => undefined)
      target ??= state?.last
      const isFlushed = target === undefined || state?.first === undefined || compareIds(state.first, target) > 0
      if (state !== undefined && isFlushed) return true
    } while (await poller.wait())
    return false
  }

  async function flushAll (ms: Milliseconds): Promise<boolean> {
    return (await Promise.all(indices.map(partition => flushPartition(partition, ms)))).every(Boolean)
  }

  const behind: WriteBehind<T> = {
    deadLetters: createDeadLetters({
      plugin: 'cache',
      queues,
      decode: codec.decode,
      toLetter: (common, value, { messageId, key = '' }, partition): WriteDeadLetter<T> =>
        ({ ...common, writeId: `${messageId}.${partition}`, key, value })
    }),
    add,
    async flush (flushOptions = {}) {
      const ms = resolveOptions('cache', FLUSH_OPTIONS, flushOptions).timeout
      if (!await flushAll(ms)) throw new FlushIncompleteError(name, ms)
    },
    async stats () {
      const states = await Promise.all(indices.map(store.state))
      const sum = (field: 'backlog' | 'deadLetters') => states.reduce((total, state) => total + state[field], 0)
      const oldestMs = Math.max(0, ...states.map(({ first, now }) => first === undefined ? 0 : now - timeOfId(first)))
      const owned = partitions.owned.length
      return { backlog: sum('backlog'), deadLetters: sum('deadLetters'), oldestMs, owned, ...counts }
    }
  }

  async function close (): Promise<void> {
    isClosed = true
    const until = clock.monotonic() + CLOSE_MS
    if (isLocal) await flushAll(CLOSE_MS)
    await partitions.close(Math.max(0, until - clock.monotonic()))
    if (!isLocal) return
    const { backlog, deadLetters } = await behind.stats()
    if (backlog + deadLetters === 0) return
    const about = { plugin: 'cache', writeBehind: name, backlog, deadLetters }
    log.error(about, 'cache: accepted writes are lost with this process, which has no Redis')
  }

  return { behind, close }
}

/** A reply, even an error, proves that the write was not accepted; without a reply it may have been. */
function refusalOf (name: string, error: unknown): Error {
  const { name: kind, message } = toError(error)
  const isCertain = kind === 'ReplyError' || error instanceof CircuitOpenError
  return isCertain ? new NotAcceptedError(name, message) : new UncertainError(name, message)
}

/**
 * Returns a function that runs work after the earlier work of its key, so that writes are queued in the order of the
 * calls.
 */
function createOrder () {
  const last = new Map<string, Promise<unknown>>()
  return async function inOrder<R> (key: string, prepared: Promise<unknown>, work: () => Promise<R>): Promise<R> {
    // It may reject while earlier work runs.
    prepared.catch(() => {})
    const done = (last.get(key) ?? Promise.resolve()).then(work, work)
    last.set(key, done)
    try {
      return await done
    } finally {
      if (last.get(key) === done) last.delete(key)
    }
  }
}
