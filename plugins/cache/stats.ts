/** What happened under one name: a route's URL, a prefix of the data cache, a wrapped function. */
export interface CacheCounts {
  /** Look-ups that found something fresh, in either tier. */
  hits: number
  misses: number
  /** Look-ups that were given something stale. */
  stale: number
  /** Those who waited for another one of the same key. */
  coalesced: number
  /** How often something was stored, and how many bytes. */
  stored: number
  storedBytes: number
  /** Of the hits, those that the first tier answered. */
  l1Hits: number
  /** What the first tier holds. */
  l1Entries: number
  l1Bytes: number
  /** What the first tier dropped for want of room. */
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

// Names are a program's own; should they be made of what comes in, the rest is counted as one.
const MOST_NAMES = 1000
const REST = 'other'

/** Counts by name. */
export class StatsByName {
  readonly #names = new Map<string, StatsCounter>()

  of (name: string): StatsCounter {
    const present = this.#names.get(name)
    if (present !== undefined) return present
    if (this.#names.size >= MOST_NAMES && name !== REST) return this.of(REST)
    const counts = new StatsCounter()
    this.#names.set(name, counts)
    return counts
  }

  get names (): Record<string, CacheCounts> {
    return Object.fromEntries([...this.#names].map(([name, counts]) => [name, { ...counts }]))
  }

  get total (): CacheCounts {
    const total = new StatsCounter()
    for (const counts of this.#names.values()) for (const what of Object.keys(total) as Array<keyof CacheCounts>) total[what] += counts[what]
    return { ...total }
  }
}
