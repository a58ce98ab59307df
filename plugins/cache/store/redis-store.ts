import { databaseChannel, isCluster, type RedisClient } from '../../shared/redis/client.js'
import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import { anyNode, clientFor, onNode } from '../../shared/redis/cluster-nodes.js'
import { keySpace } from '../../shared/plugin/keys.js'
import { runScript } from '../../shared/redis/script.js'
import { timeOf } from '../../shared/redis/time.js'
import { isBatchRefusal } from '../../shared/redis/micro-batch.js'
import type { Entry } from './entry.js'
import { decodeEntry, encodeEntry, encodeWriteLock, UNLOCKED, type CasToken } from './entry-codec.js'
import { BatchedGet } from './batched-get.js'
import { removeByLabel } from './remove-matching.js'
import { releaseFillScript, lockKeyScript, removeScript, renewFillScript, unlockKeyScript, writeScript } from './scripts.js'
import { redisStats } from './redis-stats.js'
import { ALL_TAG, MAX_LIFE_MS, HIT_FOR_PASS_MS, PATTERN_TAG, TOMBSTONE_MS, type CacheStore, type ReadResult, type Put } from './store.js'
import { TagVersions } from './tag-versions.js'

/** What instances tell each other. */
export interface Message {
  from?: string | undefined
  tags?: readonly string[]
  ids?: readonly string[]
  key?: string | undefined
}

/** The channel on which the store tells what it invalidates. */
export function invalidationChannel (client: RedisClient, prefix: string): string {
  return databaseChannel(client, keySpace(prefix, 'cache', 'invalidated').slice(0, -1))
}

const PASS = 'pass'
const NO_TAGS: readonly string[] = []
const NOTHING = { entry: undefined, token: '' }

/**
 * Keeps entries in Redis. A tag is a key that holds a version, and an entry remembers the versions of its tags: to
 * invalidate a tag is to write one key. See {@link TagVersions}.
 *
 * @param tells - by which name the other instances, which have first tiers, are told what is invalidated; undefined: they are not
 */
