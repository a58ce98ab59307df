import { LRUCache } from 'lru-cache'
import { steadyTime, systemClock, type Clock } from '../../shared/plugin/clock.js'
import { joinFields } from '../session-diff.js'
import { renewalOf, TOMBSTONE_MS, type SessionStore, type SessionTimeouts, type StoredInfo } from './store.js'

interface Kept {
  fields: Map<string, string>
  isSealed: boolean
  version: number
  user: string | undefined
  createdAt: number
  lastSeenAt: number
}

interface Entry {
  session: Kept | 'dead'
  device: string
  expiresAt: number
}

/** Keeps sessions in this process, bounded in number: the ones that were used least recently go first. */
export function createMemoryStore (
  maxSessions: number, { idleTimeout, absoluteTimeout }: SessionTimeouts, clock: Clock = systemClock
): SessionStore {
  const time = steadyTime(clock)
  const entries = new LRUCache<string, Entry>({ max: maxSessions, dispose: ({ session }, handle) => { if (session !== 'dead') drop(session.user, handle) } })
  // By user, when each session was entered; in that order.
  const users = new Map<string, Map<string, number>>()

  function drop (user: string | undefined, handle: string): void {
    const index = user === undefined ? undefined : users.get(user)
    if (user === undefined || index === undefined) return
    index.delete(handle)
    if (index.size === 0) users.delete(user)
  }

  function alive (handle: string): Entry | undefined {
    const entry = entries.get(handle)
    if (entry === undefined || entry.expiresAt > time()) return entry
    entries.delete(handle)
    return undefined
  }

  function renew (entry: Entry, session: Kept): void {
    entry.expiresAt = Math.min(time() + idleTimeout + renewalOf(idleTimeout), session.createdAt + absoluteTimeout)
  }

  function infoOf (handle: string): StoredInfo | undefined {
    const entry = entries.peek(handle)
    if (entry === undefined || entry.session === 'dead' || entry.expiresAt <= time()) return undefined
    return { handle, user: entry.session.user, createdAt: entry.session.createdAt, lastSeenAt: entry.session.lastSeenAt, device: entry.device }
  }

  return {
    async read (handle) {
      const entry = alive(handle)
      if (entry === undefined || entry.session === 'dead') return undefined
      const { fields, isSealed, version, user, createdAt, lastSeenAt } = entry.session
      return { text: joinFields(Object.fromEntries(fields)), isSealed, version: String(version), user, createdAt, lastSeenAt }
    },
    async renew (handle) {
      const entry = alive(handle)
      if (entry === undefined || entry.session === 'dead') return
      entry.session.lastSeenAt = time()
      renew(entry, entry.session)
    },
    async write (handle, change) {
      const present = alive(handle)
      if (present?.session === 'dead' || (present === undefined && !change.create)) return undefined
      const session: Kept = present?.session ?? { fields: new Map(), isSealed: change.isSealed, version: 0, user: undefined, createdAt: time(), lastSeenAt: time() }
      const entry = present ?? { session, device: '', expiresAt: 0 }
      for (const [name, json] of Object.entries(change.set)) session.fields.set(name, json)
      for (const name of change.delete) session.fields.delete(name)
      session.isSealed = change.isSealed
      session.version++
      if (change.owner !== undefined) session.user = change.owner.user
      if (change.owner !== undefined) entry.device = change.owner.device
      renew(entry, session)
      if (present === undefined) entries.set(handle, entry)
      return String(session.version)
    },
    async lifeOf (handle) {
      const entry = entries.peek(handle)
      return entry === undefined || entry.session === 'dead' ? 0 : Math.max(0, entry.expiresAt - time())
    },
    async destroy (handle) {
      const present = alive(handle)
      entries.set(handle, { session: 'dead', device: '', expiresAt: time() + TOMBSTONE_MS })
      if (present === undefined || present.session === 'dead') return undefined
      return present.session.user ?? null
    },
    async enter (user, handle, max) {
      const index = users.get(user) ?? new Map<string, number>()
      for (const [each, at] of index) if (at + absoluteTimeout <= time()) index.delete(each)
      if (max > 0 && !index.has(handle) && index.size >= max) return [...index.keys()]
      if (!index.has(handle)) index.set(handle, time())
      users.set(user, index)
      return undefined
    },
    async leave (user, handles) { for (const handle of handles) drop(user, handle) },
    async members (user, until, from, count) {
      return [...users.get(user) ?? []].filter(([, at]) => at <= until).slice(from, from + count).map(([handle]) => handle)
    },
    infos: async handles => handles.map(infoOf),
    now: async () => time()
  }
}
