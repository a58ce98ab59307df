import { randomUUID } from 'node:crypto'
import type { RedisClient } from '../shared/client.js'
import { keySpace, safeId } from '../shared/keys.js'
import { decodeFrame, encodeFrame } from './frame.js'
import type { CacheStore } from './store.js'

/** Longer than any entry may live: a tag's version must outlive what was made with it. */
export const TAG_TTL_MS = 40 * 24 * 3600 * 1000
export const MAX_ENTRY_LIFE_MS = 30 * 24 * 3600 * 1000

/**
 * Keeps entries in Redis. A tag is a key that holds a random version, and an entry remembers the versions of its
 * tags: to invalidate a tag is to write one key. A version that is gone (evicted, flushed) matches nothing.
 */
export function createRedisStore (client: RedisClient, prefix: string): CacheStore {
  const entryKey = (key: string) => keySpace(prefix, 'cache', 'entry') + key
  const tagKey = (tag: string) => keySpace(prefix, 'cache', 'tag') + safeId(tag)
  const claimKey = (key: string) => keySpace(prefix, 'cache', 'refresh') + key

  /** Reads a version, and makes one where there is none. */
  async function versionOf (tag: string): Promise<string> {
    const present = await client.get(tagKey(tag))
    if (present !== null) return present
    await client.set(tagKey(tag), newVersion(0), 'PX', TAG_TTL_MS, 'NX')
    return await client.get(tagKey(tag)) ?? ''
  }

  return {
    async get (key) {
      const bytes = await client.getBuffer(entryKey(key))
      if (bytes === null) return undefined
      const entry = decodeFrame(bytes)
      const tags = Object.entries(entry?.tags ?? {})
      // One key a command: on a Cluster they lie on several nodes.
      const versions = await Promise.all(tags.map(([tag]) => client.get(tagKey(tag))))
      if (entry !== undefined && tags.every(([, version], i) => versions[i] === version)) return entry
      await client.unlink(entryKey(key))
      return undefined
    },
    async set (key, entry) {
      await client.set(entryKey(key), encodeFrame(entry), 'PX', Math.max(1, entry.ttl + entry.stale))
    },
    async delete (key) { return await client.unlink(entryKey(key)) > 0 },
    async versions (tags) {
      const versions = await Promise.all(tags.map(versionOf))
      return Object.fromEntries(tags.map((tag, i) => [tag, versions[i] ?? '']))
    },
    async invalidate (tags) {
      await Promise.all(tags.map(tag => client.set(tagKey(tag), newVersion(Date.now()), 'PX', TAG_TTL_MS)))
    },
    async claimRefresh (key, ms) {
      return await client.set(claimKey(key), '1', 'PX', ms, 'NX') === 'OK'
    }
  }
}

/** Never given twice; begins with when the tag was invalidated last, 0 for not yet. */
function newVersion (at: number): string {
  return `${at}-${randomUUID()}`
}
