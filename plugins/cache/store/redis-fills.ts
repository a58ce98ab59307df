import type { Clock } from '../../shared/plugin/clock.js'
import { replyError } from '../../shared/plugin/errors.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { timeOf } from '../../shared/redis/info.js'
import { MicroBatch, type Batched, type TurnPipeline } from '../../shared/redis/micro-batch.js'
import type { CommandArgument, RedisPort } from '../../shared/redis/port.js'
import { sendScriptIn } from '../../shared/redis/script.js'
import { decodeToken, type CasToken } from './entry-codec.js'
import { acquireFillsScript, finishFillsScript, HIT_FOR_PASS } from './scripts.js'
import { PATTERN_TAG, type AcquiredLease, type FinishedFill, type LeaseState } from './store.js'
import { UNUSED_TTL_MS, type TagVersions } from './tag-versions.js'

export interface Acquisition {
  leaseKey: string
  entryKey: string
  /** The token of the caller. */
  token: string
  ttl: number
  tags: readonly string[]
}

/** The entry of a fill, and the lease that is given back when it is stored. */
export interface FillWrite {
  id: string
  entryKey: string
  leaseKey: string
  /** Encoded. */
  entry: Buffer
  ttl: Milliseconds
  entryToken: CasToken
  patternVersion: string
  /** The token of the lease. */
  token: string
}

type Acquisitions = ReadonlyArray<Batched<Acquisition>>

interface RedisFillsOptions {
  client: RedisPort
  tagVersions: TagVersions
  clock: Clock
  run: RedisGuard['run']
  /** Acquires one lease by commands for each key, where one command cannot name all of them. */
  acquireApart: (acquisition: Acquisition) => Promise<AcquiredLease>
  /** Stores one entry in the same way. */
  finishApart: (fill: FillWrite) => Promise<FinishedFill>
}

/** The keys of one script. Redis executes it in a fraction of a millisecond. */
const MAX_KEYS = 256
/** The bytes of one script. */
const MAX_BYTES = 256 * 1024
/** The bytes of keys and tokens. */
const OVERHEAD_BYTES = 512

/**
 * Acquires the leases of fills, and stores their entries: those of one turn of the event loop by one script, under one
 * deadline.
 */
export class RedisFills {
  readonly #options: RedisFillsOptions
  readonly #acquisitions: MicroBatch<Acquisition, AcquiredLease>
  readonly #writes: MicroBatch<FillWrite, FinishedFill>

