import { LRUCache } from 'lru-cache'
import { isCluster, type RedisClient } from '../shared/client.js'
import { systemClock, type Clock } from '../shared/clock.js'
import { anyNode, clientFor, onNode } from '../shared/cluster-nodes.js'
import { keySpace, safeId } from '../shared/keys.js'
import { runScript } from '../shared/script.js'
import { timeOf } from '../shared/time.js'
import { mayAnswerSingly } from '../shared/turn.js'
import type { Entry } from './entry.js'
import { decodeFrame, encodeFrame, encodeMark, UNMARK } from './frame.js'
import { createKeyReads } from './key-reads.js'
import { randomText } from './random.js'
import { removeByLabel } from './redis-scan.js'
import { endScript, invalidateScript, markScript, removeScript, renewScript, unmarkScript, writeScript } from './scripts.js'
import { redisStats } from './store-stats.js'
import { EVERYTHING, MAX_LIFE_MS, PASS_MS, PATTERNS, TOMBSTONE_MS, type CacheStore, type Found, type Put } from './store.js'

/** What instances tell each other. */
export interface Message {
  from?: string | undefined
  tags?: readonly string[]
  ids?: readonly string[]
  key?: string | undefined
}

/** The channel on which the store tells what it invalidates. */
export function invalidationChannel (prefix: string): string {
  return keySpace(prefix, 'cache', 'invalidated').slice(0, -1)
}

/** Longer than any entry lives: a tag's version must outlive what was made with it. */
const TAG_TTL_MS = 40 * 24 * 3600 * 1000
const PASS = 'pass'
const MOST_REMEMBERED = 10_000

/**
 * Keeps entries in Redis. A tag is a key that holds a version, and an entry remembers the versions of its tags: to
 * invalidate a tag is to write one key. A version that is gone (evicted, flushed) matches nothing.
 *
 * @param tells - by which name the other instances, which have first tiers, are told what is invalidated; undefined: they are not
 */
