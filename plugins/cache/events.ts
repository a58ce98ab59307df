import type { SafeEmitter } from '../shared/plugin/safe-emitter.js'
import type { Bytes } from '../shared/plugin/units.js'
import { pathOfTag } from './store/path-tag.js'
import { ALL_TAG, PATTERN_TAG } from './store/store.js'

/** Tags (`*` for all entries), a key or a pattern that was invalidated. */
export interface Invalidation {
  tags?: readonly string[]
  key?: string
  pattern?: string
  /** `local` for this process, `remote` for another one. Remote invalidations are reported only with L1. */
  origin: 'local' | 'remote'
}

/** The events of the cache. The key of a response is its path and query. */
export interface CacheEvents {
  invalidate: Invalidation
  hit: { key: string, tier: 'l1' | 'l2' }
  stale: { key: string }
  miss: { key: string }
  /** A caller waits for the fill of another caller. */
  coalesce: { key: string }
  store: { key: string, bytes: Bytes }
  /** An error that no caller gets: of the store, or of a factory that refreshes a stale value. */
  error: { key?: string, error: Error }
}

/** The names of {@link CacheEvents}. */
export const CACHE_EVENTS = ['invalidate', 'hit', 'stale', 'miss', 'coalesce', 'store', 'error'] as const

export type CacheListener<E extends keyof CacheEvents> = (event: CacheEvents[E]) => unknown

export type CacheEmitter = SafeEmitter<CacheEvents>

/**
 * Emits `invalidate` for tags. The cache's own tags are reported by their meaning: a path as a key, all entries as `*`.
 */
export function emitInvalidated (events: CacheEmitter, tags: readonly string[], origin: Invalidation['origin']): void {
  if (!events.hasListeners('invalidate')) return
  // The tag of a removal by pattern does not hold the pattern.
  if (tags.includes(PATTERN_TAG)) events.emit('invalidate', { pattern: '*', origin })
  const named = tags.filter(tag => pathOfTag(tag) === undefined && tag !== PATTERN_TAG)
    .map(tag => tag === ALL_TAG ? '*' : tag)
  if (named.length > 0) events.emit('invalidate', { tags: named, origin })
  for (const tag of tags) {
    const key = pathOfTag(tag)
    if (key !== undefined) events.emit('invalidate', { key, origin })
  }
}
