import type { FastifyBaseLogger } from 'fastify'
import { freshnessOf, type Freshness } from './freshness.js'
import { EVERYTHING, type CacheStore, type Entry } from './store.js'

export interface CacheStats {
  hits: number
  misses: number
  stale: number
  /** Requests that waited for another one of the same key. */
  coalesced: number
  stored: number
  invalidations: number
  /** Operations on the store that failed; the answer came without it. */
  errors: number
}

/** What both faces, responses and data, do with the store: it never fails, it only knows nothing. */
export interface CacheCore {
  readonly stats: CacheStats
  read (key: string): Promise<{ entry: Entry, freshness: Exclude<Freshness, 'expired'> } | undefined>
  /** The versions to store an entry with; undefined where they cannot be known, and nothing may be stored. */
  versions (tags: readonly string[]): Promise<Record<string, string> | undefined>
  /** Stores without making anybody wait. */
  write (key: string, entry: Entry): Promise<void>
  delete (key: string): Promise<boolean>
  /** @throws where it could not be done: what was to go is still there */
  invalidate (tags: readonly string[]): Promise<void>
  /** Whether this caller is to make a stale key anew. */
  claimRefresh (key: string): Promise<boolean>
  /** Waits for what is being written. */
  settle (): Promise<void>
}

// If whoever refreshes dies, another may try after this.
const REFRESH_CLAIM_MS = 10_000

type Run = <T>(operation: () => Promise<T>) => Promise<T>

/** @param run - calls the store by the policy on failure */
export function createCore (store: CacheStore, run: Run, log: FastifyBaseLogger, clock: () => number = Date.now): CacheCore {
  const stats: CacheStats = { hits: 0, misses: 0, stale: 0, coalesced: 0, stored: 0, invalidations: 0, errors: 0 }
  const writing = new Set<Promise<void>>()

  async function attempt<T> (operation: () => Promise<T>, otherwise: T): Promise<T> {
    try {
      return await run(operation)
    } catch (error) {
      stats.errors++
      log.debug({ reason: error instanceof Error ? error.message : String(error) }, 'cache: the store did not answer')
      return otherwise
    }
  }

  return {
    stats,
    async read (key) {
      const entry = await attempt(() => store.get(key), undefined)
      const freshness = entry ? freshnessOf(entry, clock()) : 'expired'
      if (entry === undefined || freshness === 'expired') {
        stats.misses++
        return undefined
      }
      stats[freshness === 'fresh' ? 'hits' : 'stale']++
      return { entry, freshness }
    },
    versions: tags => attempt<Record<string, string> | undefined>(() => store.versions([EVERYTHING, ...tags]), undefined),
    write (key, entry) {
      const written = attempt(() => store.set(key, entry), undefined).then(() => { stats.stored++ })
      writing.add(written)
      return written.finally(() => writing.delete(written))
    },
    delete: key => run(() => store.delete(key)),
    async invalidate (tags) {
      await run(() => store.invalidate(tags))
      stats.invalidations++
    },
    claimRefresh: key => attempt(() => store.claimRefresh(key, REFRESH_CLAIM_MS), false),
    async settle () { await Promise.all(writing) }
  }
}
