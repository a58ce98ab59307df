import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import { keySpace } from '../../shared/plugin/keys.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { databaseChannel } from '../../shared/redis/client.js'
import type { RedisPort } from '../../shared/redis/port.js'
import { anyNode, clientFor, onNode } from '../../shared/redis/cluster-nodes.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { infoOf, mastersOf } from '../../shared/redis/info.js'
import { isBatchRefusal } from '../../shared/redis/micro-batch.js'
import { sendScript, sendScriptForBytes, type Script } from '../../shared/redis/script.js'
import { timeOf } from '../../shared/redis/info.js'
import { ttlOf, type Entry } from './entry.js'
import {
  encodeEntry, encodeWriteLock, queuedToken, stagedToken, UNLOCKED, type CasToken
} from './entry-codec.js'
import { leaseStateOf, RedisFills, type Acquisition, type FillWrite } from './redis-fills.js'
import { RedisReads } from './redis-reads.js'
import { removeByLabel } from './remove-matching.js'
import {
  confirmScript, HIT_FOR_PASS, lockKeyScript, releaseFillScript, removeScript, renewFillScript, settleScript,
  stageScript, undoStageScript, unlockKeyScript, writeScript
} from './scripts.js'
import {
  ALL_TAG, HIT_FOR_PASS_MS, MAX_LIFE_MS, PATTERN_TAG, TOMBSTONE_MS,
  STAGED_MS, type AcquiredLease, type CacheStore, type FillLease, type FinishedFill, type LeaseRequest,
  type Put, type ReadResult,
  type StagedEntry, type StoreStats, type TagState, type WriteLock, type WriteOptions
} from './store.js'
import { TagVersions } from './tag-versions.js'

/** A message between instances: what one of them invalidated. */
interface InvalidationMessage {
  tags?: readonly string[]
  ids?: readonly string[]
  /** The label of a removed key. */
  key?: string | undefined
}

/** Returns the channel on which instances publish what they invalidate. */
export function invalidationChannel (client: RedisPort, prefix: string): string {
  return databaseChannel(client, keySpace(prefix, 'cache', 'invalidated').slice(0, -1))
}

/**
 * Stores entries in Redis. A tag is a key that holds a version, and an entry carries the versions of its tags, so that
 * one write invalidates a tag.
 *
 * @see {@link TagVersions}
 */
export class RedisCacheStore implements CacheStore {
  readonly skew: Milliseconds
  readonly isSpread: boolean
  /** See {@link MicroBatch.share}. */
  readonly share: RedisReads['share']
  readonly #client: RedisPort
  readonly #clock: Clock
  readonly #instanceId: string | undefined
  /** Empty: invalidations are not published. */
  readonly #channel: string
  readonly #entrySpace: string
  readonly #leaseSpace: string
  readonly #tagVersions: TagVersions
  readonly #patternKey: string
  readonly #reads: RedisReads
  readonly #fills: RedisFills
  readonly #run: RedisGuard['run']
  /** Whether one command cannot name two keys. */
  #isApart: boolean

