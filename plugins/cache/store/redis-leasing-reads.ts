import type { Clock } from '../../shared/plugin/clock.js'
import { timeOf } from '../../shared/redis/info.js'
import { MicroBatch, type Batched, type TurnPipeline } from '../../shared/redis/micro-batch.js'
import type { CommandArgument, RedisPort } from '../../shared/redis/port.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { sendScriptIn } from '../../shared/redis/script.js'
import { textOf } from './redis-fills.js'
import { readOrAcquireScript } from './scripts.js'
import { PATTERN_TAG, type FillStart } from './store.js'
import { UNUSED_TTL_MS, type TagVersions } from './tag-versions.js'

interface LeasingRead {
  entryKey: string
  leaseKey: string
  /** The token of the caller. */
  token: string
  ttl: number
  /** Their versions decide whether the lease is acquired. */
  tags: readonly string[]
}

interface LeasingReadResult {
  /** Empty where there is no entry. */
  bytes: Buffer
  /** The versions of the tags, in their order. */
  versions: ReadonlyArray<Buffer | string | null>
  /** Undefined where the lease was not acquired. */
  acquired: FillStart | undefined
}

type Batch = ReadonlyArray<Batched<LeasingRead>>

/** The keys of one script. Redis executes it in a fraction of a millisecond. */
const MAX_KEYS = 256

interface LeasingReadsOptions {
  client: RedisPort
  tagVersions: TagVersions
  clock: Clock
  run: RedisGuard['run']
  /** Called before the reads of a turn are sent. */
  beforeSending: () => void
  /** Reads one entry by commands for each key, and acquires nothing. */
  readApart: (read: LeasingRead) => Promise<LeasingReadResult>
}

/**
 * Reads entries of which most are missing, and acquires the leases of their fills at once: those of one turn of the
 * event loop by one script, under one deadline.
 */
export class LeasingReads {
  readonly #options: LeasingReadsOptions
  readonly #batch: MicroBatch<LeasingRead, LeasingReadResult>

  constructor (options: LeasingReadsOptions) {
    const { client, run, beforeSending, readApart } = options
    this.#options = options
    this.#batch = new MicroBatch<LeasingRead, LeasingReadResult>({
      client,
      maxSize: MAX_KEYS,
      sendTogether: (batch, pipeline) => {
        beforeSending()
        return run(() => this.#readTogether(batch, pipeline))
      },
      sendApart: batch => batch.map(({ request }) => readApart(request).then(found => [found])),
      parse: reply => reply as LeasingReadResult[]
    })
  }

  read (read: LeasingRead): Promise<LeasingReadResult> {
    return this.#batch.add(read, undefined, 2 + read.tags.length)
  }

  #readTogether (batch: Batch, pipeline: TurnPipeline): Promise<LeasingReadResult[]> {
    const { tagVersions, clock } = this.#options
    const places = new Map<string, number>()
    const created = tagVersions.initial()
    const keptUntil = clock.monotonic() + UNUSED_TTL_MS
    const keys: string[] = []
    const args: CommandArgument[] = [batch.length, created, UNUSED_TTL_MS]
    for (const { request: { entryKey, leaseKey, token, ttl, tags } } of batch) {
      keys.push(entryKey, leaseKey)
      args.push(token, ttl, tags.length)
      for (const tag of tags) args.push(placeOf(places, tag))
    }
    placeOf(places, PATTERN_TAG)
    const tags = [...places.keys()]
    for (const tag of tags) keys.push(tagVersions.keyOf(tag))
    return sendScriptIn(pipeline, readOrAcquireScript, keys, args, clock, true).then(reply => {
      const values: unknown[] = Array.isArray(reply) ? reply : []
      const versions = values.slice(2, 2 + tags.length).map(textOf)
      tagVersions.rememberCreated(tags, versions, created, keptUntil)
      const now = timeOf(values.slice(0, 2).map(textOf))
      const versionOf = (tag: string): string => versions[(places.get(tag) ?? 0) - 1] ?? ''
      const versionsOf = sharing(tags => Object.fromEntries(tags.map(tag => [tag, versionOf(tag)])))
      let at = 2 + tags.length
      return batch.map(({ request: { tags } }) => {
        const bytes = values[at++]
        if (!Buffer.isBuffer(bytes)) throw new TypeError('unexpected reply of a script of the cache')
        const isAcquired = values[at++] === 1
        return {
          bytes,
          versions: tags.map(tag => versionOf(tag) === '' ? null : versionOf(tag)),
          acquired: isAcquired ? { now, versions: versionsOf([...tags, PATTERN_TAG]) } : undefined
        }
      })
    })
  }
}

/** Returns the place of a tag among the tags of a batch, as Lua counts. A new one is put last. */
function placeOf (places: Map<string, number>, tag: string): number {
  const present = places.get(tag)
  if (present !== undefined) return present
  places.set(tag, places.size + 1)
  return places.size
}

/** Shares the result of a call with the next one that has the same tags, as most reads of a turn have. */
function sharing<T> (make: (tags: readonly string[]) => T): (tags: readonly string[]) => T {
  let last: { tags: readonly string[], made: T } | undefined
  return tags => {
    const isSame = last?.tags.length === tags.length && tags.every((tag, i) => tag === last?.tags[i])
    if (last === undefined || !isSame) last = { tags, made: make(tags) }
    return last.made
  }
}
