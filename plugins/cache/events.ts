import type { SafeEmitter } from '../shared/plugin/safe-emitter.js'
import { pathOfTag } from './store/path-tag.js'
import { ALL_TAG, PATTERN_TAG } from './store/store.js'

/** What was invalidated: tags (`*`: everything), one key, or all that a pattern matches. */
export interface Invalidation {
  tags?: readonly string[]
  key?: string
  pattern?: string
  /** Whether this process did it, or another one, which is told where there is a first tier. */
  origin: 'local' | 'remote'
}

/** Of an answer the key is its path and query, of a value its key. */
export interface CacheEvents {
  invalidate: Invalidation
  hit: { key: string, tier: 'l1' | 'l2' }
  stale: { key: string }
  miss: { key: string }
  /** Somebody waits for another one's making. */
  coalesce: { key: string }
  store: { key: string, bytes: number }
  /** What failed without the caller being told: a factory behind a stale value, or the store. */
  error: { key?: string, error: Error }
}

/** The names of {@link CacheEvents}. */
export const CACHE_EVENTS = ['invalidate', 'hit', 'stale', 'miss', 'coalesce', 'store', 'error'] as const

export type CacheListener<E extends keyof CacheEvents> = (event: CacheEvents[E]) => unknown

export type Events = SafeEmitter<CacheEvents>

/** Emits which tags were invalidated. The cache's own tags are reported as what they stand for: a path as a key, all entries as `*`. */
export function tellInvalidated (events: Events, tags: readonly string[], origin: Invalidation['origin']): void {
  if (!events.hasListeners('invalidate')) return
  // A removal by pattern does not say by which.
  if (tags.includes(PATTERN_TAG)) events.emit('invalidate', { pattern: '*', origin })
  const named = tags.filter(tag => pathOfTag(tag) === undefined && tag !== PATTERN_TAG).map(tag => tag === ALL_TAG ? '*' : tag)
  if (named.length > 0) events.emit('invalidate', { tags: named, origin })
  for (const tag of tags) {
    const key = pathOfTag(tag)
    if (key !== undefined) events.emit('invalidate', { key, origin })
  }
}
