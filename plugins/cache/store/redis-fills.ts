import type { Clock } from '../../shared/plugin/clock.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { timeOf } from '../../shared/redis/info.js'
import { MicroBatch, type Batched, type TurnPipeline } from '../../shared/redis/micro-batch.js'
import type { CommandArgument, RedisPort } from '../../shared/redis/port.js'
import { sendScriptIn } from '../../shared/redis/script.js'
import { decodeToken } from './entry-codec.js'
import { acquireFillsScript, HIT_FOR_PASS } from './scripts.js'
import type { AcquiredLease, LeaseState } from './store.js'
import { UNUSED_TTL_MS, type TagVersions } from './tag-versions.js'

export interface Acquisition {
  leaseKey: string
  entryKey: string
  /** The token of the caller. */
  token: string
  ttl: number
  tags: readonly string[]
}

type Acquisitions = ReadonlyArray<Batched<Acquisition>>

interface RedisFillsOptions {
  client: RedisPort
  tagVersions: TagVersions
  clock: Clock
  run: RedisGuard['run']
  /** Acquires one lease by commands for each key, where one command cannot name all of them. */
  acquireApart: (acquisition: Acquisition) => Promise<AcquiredLease>
}

/** The keys of one script. Redis executes it in a fraction of a millisecond. */
const MAX_KEYS = 256

/** Acquires the leases of fills: those of one turn of the event loop by one script, under one deadline. */
export class RedisFills {
  readonly #options: RedisFillsOptions
  readonly #acquisitions: MicroBatch<Acquisition, AcquiredLease>

  constructor (options: RedisFillsOptions) {
    const { client, run, acquireApart } = options
    this.#options = options
    this.#acquisitions = new MicroBatch<Acquisition, AcquiredLease>({
      client,
      maxSize: MAX_KEYS,
      sendTogether: (batch, pipeline) => run(() => this.#acquireTogether(batch, pipeline)),
      sendApart: batch => batch.map(({ request }) => acquireApart(request).then(acquired => [acquired])),
      parse: reply => reply as AcquiredLease[]
    })
  }

  acquire (acquisition: Acquisition): Promise<AcquiredLease> {
    return this.#acquisitions.add(acquisition, undefined, 2 + acquisition.tags.length)
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

function textOf (value: unknown): string {
  return Buffer.isBuffer(value) ? value.toString('latin1') : String(value)
}