export function createRedisStore (client: RedisClient, prefix: string, tells?: string, clock: Clock = systemClock): CacheStore {
  const channel = tells === undefined ? '' : invalidationChannel(client, prefix)
  const message = (what: Omit<Message, 'from'>) => JSON.stringify({ from: tells, ...what })
  const entries = keySpace(prefix, 'cache', 'entry')
  const entryKey = (id: string) => entries + id
  const tagVersions = new TagVersions(client, prefix, clock)
  const keyOfTag = (tag: string) => tagVersions.keyOf(tag)
  const patternsKey = tagVersions.keyOf(PATTERN_TAG)
  const claims = keySpace(prefix, 'cache', 'claim')
  const claimKey = (work: string) => claims + work
  const reads = new BatchedGet(client)
  // Whether two keys cannot be asked of at once.
  let isApart = isCluster(client)

  async function readTags (tags: readonly string[]): Promise<TagValues> {
    return byTag(tags, await reads.getAll(tags.map(keyOfTag)))
  }

  async function find (id: string, tags: readonly string[]): Promise<ReadResult> {
    const names = [ALL_TAG, ...tags]
    const key = entryKey(id)
    const [bytes, ...values] = await onNode(client, key, () => reads.getAll([key, ...names.map(keyOfTag)]))
    const read = byTag(names, values)
    const { entry, token } = bytes ? decodeEntry(bytes) : NOTHING
    if (entry !== undefined) {
      // Tags that the handler added are known only now. Nearly always there are none.
      const more = tagsBeside(entry, read)
      if (isValid(entry, more.length === 0 ? read : new Map([...read, ...await readTags(more)]))) return new FoundInRedis(entry, token, read)
    }
    const found = new FoundInRedis(undefined, token, read)
    tagVersions.rememberAll(found.versions)
    return found
  }

  /** Stores entries whatever is there. */
  async function set (entries: ReadonlyArray<readonly [id: string, entry: Entry]>): Promise<void> {
    const writes = entries.map(([id, entry]) => onNode(client, entryKey(id), () => client.set(entryKey(id), encodeEntry(entry), 'PX', ttlOf(entry))))
    // On one connection they come in this order; the nodes of a Cluster have none.
    if (isCluster(client)) await Promise.all(writes)
    await Promise.all([...writes, tells !== undefined && client.publish(channel, message({ ids: entries.map(([id]) => id) }))])
  }

  async function time (): Promise<number> {
    const given = clock.redisTime()
    return given === '' ? timeOf(await anyNode(client).time()) : Number(given) / 1000
  }

  async function remove (id: string, label?: string, token?: CasToken): Promise<boolean> {
    const only = token === undefined ? [] : [Buffer.from(token, 'latin1')]
    return await runScript(client, removeScript, [entryKey(id)], [encodeEntry('tombstone'), TOMBSTONE_MS, channel, message({ ids: [id], key: label }), ...only]) === 1
  }

  /** Where the key and what tells of removals by pattern lie on two nodes: looks before it writes, and after that as one may have passed meanwhile. */
  async function writeApart (id: string, args: ReadonlyArray<string | number | Buffer>, patterns: string): Promise<boolean> {
    const isAsItWas = async () => await clientFor(client, patternsKey).get(patternsKey) === patterns
    if (!await isAsItWas() || await runScript(client, writeScript, [entryKey(id)], args) !== 1) return false
    if (await isAsItWas()) return true
    await remove(id)
    return false
  }

  async function write (id: string, entry: Entry, token: string, patterns: string | undefined, ttl: number): Promise<boolean> {
    // As bytes: of a damaged entry they are any, and are to be found the same.
    const args = [Buffer.from(token, 'latin1'), encodeEntry(entry), ttl]
    if (patterns === undefined) return await runScript(client, writeScript, [entryKey(id)], args) === 1
    try {
      if (!isApart) return await runScript(client, writeScript, [entryKey(id), patternsKey], [...args, patterns]) === 1
    } catch (error) {
      if (!isBatchRefusal(error)) throw error
      isApart = true
    }
    return await writeApart(id, args, patterns)
  }

  /**
   * Stores entries with these versions of their tags.
   *
   * @param areCurrent - asks whether they are the tags' versions still, before the entries are written: what is invalidated after that is not
   * seen by it, and makes the entries invalid
   * @returns whether they were
   */
  async function store (items: readonly Put[], versions: Readonly<Record<string, string>>, areCurrent = async () => true): Promise<boolean> {
    const entries = items.map(({ id, tags, make }) => [id, make(Object.fromEntries([ALL_TAG, ...tags].map(tag => [tag, versions[tag] ?? ''])))] as const)
    const ttl = Math.max(...entries.map(([, entry]) => ttlOf(entry)))
    const [wereCurrent, areRetained] = await Promise.all([areCurrent(), tagVersions.retain(versions, ttl), set(entries)])
    return wereCurrent && areRetained
  }

  return {
    // The clocks of a Cluster's nodes are several.
    skew: isCluster(client) ? 1000 : 0,
    isSpread: isCluster(client),
    share: reads.share,
    read: find,
    async acquireFill (work, token, tags, ms) {
      const key = claimKey(work)
      const node = clientFor(client, key)
      // All in one round trip.
      const [, holder, now, versions] = await Promise.all([
        node.set(key, token, 'PX', ms, 'NX'), node.get(key), time(), tagVersions.create(tags)
      ])
      return { claim: holder === token ? 'mine' : holder === PASS ? 'pass' : 'theirs', holder: holder ?? undefined, now, versions }
    },
    async renewFill (work, token, ms) { await runScript(client, renewFillScript, [claimKey(work)], [token, ms]) },
    async releaseFill (work, token, pass) { await runScript(client, releaseFillScript, [claimKey(work)], [token, pass ? PASS : '', HIT_FOR_PASS_MS]) },
    async write (id, entry, token, patterns, hold = 0, left = entry.deleteAt - entry.storedAt) {
      const ttl = boundedTtl(left)
      const versions = patterns === undefined ? entry.tags : { ...entry.tags, [PATTERN_TAG]: patterns }
      // Where that fails the entry ends early, when its versions do.
      const [isWritten] = await Promise.all([write(id, entry, token, patterns, Math.max(ttl, hold)), tagVersions.retain(versions, ttl).catch(() => false)])
      return isWritten
    },
    async setMany (items) {
      const tags = [...new Set([ALL_TAG, ...items.flatMap(item => item.tags)])]
      const guess = tagVersions.guess(tags)
      if (guess !== undefined && await store(items, guess, () => tagVersions.areCurrent(guess))) return
      await store(items, await tagVersions.create(tags))
    },
    remove,
    async lockKey (id) {
      const { mark, place, token } = encodeWriteLock()
      const left = Number(await runScript(client, lockKeyScript, [entryKey(id)], [mark, place, TOMBSTONE_MS, channel, message({ ids: [id] })]))
      return { token, wasLocked: left === -1, left }
    },
    async unlockKey (id, { token, left }) { await runScript(client, unlockKeyScript, [entryKey(id)], [token, UNLOCKED, Math.max(left, TOMBSTONE_MS)]) },
    async tags (tags) {
      const versions = await tagVersions.create(tags)
      return Object.fromEntries(Object.entries(versions).map(([tag, version]) => [tag, { version, invalidatedAt: Number.parseInt(version, 10) / 1000 }]))
    },
    async invalidate (tags) { await tagVersions.invalidate(tags, channel, some => message({ tags: some })) },
    now: time,
    stats: async () => await redisStats(client),
    removeMatching: async matches => await removeByLabel(client, entries, matches)
  }
}

/** Versions of tags as they were read. */
type TagValues = ReadonlyMap<string, Buffer | null | undefined>

function byTag (tags: readonly string[], values: ReadonlyArray<Buffer | null>): TagValues {
  const read = new Map<string, Buffer | null | undefined>()
  let i = 0
  for (const tag of tags) read.set(tag, values[i++])
  return read
}

/** The tags of an entry that have not been read yet. */
function tagsBeside ({ tags }: Entry, read: TagValues): readonly string[] {
  let more: string[] | undefined
  for (const tag in tags) if (!read.has(tag)) (more ??= []).push(tag)
  return more ?? NO_TAGS
}

/** Whether none of its tags has been invalidated since it began to be made. */
function isValid ({ tags }: Entry, read: TagValues): boolean {
  for (const tag in tags) if (read.get(tag)?.toString('latin1') !== tags[tag]) return false
  return ALL_TAG in tags
}

/** A hit needs no object of all versions, which costs as much as two keys that are read. */
class FoundInRedis implements ReadResult {
  readonly entry: Entry | undefined
  readonly token: CasToken
  readonly #read: TagValues
  #versions: Readonly<Record<string, string | undefined>> | undefined

  constructor (entry: Entry | undefined, token: CasToken, read: TagValues) {
    this.entry = entry
    this.token = token
    this.#read = read
  }

  get versions (): Readonly<Record<string, string | undefined>> {
    this.#versions ??= Object.fromEntries(Array.from(this.#read, ([tag, value]) => [tag, value?.toString('latin1')]))
    return this.#versions
  }
}

function ttlOf ({ storedAt, deleteAt }: Entry): number {
  return boundedTtl(deleteAt - storedAt)
}

function boundedTtl (ms: number): number {
  return Math.max(1, Math.min(Math.ceil(ms), MAX_LIFE_MS))
}