  constructor (options: RedisFillsOptions) {
    const { client, run, acquireApart, finishApart } = options
    this.#options = options
    this.#acquisitions = new MicroBatch<Acquisition, AcquiredLease>({
      client,
      maxSize: MAX_KEYS,
      sendTogether: (batch, pipeline) => run(() => this.#acquireTogether(batch, pipeline)),
      sendApart: batch => batch.map(({ request }) => acquireApart(request).then(acquired => [acquired])),
      parse: reply => reply as AcquiredLease[]
    })
    this.#writes = new MicroBatch<FillWrite, FinishedFill>({
      client,
      maxSize: MAX_BYTES,
      sendTogether: (batch, pipeline) => run(() => this.#finishTogether(batch, pipeline)),
      sendApart: batch => batch.map(({ request }) => finishApart(request).then(finished => [finished])),
      parse: reply => reply as Array<FinishedFill | Error>
    })
  }

  acquire (acquisition: Acquisition): Promise<AcquiredLease> {
    return this.#acquisitions.add(acquisition, undefined, 2 + acquisition.tags.length)
  }

  finish (fill: FillWrite): Promise<FinishedFill> {
    return this.#writes.add(fill, undefined, OVERHEAD_BYTES + fill.entry.length)
  }

  /** Sends the entries of this turn now. */
  flushWrites (): void {
    this.#writes.flush()
  }

  #finishTogether (
    batch: ReadonlyArray<Batched<FillWrite>>, pipeline: TurnPipeline
  ): Promise<Array<FinishedFill | Error>> {
    const keys: string[] = []
    const args: CommandArgument[] = []
    for (const { request: { entryKey, leaseKey, entry, ttl, entryToken, patternVersion, token } } of batch) {
      keys.push(entryKey, leaseKey)
      // The token is passed as bytes, as those of a damaged entry may be any.
      args.push(entryToken === '' ? '' : Buffer.from(entryToken, 'latin1'), entry, ttl, patternVersion, token)
    }
    keys.push(this.#options.tagVersions.keyOf(PATTERN_TAG))
    return sendScriptIn(pipeline, finishFillsScript, keys, args).then(reply => {
      const results = (Array.isArray(reply) ? reply : []).map(finishedOf)
      // The circuit breaker learns that the server refuses writes.
      if (results.length > 0 && results.every(result => result instanceof Error)) throw results[0]
      return results
    })
  }

  #acquireTogether (batch: Acquisitions, pipeline: TurnPipeline): Promise<AcquiredLease[]> {
    const { tagVersions, clock } = this.#options
    const tags = tagsOf(batch)
    const created = tagVersions.initial()
    const keptUntil = clock.monotonic() + UNUSED_TTL_MS
    const keys: string[] = []
    const args: CommandArgument[] = []
    for (const { request: { leaseKey, entryKey, token, ttl } } of batch) {
      keys.push(leaseKey, entryKey)
      args.push(token, ttl)
    }
    keys.push(...tagVersions.keysOf(tags))
    args.push(created, UNUSED_TTL_MS)
    return sendScriptIn(pipeline, acquireFillsScript, keys, args, clock, true).then(reply => {
      const values = Array.isArray(reply) ? reply.map(textOf) : []
      const versions = values.slice(2 + 2 * batch.length)
      tagVersions.rememberCreated(tags, versions, created, keptUntil)
      const now = timeOf(values)
      const versionsOf = pickVersions(tags, versions)
      let at = 2
      return batch.map(({ request }) => {
        const state = leaseStateOf(values[at++], request.token)
        return { ...state, now, versions: versionsOf(request.tags), entryToken: decodeToken(values[at++] ?? '') }
      })
    })
  }
}

const STORED = { isStored: true, isReleased: true }
const REFUSED = { isStored: false, isReleased: true }

/** @param reply - 1: stored, 0: refused, or the text of an error */
function finishedOf (reply: unknown): FinishedFill | Error {
  return typeof reply === 'string' ? replyError(reply) : reply === 1 ? STORED : REFUSED
}

/** @param holder - empty where the caller has acquired the lease */
export function leaseStateOf (holder: string | undefined, token: string): LeaseState {
  if (holder === '' || holder === token) return { kind: 'acquired' }
  if (holder === HIT_FOR_PASS) return { kind: 'hit-for-pass' }
  return { kind: 'held', holder }
}

/** Returns the tags of all requests, each once. */
function tagsOf (batch: Acquisitions): readonly string[] {
  const [first] = batch
  const tags = first?.request.tags ?? []
  if (batch.every(({ request }) => request.tags === tags)) return tags
  return [...new Set(batch.flatMap(({ request }) => request.tags))]
}

/** Returns a function for the versions of some of the tags. Requests with one list of tags share the result. */
function pickVersions (
  tags: readonly string[], versions: readonly string[]
): (some: readonly string[]) => Record<string, string> {
  const places = new Map(tags.map((tag, i) => [tag, i]))
  const picked = new Map<readonly string[], Record<string, string>>()
  return some => {
    const known = picked.get(some) ?? Object.fromEntries(some.map(tag => [tag, versions[places.get(tag) ?? -1] ?? '']))
    picked.set(some, known)
    return known
  }
}

/** Returns a text of a script's reply, which may be bytes. */
export function textOf (value: unknown): string {
  return Buffer.isBuffer(value) ? value.toString('latin1') : String(value)
}
