import { LRUCache } from 'lru-cache'
import type { CacheStore, Entry } from './store.js'

/** What an entry takes beside its body, roughly. */
const OVERHEAD_BYTES = 512

/**
 * Keeps entries in this process, bounded in bytes: the ones that were used least recently go first.
 *
 * @param maxSize - bytes
 */
export function createMemoryStore (maxSize: number, clock: () => number = Date.now): CacheStore {
  const entries = new LRUCache<string, Entry>({ maxSize, sizeCalculation: entry => entry.body.length + OVERHEAD_BYTES })
  const claims = new LRUCache<string, number>({ max: 10_000 })
  // As in Redis: when the tag was invalidated last, and what makes it unique. One that was dropped is made anew, and what
  // was made with the old one becomes invalid.
  const versions = new LRUCache<string, string>({ max: 100_000 })
  let lastVersion = 0

  function versionOf (tag: string): string {
    const known = versions.get(tag)
    if (known !== undefined) return known
    const version = `0-${++lastVersion}`
    versions.set(tag, version)
    return version
  }

  return {
    async get (key) {
      const entry = entries.get(key)
      if (entry === undefined) return undefined
      const expired = clock() >= entry.storedAt + entry.ttl + entry.stale
      if (!expired && Object.entries(entry.tags).every(([tag, version]) => versions.get(tag) === version)) return entry
      entries.delete(key)
      return undefined
    },
    async set (key, entry) { entries.set(key, entry) },
    async delete (key) { return entries.delete(key) },
    async versions (tags) { return Object.fromEntries(tags.map(tag => [tag, versionOf(tag)])) },
    async invalidate (tags) { for (const tag of tags) versions.set(tag, `${clock()}-${++lastVersion}`) },
    async claimRefresh (key, ms) {
      if ((claims.get(key) ?? 0) > clock()) return false
      claims.set(key, clock() + ms)
      return true
    }
  }
}
