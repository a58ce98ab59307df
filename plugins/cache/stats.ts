import type { Bytes } from '../shared/plugin/units.js'

/** Counters of one name: a route's URL, a prefix of the data cache, or a wrapped function. */
export interface CacheCounts {
  /** Lookups that found a fresh entry, in either tier. */
  hits: number
  misses: number
  /** Lookups that were served a stale entry. */
  stale: number
  /** Callers that waited for the fill of another caller. */
  coalesced: number
  /** Entries stored since the start. */
  stored: number
  /** Bytes stored since the start. */
  storedBytes: Bytes
  /** Hits of L1, which `hits` includes. */
  l1Hits: number
  /** Entries in L1 now. */
  l1Entries: number
  /** Size of L1 now. */
  l1Bytes: Bytes
  /** Entries that L1 evicted because it was full. */
  l1Evicted: number
}

export class StatsCounter implements CacheCounts {
  hits = 0
  misses = 0
  stale = 0
  coalesced = 0
  stored = 0
  storedBytes = 0
  l1Hits = 0
  l1Entries = 0
  l1Bytes = 0
  l1Evicted = 0
}

/**
 * How many names are counted separately. More come only from an app that derives names from requests, and are counted
 * as one.
 */
const MAX_NAMES = 1000
const REST = 'other'

/** Counters by name. */
export class StatsByName {
  readonly #names = new Map<string, StatsCounter>()

  of (name: string): StatsCounter {
    const present = this.#names.get(name)
    if (present !== undefined) return present
    if (this.#names.size >= MAX_NAMES && name !== REST) return this.of(REST)
    const counts = new StatsCounter()
    this.#names.set(name, counts)
    return counts
  }

  get names (): Record<string, CacheCounts> {
    return Object.fromEntries([...this.#names].map(([name, counts]) => [name, { ...counts }]))
  }

  get total (): CacheCounts {
    const total = new StatsCounter()
    for (const counts of this.#names.values()) {
      for (const what of Object.keys(total) as Array<keyof CacheCounts>) total[what] += counts[what]
    }
    return { ...total }
  }
}
