import { LRUCache } from 'lru-cache'
import { steadyTime, systemClock, type Clock } from '../../shared/plugin/clock.js'
import { joinFields } from '../session-diff.js'
import { renewalOf, TOMBSTONE_MS, type SessionStore, type SessionTimeouts, type StoredInfo } from './store.js'

interface LiveEntry {
  kind: 'session'
  fields: Map<string, string>
  isSealed: boolean
  version: number
  user: string | undefined
  device: string
  createdAt: number
  lastSeenAt: number
  expiresAt: number
}

/** A session, or the tombstone of one that was destroyed. */
type Entry = LiveEntry | { kind: 'tombstone', expiresAt: number }

/** Stores sessions in this process. Beyond the maximum the least recently used ones are dropped. */
export function createMemoryStore (
  maxSessions: number, { idleTimeout, absoluteTimeout }: SessionTimeouts, clock: Clock = systemClock
): SessionStore {
  const time = steadyTime(clock)
  const entries = new LRUCache<string, Entry>({
    max: maxSessions,
    dispose (entry, handle) { if (entry.kind === 'session') removeFromIndex(entry.user, handle) }
  })
  // By user, the time at which each session was added; in that order.
  const users = new Map<string, Map<string, number>>()

  function removeFromIndex (user: string | undefined, handle: string): void {
    const index = user === undefined ? undefined : users.get(user)
    if (user === undefined || index === undefined) return
    index.delete(handle)
    if (index.size === 0) users.delete(user)
  }

  function entryOf (handle: string): Entry | undefined {
    const entry = entries.get(handle)
    if (entry === undefined || entry.expiresAt > time()) return entry
    entries.delete(handle)
    return undefined
  }

  function sessionOf (handle: string): LiveEntry | undefined {
    const entry = entryOf(handle)
    return entry?.kind === 'session' ? entry : undefined
  }

  function renew (session: LiveEntry): void {
    session.expiresAt = Math.min(time() + idleTimeout + renewalOf(idleTimeout), session.createdAt + absoluteTimeout)
  }

  function infoOf (handle: string): StoredInfo | undefined {
    const entry = entries.peek(handle)
    if (entry?.kind !== 'session' || entry.expiresAt <= time()) return undefined
    const { user, createdAt, lastSeenAt, device } = entry
    return { handle, user, createdAt, lastSeenAt, device }
  }

  return {
    async read (handle) {
      const session = sessionOf(handle)
      if (session === undefined) return undefined
      const { fields, isSealed, version, user, createdAt, lastSeenAt } = session
      return {
        text: joinFields(Object.fromEntries(fields)), isSealed, version: String(version), user, createdAt, lastSeenAt
      }
    },
    async renew (handle) {
      const session = sessionOf(handle)
      if (session === undefined) return
      session.lastSeenAt = time()
      renew(session)
    },
    async write (handle, change) {
      const present = entryOf(handle)
      if (present?.kind === 'tombstone' || (present === undefined && !change.create)) return undefined
      const session = present ?? newSession(time())
      for (const [name, json] of Object.entries(change.set)) session.fields.set(name, json)
      for (const name of change.delete) session.fields.delete(name)
      session.isSealed = change.isSealed
      session.version++
      if (change.owner !== undefined) Object.assign(session, change.owner)
      renew(session)
      if (present === undefined) entries.set(handle, session)
      return String(session.version)
    },
    async lifeOf (handle) {
      const entry = entries.peek(handle)
      return entry?.kind === 'session' ? Math.max(0, entry.expiresAt - time()) : 0
    },
    async destroy (handle) {
      const session = sessionOf(handle)
      entries.set(handle, { kind: 'tombstone', expiresAt: time() + TOMBSTONE_MS })
      return session === undefined ? undefined : session.user ?? null
    },
    async enter (user, handle, max) {
      const index = users.get(user) ?? new Map<string, number>()
      for (const [each, at] of index) if (at + absoluteTimeout <= time()) index.delete(each)
      if (max > 0 && !index.has(handle) && index.size >= max) return [...index.keys()]
      if (!index.has(handle)) index.set(handle, time())
      users.set(user, index)
      return undefined
    },
    async leave (user, handles) { for (const handle of handles) removeFromIndex(user, handle) },
    async members (user, until, from, count) {
      return [...users.get(user) ??
        []].filter(([, at]) => at <= until).slice(from, from + count).map(([handle]) => handle)
    },
    infos: async handles => handles.map(infoOf),
    now: async () => time()
  }
}

function newSession (now: number): LiveEntry {
  return {
    kind: 'session',
    fields: new Map(),
    isSealed: false,
    version: 0,
    user: undefined,
    device: '',
    createdAt: now,
    lastSeenAt: now,
    expiresAt: 0
  }
}
