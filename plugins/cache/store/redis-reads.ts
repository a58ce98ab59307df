import { isWrongType } from '../../shared/plugin/errors.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { handled, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { onNode } from '../../shared/redis/cluster-nodes.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { MicroBatch, type Batched, type TurnPipeline } from '../../shared/redis/micro-batch.js'
import type { RedisPort } from '../../shared/redis/port.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import type { Entry } from './entry.js'
import { decodeEntry, type CasToken } from './entry-codec.js'
import { EntryDecoder } from './entry-decoder.js'
import { isValid, missingTags, ReadVersions, RedisReadResult } from './read-result.js'
import { LeasingReads } from './redis-leasing-reads.js'
import { ALL_TAG, type FillStart, type ReadResult } from './store.js'
import type { TagVersions } from './tag-versions.js'

type Keys = readonly string[]
type Values = Array<Buffer | null>
type Batch = ReadonlyArray<Batched<Keys>>

/** The keys of one `MGET`. Redis executes it in a fraction of a millisecond. */
const MAX_KEYS = 128
const MISS = { entry: undefined, token: '' }
const NO_OWN_TAGS: readonly string[] = [ALL_TAG]
const NO_BYTES = Buffer.alloc(0)

interface RedisReadsOptions {
  client: RedisPort
  tagVersions: TagVersions
  clock: Clock
  run: RedisGuard['run']
  /** Called before the reads of a turn are sent. */
  beforeSending: () => void
  /** Whether entries are read again and again, as no L1 has them. */
  readsAgain: boolean
}

/** The lease that a read acquires where there is no entry. */
interface WantedLease {
  leaseKey: string
  token: string
  ttl: Milliseconds
}

/**
 * Reads entries and the versions of their tags: the keys of one turn of the event loop by one `MGET`, each of them
 * once, under one deadline.
 */
export class RedisReads {
  readonly #tagVersions: TagVersions
  readonly #batch: MicroBatch<Keys, Values>
  readonly #leasing: LeasingReads
  readonly #decoder: EntryDecoder | undefined
  /** See {@link MicroBatch.share}. */
  readonly share: <T> (id: string, work: () => Promise<T>) => Promise<T>

  constructor ({ client, tagVersions, clock, run, beforeSending, readsAgain }: RedisReadsOptions) {
    const batch = new MicroBatch<Keys, Values>({
      client,
      maxSize: MAX_KEYS,
      sendTogether: (batch, pipeline) => {
        beforeSending()
        return run(() => getTogether(batch, pipeline))
      },
      sendApart: (batch, pipeline) => {
        beforeSending()
        return getApart(batch, pipeline, run)
      },
      parse: parseValues
    })
    this.#tagVersions = tagVersions
    this.#batch = batch
    this.#leasing = new LeasingReads({
      client,
      tagVersions,
      clock,
      run,
      // A caller shares no read that has been sent.
      beforeSending: () => { batch.flush(); beforeSending() },
      readApart: ({ entryKey, tags }) => this.#getAll([entryKey, ...tagVersions.keysOf(tags)]).then(
        ([bytes, ...versions]) => ({ bytes: bytes ?? NO_BYTES, versions, acquired: undefined }))
    })
    this.#decoder = readsAgain ? new EntryDecoder() : undefined
    this.share = (id, work) => batch.share(id, work)
  }

  /** @param key - of the entry */
  read (key: string, tags: readonly string[], lease?: WantedLease): Promise<ReadResult> {
    const names = tags.length === 0 ? NO_OWN_TAGS : [ALL_TAG, ...tags]
    if (lease === undefined || names.length > MAX_KEYS) {
      return this.#getAll([key, ...this.#tagVersions.keysOf(names)]).then(([bytes, ...values]) =>
        this.#resultOf(key, bytes ?? NO_BYTES, new ReadVersions(names, values)))
    }
    return this.#leasing.read({ entryKey: key, ...lease, tags: names }).then(found =>
      this.#resultOf(key, found.bytes, new ReadVersions(names, found.versions), found.acquired))
  }

  #resultOf (
    key: string, bytes: Buffer, known: ReadVersions, acquired?: FillStart
  ): MaybePromise<ReadResult> {
    if (acquired !== undefined) return new RedisReadResult(undefined, MISS.token, known, acquired)
    const { entry, token } = bytes.length === 0 ? MISS : this.#decoder?.decode(key, bytes) ?? decodeEntry(bytes)
    if (entry === undefined) return this.#miss(token, known)
    // Tags that the handler added are known only now. Nearly always there are none.
    const more = missingTags(entry, known)
    if (more !== undefined) return this.#readMore(entry, token, known, more)
    return isValid(entry, known) ? new RedisReadResult(entry, token, known) : this.#miss(token, known)
  }

  async #readMore (
    entry: Entry, token: CasToken, known: ReadVersions, more: readonly string[]
  ): Promise<ReadResult> {
    const all = known.with(more, await this.#getAll(this.#tagVersions.keysOf(more)))
    return isValid(entry, all) ? new RedisReadResult(entry, token, known) : this.#miss(token, known)
  }

  #miss (token: CasToken, known: ReadVersions): ReadResult {
    const result = new RedisReadResult(undefined, token, known)
    this.#tagVersions.rememberAll(result.versions)
    return result
  }

  /** Returns the values of keys. One promise for all of them: each promise costs about a microsecond. */
  #getAll (keys: Keys): Promise<Values> {
    if (keys.length <= MAX_KEYS) return this.#batch.add(keys, undefined, keys.length)
    const parts = Array.from({ length: Math.ceil(keys.length / MAX_KEYS) }, (_, i) =>
      keys.slice(i * MAX_KEYS, (i + 1) * MAX_KEYS))
    return Promise.all(parts.map(part => this.#getAll(part))).then(values => values.flat())
  }
}

function getTogether (batch: Batch, pipeline: TurnPipeline): Promise<unknown> {
  const places = new Map<string, number>()
  for (const { request: keys } of batch) for (const key of keys) if (!places.has(key)) places.set(key, places.size)
  const [first = ''] = places.keys()
  return pipeline.send(first, 'mget', [...places.keys()], true).then(reply => {
    const values: unknown[] = Array.isArray(reply) ? reply : []
    return batch.map(({ request: keys }) => keys.map(key => values[places.get(key) ?? -1]))
  })
}

/** Each key is read once here as well. The deadline of each request is that of the node of its first key. */
function getApart (batch: Batch, pipeline: TurnPipeline, run: RedisGuard['run']): Array<Promise<unknown>> {
  const replies = new Map<string, Promise<unknown>>()
  const get = (key: string) => {
    const reply = replies.get(key) ?? pipeline.send(key, 'get', [key], true).catch(nullForAnotherType)
    replies.set(key, reply)
    return reply
  }
  return batch.map(({ request: keys }) => run(() => {
    const values = handled(Promise.all(keys.map(get)).then(values => [values]))
    return onNode(pipeline.client, keys[0] ?? '', () => values)
  }))
}

/** As `MGET` does: a key of another type reads as none. */
function nullForAnotherType (error: unknown): null {
  if (isWrongType(error)) return null
  throw error
}

function parseValues (reply: unknown): Array<Values | Error> {
  return (reply as unknown[][]).map(values =>
    values.every(isValue) ? values : new TypeError('unexpected reply to MGET'))
}

function isValue (value: unknown): value is Buffer | null {
  return value === null || Buffer.isBuffer(value)
}