  /**
   * @param instanceId - the sender of published invalidations; undefined where no instance has an L1, so that none is
   * published
   * @param run - runs commands within the plugin's deadline and circuit
   */
  constructor (
    client: RedisPort, prefix: string, instanceId?: string, clock: Clock = systemClock,
    run: RedisGuard['run'] = operation => operation()
  ) {
    this.#client = client
    this.#clock = clock
    this.#instanceId = instanceId
    this.#channel = instanceId === undefined ? '' : invalidationChannel(client, prefix)
    this.#entrySpace = keySpace(prefix, 'cache', 'entry')
    this.#leaseSpace = keySpace(prefix, 'cache', 'claim')
    this.#tagVersions = new TagVersions(client, prefix, clock)
    this.#patternKey = this.#tagVersions.keyOf(PATTERN_TAG)
    // A read that is made after a write of the same turn finds what was written.
    this.#reads = new RedisReads({
      client,
      tagVersions: this.#tagVersions,
      clock,
      run,
      beforeSending: () => this.#fills.flushWrites(),
      readsAgain: instanceId === undefined
    })
    this.share = this.#reads.share
    this.#run = run
    this.#fills = new RedisFills({
      client,
      tagVersions: this.#tagVersions,
      clock,
      run,
      acquireApart: acquisition => this.#acquireApart(acquisition),
      finishApart: fill => this.#finishApart(fill)
    })
    this.isSpread = client.topology !== undefined
    this.#isApart = this.isSpread
    // The nodes of a Cluster have clocks of their own.
    this.skew = this.isSpread ? 1000 : 0
  }

  read (id: string, tags: readonly string[], lease?: LeaseRequest): Promise<ReadResult> {
    return this.#reads.read(this.#entrySpace + id, tags,
      lease && { leaseKey: this.#leaseSpace + lease.fillId, token: lease.token, ttl: lease.ttl })
  }

  lease (fillId: string, token: string): FillLease {
    const client = this.#client
    const key = this.#leaseSpace + fillId
    return {
      token,
      acquire: (tags, ttl, id = '') =>
        this.#fills.acquire({ leaseKey: key, entryKey: this.#entrySpace + id, token, ttl, tags }),
      finish: (id, entry, entryToken, patternVersion) => this.#finishFill(entry.tags, {
        id,
        entryKey: this.#entrySpace + id,
        leaseKey: key,
        entry: encodeEntry(entry),
        ttl: boundedTtl(ttlOf(entry)),
        entryToken,
        patternVersion,
        token
      }),
      renew: async ttl => { await sendScript(client, renewFillScript, [key], [token, ttl]) },
      release: async isShareable => {
        await sendScript(client, releaseFillScript, [key], [token, isShareable ? '' : HIT_FOR_PASS, HIT_FOR_PASS_MS])
      }
    }
  }

  async write (id: string, entry: Entry, token: CasToken, options: WriteOptions = {}): Promise<boolean> {
    const { patternVersion, minTtl = 0, ttl: left } = options
    const ttl = boundedTtl(left ?? ttlOf(entry))
    const versions = patternVersion === undefined ? entry.tags : { ...entry.tags, [PATTERN_TAG]: patternVersion }
    const [isWritten] = await Promise.all([
      this.#writeEncoded(id, encodeEntry(entry), token, patternVersion, Math.max(ttl, minTtl)),
      // If this fails, the entry expires early, with the versions of its tags.
      this.#tagVersions.retain(versions, ttl).catch(() => false)
    ])
    return isWritten
  }

  async setMany (items: readonly Put[]): Promise<void> {
    const tags = [...new Set([ALL_TAG, ...items.flatMap(item => item.tags)])]
    const guess = this.#tagVersions.guess(tags)
    if (guess !== undefined && await this.#setWith(items, guess, () => this.#tagVersions.areCurrent(guess))) return
    await this.#setWith(items, await this.#tagVersions.create(tags))
  }

  async lockKey (id: string): Promise<WriteLock> {
    const key = this.#entrySpace + id
    const { prefix, placeholder, token } = encodeWriteLock()
    const args = [prefix, placeholder, TOMBSTONE_MS, this.#channel, this.#message({ ids: [id] })]
    const left = Number(await sendScript(this.#client, lockKeyScript, [key], args))
    return {
      token,
      wasLocked: left === -1,
      unlock: async () => {
        await sendScript(this.#client, unlockKeyScript, [key], [token, UNLOCKED, Math.max(left, TOMBSTONE_MS)])
      }
    }
  }

  async stage (id: string, entry: Entry): Promise<StagedEntry> {
    const key = this.#entrySpace + id
    const publication = [this.#channel, this.#message({ ids: [id] })]
    const token = stagedToken()
    const run = (script: Script, args: Array<string | number | Buffer>) =>
      sendScript(this.#client, script, [key], [...args, ...publication])
    const ttl = boundedTtl(Math.min(ttlOf(entry), STAGED_MS))
    const staging = [encodeEntry(entry, token), ttl, ...publication]
    const reply = await sendScriptForBytes(this.#client, stageScript, [key], staging)
    const [before, left] = Array.isArray(reply) ? reply : []
    return {
      confirm: async (confirmed, position) => {
        const ttl = boundedTtl(ttlOf(confirmed))
        const queued = queuedToken(position)
        const args = [token, Buffer.from(queued, 'latin1'), encodeEntry(confirmed, queued), ttl]
        const [isStored] = await Promise.all([
          run(confirmScript, args),
          // If this fails, the entry expires early, with the versions of its tags.
          this.#tagVersions.retain(confirmed.tags, ttl).catch(() => false)
        ])
        return isStored === 1
      },
      undo: async () => {
        const hadEntry = Buffer.isBuffer(before) && before.length > 0 && Number(left) > 0
        const args = hadEntry ? [before, Number(left)] : [encodeEntry('tombstone'), TOMBSTONE_MS]
        await run(undoStageScript, [token, ...args])
      }
    }
  }

  async settle (id: string, label: string, position: string): Promise<boolean> {
    const message = this.#message({ ids: [id], key: label })
    const oldestKept = Buffer.from(queuedToken(position), 'latin1')
    const args = [encodeEntry('tombstone'), TOMBSTONE_MS, this.#channel, message, oldestKept]
    return await sendScript(this.#client, settleScript, [this.#entrySpace + id], args) === 1
  }

  async remove (id: string, label?: string, token?: CasToken): Promise<boolean> {
    const condition = token === undefined ? [] : [Buffer.from(token, 'latin1')]
    const message = this.#message({ ids: [id], key: label })
    const args = [encodeEntry('tombstone'), TOMBSTONE_MS, this.#channel, message, ...condition]
    return await sendScript(this.#client, removeScript, [this.#entrySpace + id], args) === 1
  }

  async tags (tags: readonly string[]): Promise<TagState> {
    const start = await this.#startFill(tags)
    const times = Object.values(start.versions).map(version => Number.parseInt(version, 10) / 1000)
    return { ...start, invalidatedAt: Math.max(0, ...times) }
  }

  async invalidate (tags: readonly string[]): Promise<void> {
    await this.#tagVersions.invalidate(tags, this.#channel, some => this.#message({ tags: some }))
  }

  async removeMatching (matches: (label: string) => boolean): Promise<number> {
    return await removeByLabel(this.#client, this.#entrySpace, matches)
  }

  async stats (): Promise<StoreStats> {
    const infos = await Promise.all(mastersOf(this.#client).map(async node => {
      const [info, size] = await Promise.all([infoOf(node, 'memory', 'stats'), node.send<number>('dbsize', [])])
      return new Map(info).set('size', String(size))
    }))
    const sum = (field: string): number => infos.reduce((total, info) => total + (Number(info.get(field)) || 0), 0)
    const hits = sum('keyspace_hits')
    return {
      kind: 'redis',
      entries: sum('size'),
      usedMemory: sum('used_memory'),
      maxMemory: sum('maxmemory'),
      policy: infos[0]?.get('maxmemory_policy') ?? 'unknown',
      hitRatio: hits / (hits + sum('keyspace_misses')),
      evicted: sum('evicted_keys'),
      expired: sum('expired_keys')
    }
  }

  #message (message: InvalidationMessage): string {
    return JSON.stringify({ from: this.#instanceId, ...message })
  }

  async #acquireApart ({ leaseKey, entryKey, token, ttl, tags }: Acquisition): Promise<AcquiredLease> {
    const node = clientFor(this.#client, leaseKey)
    const [[, holder, start], entryToken] = await Promise.all([
      this.#run(() => Promise.all([
        node.send('set', [leaseKey, token, 'PX', ttl, 'NX']), node.send<string | null>('get', [leaseKey]),
        this.#startFill(tags)
      ])),
      this.#reads.read(entryKey, []).then(found => found.token, () => undefined)
    ])
    return { ...leaseStateOf(holder ?? undefined, token), ...start, entryToken }
  }

  #finishFill (tags: Readonly<Record<string, string>>, fill: FillWrite): Promise<FinishedFill> {
    const { patternVersion, ttl } = fill
    const finishing = this.#fills.finish(fill)
    if (this.#tagVersions.areRetained(tags, patternVersion, ttl)) return finishing
    const versions = { ...tags, [PATTERN_TAG]: patternVersion }
    // If this fails, the entry expires early, with the versions of its tags.
    const retaining = this.#run(() => this.#tagVersions.retain(versions, ttl)).catch(() => false)
    return Promise.all([finishing, retaining]).then(([finished]) => finished)
  }

  async #finishApart ({ id, entry, entryToken, patternVersion, ttl }: FillWrite): Promise<FinishedFill> {
    const isStored = await this.#run(() => this.#writeEncoded(id, entry, entryToken, patternVersion, ttl))
    return { isStored, isReleased: false }
  }

  async #startFill (tags: readonly string[]): Promise<{ now: number, versions: Record<string, string> }> {
    const [now, versions] = await Promise.all([this.#now(), this.#tagVersions.create(tags)])
    return { now, versions }
  }

  async #now (): Promise<number> {
    const given = this.#clock.redisTime()
    return given === '' ? timeOf(await anyNode(this.#client).send<string[]>('time', [])) : Number(given) / 1000
  }

  async #writeEncoded (
    id: string, entry: Buffer, token: CasToken, patternVersion: string | undefined, ttl: Milliseconds
  ): Promise<boolean> {
    const key = this.#entrySpace + id
    // The token is passed as bytes, as those of a damaged entry may be any.
    const args = [Buffer.from(token, 'latin1'), entry, ttl]
    if (patternVersion === undefined) return await sendScript(this.#client, writeScript, [key], args) === 1
    try {
      const keys = [key, this.#patternKey]
      if (!this.#isApart) return await sendScript(this.#client, writeScript, keys, [...args, patternVersion]) === 1
    } catch (error) {
      if (!isBatchRefusal(error)) throw error
      this.#isApart = true
    }
    // The two keys lie on two nodes: the version is compared before the write, and after it, as a removal may have run
    // between.
    if (!await this.#hasPatternVersion(patternVersion)) return false
    if (await sendScript(this.#client, writeScript, [key], args) !== 1) return false
    if (await this.#hasPatternVersion(patternVersion)) return true
    await this.remove(id)
    return false
  }

  async #hasPatternVersion (version: string): Promise<boolean> {
    return await clientFor(this.#client, this.#patternKey).send('get', [this.#patternKey]) === version
  }

  /**
   * Stores entries with these versions of their tags.
   *
   * @param areCurrent - reads whether the versions are current, before the entries are written: an invalidation after
   * that read makes the entries invalid
   * @returns whether the versions were current
   */
  async #setWith (
    items: readonly Put[], versions: Readonly<Record<string, string>>, areCurrent = async () => true
  ): Promise<boolean> {
    const versionsOf = (tags: readonly string[]) =>
      Object.fromEntries([ALL_TAG, ...tags].map(tag => [tag, versions[tag] ?? '']))
    const entries = items.map(({ id, tags, make }) => ({ id, entry: make(versionsOf(tags)) }))
    const ttl = Math.max(...entries.map(({ entry }) => boundedTtl(ttlOf(entry))))
    const [wereCurrent, areRetained] = await Promise.all([
      areCurrent(), this.#tagVersions.retain(versions, ttl), this.#setEntries(entries)
    ])
    return wereCurrent && areRetained
  }

  async #setEntries (entries: ReadonlyArray<{ id: string, entry: Entry }>): Promise<void> {
    const writes = entries.map(({ id, entry }) => {
      const key = this.#entrySpace + id
      const set = () => this.#client.send('set', [key, encodeEntry(entry), 'PX', boundedTtl(ttlOf(entry))])
      return onNode(this.#client, key, set)
    })
    // One connection keeps the order of the writes and the message; the nodes of a Cluster have no common order.
    if (this.isSpread) await Promise.all(writes)
    const message = this.#message({ ids: entries.map(({ id }) => id) })
    await Promise.all([...writes, this.#channel !== '' && this.#client.send('publish', [this.#channel, message])])
  }
}

function boundedTtl (ms: Milliseconds): Milliseconds {
  return Math.max(1, Math.min(Math.ceil(ms), MAX_LIFE_MS))
}
