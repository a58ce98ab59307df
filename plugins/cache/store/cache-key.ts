import { hashId } from '../../shared/plugin/keys.js'
import { StatsCounter } from '../stats.js'

const UNCOUNTED = new StatsCounter()

/** What an entry is kept under: in this process by its text, in the store by a digest of it. */
export class CacheKey {
  readonly text: string
  /** What patterns are compared with. */
  readonly label: string
  /** Where what happens to it is counted. */
  readonly counts: StatsCounter
  #id: string | undefined

  constructor (text: string, label: string, counts: StatsCounter = UNCOUNTED) {
    this.text = text
    this.label = label
    this.counts = counts
  }

  get id (): string {
    this.#id ??= hashId(this.text)
    return this.#id
  }
}

/** @param prefixes - of the view of the cache that it belongs to: another view's keys are others, however they read */
export function dataKey (name: string, prefixes: readonly string[] = [], counts?: StatsCounter): CacheKey {
  // No other text begins so.
  if (prefixes.length === 0) return new CacheKey(`=${name}`, name, counts)
  return new CacheKey(JSON.stringify(['data', ...prefixes, name]), [...prefixes, name].join(':'), counts)
}