export function createRedisStore (client: RedisClient, prefix: string, tells?: string, clock: Clock = systemClock): CacheStore {
  const channel = tells === undefined ? '' : invalidationChannel(prefix)
  const message = (what: Omit<Message, 'from'>) => JSON.stringify({ from: tells, ...what })
  const entries = keySpace(prefix, 'cache', 'entry')
  const entryKey = (id: string) => entries + id
  const tags = keySpace(prefix, 'cache', 'tag')
  const [everythingKey, patternsKey] = [tags + safeId(EVERYTHING), tags + safeId(PATTERNS)]
  const tagKey = (tag: string) => tag === EVERYTHING ? everythingKey : tag === PATTERNS ? patternsKey : tags + safeId(tag)
  const claims = keySpace(prefix, 'cache', 'claim')
  const claimKey = (work: string) => claims + work
  // The versions that tags had when they were read last: most have them still.
  const latest = new LRUCache<string, string>({ max: MOST_REMEMBERED })
  const reads = createKeyReads(client)
  // Whether two keys cannot be asked of at once.
  let isApart = isCluster(client)

  async function versionsOf (names: readonly string[]): Promise<Record<string, string | undefined>> {
    return rememberedAll(names, await Promise.all(names.map(tag => reads.get(tagKey(tag)))))
  }

  function rememberedAll (names: readonly string[], values: ReadonlyArray<Buffer | null>): Record<string, string | undefined> {
    return Object.fromEntries(names.map((tag, i) => [tag, remembered(tag, values[i]?.toString('latin1'))]))
  }

  async function find (id: string, tags: readonly string[]): Promise<Found> {
    const names = [EVERYTHING, ...tags]
    const [bytes = null, ...values] = await Promise.all([reads.get(entryKey(id)), ...names.map(tag => reads.get(tagKey(tag)))])
    const versions = rememberedAll(names, values)
    if (bytes === null) return { entry: undefined, generation: '', versions }
    const { entry, generation } = decodeFrame(bytes)
    // What the handler named is known only now; nearly always there is nothing of it.
    const more = Object.keys(entry?.tags ?? {}).filter(tag => !Object.hasOwn(versions, tag))
    const all = more.length === 0 ? versions : { ...versions, ...await versionsOf(more) }
    const isValid = entry !== undefined && EVERYTHING in entry.tags && Object.entries(entry.tags).every(([tag, version]) => all[tag] === version)
    return { entry: isValid ? entry : undefined, generation, versions }
  }

  /** Gives a tag a version where it has none. */
  async function versionFor (tag: string): Promise<string> {
    const key = tagKey(tag)
    const node = clientFor(client, key)
    // Without memory a tag has the version that it has.
    const given = node.set(key, `0-${randomText(12)}`, 'PX', TAG_TTL_MS, 'NX').catch((error: unknown) => ({ error }))
    const [first, version] = await Promise.all([given, node.get(key)])
    if (version === null && typeof first === 'object' && first !== null) throw first.error
    return remembered(tag, version ?? undefined) ?? ''
  }

  function remembered (tag: string, version: string | undefined): string | undefined {
    latest.set(tag, version)
    return version
  }

  /** Entries whatever is there, with these versions of their tags. */
  async function set (items: readonly Put[], versions: ReadonlyMap<string, string>): Promise<unknown> {
    const writes = items.map(async ({ id, tags, make }) => {
      const entry = make(Object.fromEntries([EVERYTHING, ...tags].map(tag => [tag, versions.get(tag) ?? ''])))
      await clientFor(client, entryKey(id)).set(entryKey(id), encodeFrame(entry), 'PX', lifeOf(entry))
    })
    // On one connection they come in this order; the nodes of a Cluster have none.
    if (isCluster(client)) await Promise.all(writes)
    return await Promise.all([...writes, tells !== undefined && client.publish(channel, message({ ids: items.map(({ id }) => id) }))])
  }

  async function time (): Promise<number> {
    const given = clock.redisTime()
    return given === '' ? timeOf(await anyNode(client).time()) : Number(given) / 1000
  }

  async function remove (id: string, label?: string): Promise<boolean> {
    return await runScript(client, removeScript, [entryKey(id)], [encodeFrame('tombstone'), TOMBSTONE_MS, channel, message({ ids: [id], key: label })]) === 1
  }

  /** Where the key and what tells of removals by pattern lie on two nodes: looks before it writes, and after that as one may have passed meanwhile. */
  async function writeApart (id: string, args: ReadonlyArray<string | number | Buffer>, patterns: string): Promise<boolean> {
    const isAsItWas = async () => await clientFor(client, patternsKey).get(patternsKey) === patterns
    if (!await isAsItWas() || await runScript(client, writeScript, [entryKey(id)], args) !== 1) return false
    if (await isAsItWas()) return true
    await remove(id)
    return false
  }

  return {
    // The clocks of a Cluster's nodes are several.
    skew: isCluster(client) ? 1000 : 0,
    sharing: () => reads.sharing(),
    read: find,
    async begin (work, token, tags, ms) {
      const key = claimKey(work)
      const node = clientFor(client, key)
      // All in one round trip.
      const [, holder, now, ...versions] = await Promise.all([
        node.set(key, token, 'PX', ms, 'NX'), node.get(key), time(), ...tags.map(versionFor)
      ])
      return {
        claim: holder === token ? 'mine' : holder === PASS ? 'pass' : 'theirs',
        now,
        versions: Object.fromEntries(tags.map((tag, i) => [tag, versions[i] ?? '']))
      }
    },
    async renew (work, token, ms) { await runScript(client, renewScript, [claimKey(work)], [token, ms]) },
    async end (work, token, pass) { await runScript(client, endScript, [claimKey(work)], [token, pass ? PASS : '', PASS_MS]) },
    async write (id, entry, generation, patterns, hold = 0) {
      // As bytes: of a damaged entry they are any, and are to be found the same.
      const args = [Buffer.from(generation, 'latin1'), encodeFrame(entry), Math.max(lifeOf(entry), hold)]
      if (patterns === undefined) return await runScript(client, writeScript, [entryKey(id)], args) === 1
      try {
        if (!isApart) return await runScript(client, writeScript, [entryKey(id), patternsKey], [...args, patterns]) === 1
      } catch (error) {
        if (!mayAnswerSingly(error)) throw error
        isApart = true
      }
      return await writeApart(id, args, patterns)
    },
    async put (items) {
      const tags = [...new Set([EVERYTHING, ...items.flatMap(item => item.tags)])]
      const guess = new Map(tags.map(tag => [tag, latest.get(tag) ?? '']))
      if (!tags.some(tag => guess.get(tag) === '')) {
        // Asked for before the entries are written, and on the same way: what is invalidated after them is not seen, and makes them invalid.
        const now = Promise.all(tags.map(tag => onNode(client, tagKey(tag), () => client.get(tagKey(tag)))))
        const [versions] = await Promise.all([now, set(items, guess)])
        for (const [i, tag] of tags.entries()) remembered(tag, versions[i] ?? undefined)
        if (tags.every((tag, i) => versions[i] === guess.get(tag))) return
      }
      const versions = await Promise.all(tags.map(versionFor))
      await set(items, new Map(tags.map((tag, i) => [tag, versions[i] ?? ''])))
    },
    remove,
    async mark (id) {
      const { mark, place, generation } = encodeMark()
      const left = Number(await runScript(client, markScript, [entryKey(id)], [mark, place, TOMBSTONE_MS, channel, message({ ids: [id] })]))
      return { generation, wasMarked: left === -1, left }
    },
    async unmark (id, { generation, left }) { await runScript(client, unmarkScript, [entryKey(id)], [generation, UNMARK, Math.max(left, TOMBSTONE_MS)]) },
    async tags (tags) {
      const versions = await Promise.all(tags.map(versionFor))
      return Object.fromEntries(tags.map((tag, i) => [tag, { version: versions[i] ?? '', invalidatedAt: Number.parseInt(versions[i] ?? '', 10) / 1000 }]))
    },
    async invalidate (tags) {
      await Promise.all(tags.map(tag => runScript(client, invalidateScript, [tagKey(tag)], [randomText(12), TAG_TTL_MS, channel, message({ tags: [tag] })], clock)))
    },
    now: time,
    stats: async () => await redisStats(client),
    removeMatching: async matches => await removeByLabel(client, entries, matches)
  }
}

function lifeOf ({ life }: Entry): number {
  return Math.max(1, Math.min(Math.ceil(life), MAX_LIFE_MS))
}
