import { LRUCache } from 'lru-cache'
import { systemClock, type Clock } from '../shared/plugin/clock.js'
import { ACQUIRED, IN_PROGRESS, type IdempotencyStore, type RecordedResponse } from './store.js'
import { copyResponse } from './stored-response.js'

interface KeyEntry {
  fingerprint: string
  token: string
  /** Undefined while the request runs. */
  response: RecordedResponse | undefined
  bytes: number
  /** By the clock's `monotonic()`. */
  expiresAt: number
}

const MAX_BYTES = 64 * 1024 * 1024

/** Holds keys and responses in this process. Responses are bounded in number and to 64 MiB (LRU). */
export function createMemoryStore (maxKeys: number, clock: Clock = systemClock): IdempotencyStore {
  // Bounded by the number of requests in progress. An entry that was evicted would let its request run twice.
  const inProgress = new Map<string, KeyEntry>()
  const completed = new LRUCache<string, KeyEntry>({
    max: maxKeys, maxSize: MAX_BYTES, sizeCalculation: ({ bytes }) => bytes
  })

  function find (id: string): KeyEntry | undefined {
    const entry = inProgress.get(id) ?? completed.get(id)
    if (entry === undefined || entry.expiresAt > clock.monotonic()) return entry
    inProgress.delete(id)
    completed.delete(id)
    return undefined
  }

  return {
    async acquire ({ id, fingerprint, token }, lease) {
      const entry = find(id)
      if (entry === undefined) {
        inProgress.set(id, { fingerprint, token, response: undefined, bytes: 0, expiresAt: clock.monotonic() + lease })
        return ACQUIRED
      }
      if (entry.fingerprint !== fingerprint) return { kind: 'mismatch', fingerprint: entry.fingerprint }
      if (entry.response !== undefined) return { kind: 'stored', response: entry.response }
      return entry.token === token ? ACQUIRED : IN_PROGRESS
    },
    async renew ({ id, token }, lease) {
      const entry = find(id)
      if (entry?.token !== token || entry.response !== undefined) return false
      entry.expiresAt = clock.monotonic() + lease
      return true
    },
    async complete ({ id, fingerprint, token }, response, ttl) {
      const entry = find(id)
      if (entry !== undefined && entry.token !== token) return false
      inProgress.delete(id)
      completed.set(id, { fingerprint, token, ...copyResponse(response), expiresAt: clock.monotonic() + ttl })
      return true
    },
    async release ({ id, token }) {
      if (inProgress.get(id)?.token === token) inProgress.delete(id)
    },
    async retract ({ id, token }) {
      for (const entries of [inProgress, completed]) if (entries.get(id)?.token === token) entries.delete(id)
    }
  }
}
