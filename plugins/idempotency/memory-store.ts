import { LRUCache } from 'lru-cache'
import { systemClock, type Clock } from '../shared/plugin/clock.js'
import { ownResponse } from './own-response.js'
import type { Claim, IdempotencyStore, RecordedResponse } from './store.js'

interface Entry {
  fingerprint: string
  token: string
  answer: RecordedResponse | undefined
  /** What the answer takes. */
  bytes: number
  expiresAt: number
}

const MOST_BYTES = 64 * 1024 * 1024

/** Keeps answers in this process, bounded in number and to 64 MiB: those that were used least recently go first. */
export function createMemoryStore (maxKeys: number, clock: Clock = systemClock): IdempotencyStore {
  // What is under way is bounded by the requests there are, and never dropped: it would run twice.
  const claims = new Map<string, Entry>()
  const answers = new LRUCache<string, Entry>({
    max: maxKeys,
    maxSize: MOST_BYTES,
    sizeCalculation: ({ bytes }) => bytes
  })

  function alive (id: string): Entry | undefined {
    const entry = claims.get(id) ?? answers.get(id)
    if (entry === undefined || entry.expiresAt > clock.monotonic()) return entry
    claims.delete(id)
    answers.delete(id)
    return undefined
  }

  return {
    async claim ({ id, fingerprint, token }, lease): Promise<Claim> {
      const entry = alive(id)
      if (entry === undefined) {
        claims.set(id, { fingerprint, token, answer: undefined, bytes: 0, expiresAt: clock.monotonic() + lease })
        return 'mine'
      }
      if (entry.fingerprint !== fingerprint) return { fingerprint: entry.fingerprint }
      return entry.answer ?? (entry.token === token ? 'mine' : 'theirs')
    },
    async renew ({ id, token }, lease) {
      const entry = alive(id)
      if (entry?.token !== token || entry.answer !== undefined) return false
      entry.expiresAt = clock.monotonic() + lease
      return true
    },
    async complete ({ id, fingerprint, token }, answer, ttl) {
      const entry = alive(id)
      if (entry !== undefined && entry.token !== token) return false
      claims.delete(id)
      answers.set(id, { fingerprint, token, ...ownResponse(answer), expiresAt: clock.monotonic() + ttl })
      return true
    },
    async release ({ id, token }) {
      if (claims.get(id)?.token === token) claims.delete(id)
    },
    async retract ({ id, token }) {
      for (const entries of [claims, answers]) if (entries.get(id)?.token === token) entries.delete(id)
    }
  }
}
