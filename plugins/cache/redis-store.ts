import { randomBytes } from 'node:crypto'
import { isCluster, type RedisClient } from '../shared/client.js'
import { keySpace, safeId } from '../shared/keys.js'
import { runScript } from '../shared/script.js'
import type { Entry } from './entry.js'
import { decodeFrame, encodeFrame } from './frame.js'
import { removeByLabel } from './redis-scan.js'
import { endScript, invalidateScript, removeScript, renewScript, writeScript } from './scripts.js'
import { EVERYTHING, MAX_LIFE_MS, PASS_MS, PATTERNS, TOMBSTONE_MS, type CacheStore, type Found, type StoreClock } from './store.js'
import { TurnReads } from './turn-reads.js'

/** The channel on which the store tells what it invalidates. */
export function invalidationChannel (prefix: string): string {
  return keySpace(prefix, 'cache', 'invalidated').slice(0, -1)
}

/** Longer than any entry lives: a tag's version must outlive what was made with it. */
const TAG_TTL_MS = 40 * 24 * 3600 * 1000
const PASS = 'pass'
// Of a digest, see `key.ts`.
const ID_LENGTH = 43

/**
 * Keeps entries in Redis. A tag is a key that holds a version, and an entry remembers the versions of its tags: to
 * invalidate a tag is to write one key. A version that is gone (evicted, flushed) matches nothing.
 *
 * @param tells - whether other instances have first tiers, which have to hear of what is invalidated
 */
export function createRedisStore (client: RedisClient, prefix: string, { tells }: { tells: boolean } = { tells: false }): CacheStore & StoreClock {
  const channel = tells ? invalidationChannel(prefix) : ''
  const entries = keySpace(prefix, 'cache', 'entry')
  const entryKey = (id: string) => entries + id
  const tags = keySpace(prefix, 'cache', 'tag')
  const [everything, patterns] = [tags + safeId(EVERYTHING), tags + safeId(PATTERNS)]
  const tagKey = (tag: string) => tag === EVERYTHING ? everything : tag === PATTERNS ? patterns : tags + safeId(tag)
  const claims = keySpace(prefix, 'cache', 'claim')
  const claimKey = (work: string) => claims + work
  const pipelines = client.options.enableAutoPipelining === true
  const reads = new TurnReads(key => client.getBuffer(key), pipelines)
  // Who asks for the same key by the same tags in one turn gets the same answer: its bytes are read once.
  const founds = new TurnReads(async key => await find(key.slice(0, ID_LENGTH), JSON.parse(key.slice(ID_LENGTH)) as string[]), pipelines)

  async function versionsOf (names: readonly string[]): Promise<Record<string, string | undefined>> {
    const values = await Promise.all(names.map(tag => reads.get(tagKey(tag))))
    return Object.fromEntries(names.map((tag, i) => [tag, values[i]?.toString('latin1')]))
  }

  async function find (id: string, tags: readonly string[]): Promise<Found> {
    const [bytes, versions] = await Promise.all([reads.get(entryKey(id)), versionsOf([EVERYTHING, ...tags])])
    if (bytes === null) return { entry: undefined, generation: '', versions }
    const { entry, generation } = decodeFrame(bytes)
    // What the handler named is known only now; nearly always there is nothing of it.
    const more = Object.keys(entry?.tags ?? {}).filter(tag => !(tag in versions))
    const all = more.length === 0 ? versions : { ...versions, ...await versionsOf(more) }
    const isValid = entry !== undefined && EVERYTHING in entry.tags && Object.entries(entry.tags).every(([tag, version]) => all[tag] === version)
    return { entry: isValid ? entry : undefined, generation, versions }
  }

  /** Gives a tag a version where it has none. */
  async function versionFor (tag: string): Promise<string> {
    const present = await reads.get(tagKey(tag))
    if (present !== null) return present.toString('latin1')
    const [, version] = await Promise.all([client.set(tagKey(tag), `0-${unique()}`, 'PX', TAG_TTL_MS, 'NX'), client.get(tagKey(tag))])
    return version ?? ''
  }

  return {
    // The clocks of a Cluster's nodes are several.
    skew: isCluster(client) ? 1000 : 0,
    read: (id, tags) => founds.get(id + JSON.stringify(tags)),
    async begin (work, token, tags, ms) {
      const [mine, holder, time, ...versions] = await Promise.all([
        client.set(claimKey(work), token, 'PX', ms, 'NX'), client.get(claimKey(work)), client.time(), ...tags.map(versionFor)
      ])
      return {
        claim: mine === 'OK' ? 'mine' : holder === PASS ? 'pass' : 'theirs',
        now: timeOf(time),
        versions: Object.fromEntries(tags.map((tag, i) => [tag, versions[i] ?? '']))
      }
    },
    async renew (work, token, ms) { await runScript(client, renewScript, [claimKey(work)], [token, ms]) },
    async end (work, token, pass) { await runScript(client, endScript, [claimKey(work)], [token, pass ? PASS : '', PASS_MS]) },
    async write (id, entry, generation) {
      // As bytes: of a damaged entry they are any, and are to be found the same.
      return await runScript(client, writeScript, [entryKey(id)], [Buffer.from(generation, 'latin1'), encodeFrame(entry), lifeOf(entry)]) === 1
    },
    async announce (id) { if (tells) await client.publish(channel, JSON.stringify({ ids: [id] })) },
    async remove (id) {
      return await runScript(client, removeScript, [entryKey(id)], [encodeFrame('tombstone'), TOMBSTONE_MS, channel, JSON.stringify({ ids: [id] })]) === 1
    },
    async tags (tags) {
      const versions = await Promise.all(tags.map(versionFor))
      return Object.fromEntries(tags.map((tag, i) => [tag, { version: versions[i] ?? '', invalidatedAt: Number.parseInt(versions[i] ?? '', 10) / 1000 }]))
    },
    async invalidate (tags) {
      await Promise.all(tags.map(tag => runScript(client, invalidateScript, [tagKey(tag)], [unique(), TAG_TTL_MS, channel, JSON.stringify({ tags: [tag] })])))
    },
    async now () { return timeOf(await client.time()) },
    removeMatching: async matches => await removeByLabel(client, entries, matches)
  }
}

/** Milliseconds since the epoch, of what `TIME` says. */
function timeOf ([seconds, microseconds]: ReadonlyArray<number | string>): number {
  return Number(seconds) * 1000 + Number(microseconds) / 1000
}

function lifeOf ({ life }: Entry): number {
  return Math.max(1, Math.min(Math.ceil(life), MAX_LIFE_MS))
}

function unique (): string {
  return randomBytes(12).toString('base64url')
}
