import { LRUCache } from 'lru-cache'
import { TOMBSTONE_MS, type SessionStore, type SessionTimeouts, type StoredSession } from './store.js'

interface Entry {
  session: StoredSession | 'dead'
  user: string | undefined
  expiresAt: number
}

/**
 * Keeps sessions in this process, bounded in number: the ones that were used least recently go first.
 *
 * @param clock - milliseconds; tests put their own here
 */
export function createMemoryStore (
  maxSessions: number, { idleTimeout, absoluteTimeout }: SessionTimeouts, clock: () => number = Date.now
): SessionStore {
  const entries = new LRUCache<string, Entry>({ max: maxSessions })

  function alive (handle: string): Entry | undefined {
    const entry = entries.get(handle)
    if (entry === undefined || entry.expiresAt > clock()) return entry
    entries.delete(handle)
    return undefined
  }

  function renew (entry: Entry, session: StoredSession): void {
    entry.expiresAt = Math.min(clock() + idleTimeout, session.createdAt + absoluteTimeout)
  }

  return {
    async read (handle) {
      const entry = alive(handle)
      if (entry === undefined || entry.session === 'dead') return undefined
      entry.session.lastSeenAt = clock()
      renew(entry, entry.session)
      return { ...entry.session, fields: { ...entry.session.fields } }
    },
    async write (handle, change) {
      const present = alive(handle)
      if (present?.session === 'dead' || (present === undefined && !change.create)) return false
      const session = present?.session ?? { fields: {}, createdAt: clock(), lastSeenAt: clock() }
      Object.assign(session.fields, change.set)
      for (const name of change.delete) delete session.fields[name]
      const entry: Entry = { session, user: change.user, expiresAt: 0 }
      renew(entry, session)
      entries.set(handle, entry)
      return true
    },
    async destroy (handle) {
      entries.set(handle, { session: 'dead', user: undefined, expiresAt: clock() + TOMBSTONE_MS })
    },
    async list (user) {
      return [...entries.keys()].flatMap(handle => {
        const entry = entries.peek(handle)
        if (entry === undefined || entry.session === 'dead' || entry.user !== user || entry.expiresAt <= clock()) return []
        return [{ handle, createdAt: entry.session.createdAt, lastSeenAt: entry.session.lastSeenAt }]
      })
    }
  }
}
