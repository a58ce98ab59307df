import { hashId } from '../../shared/plugin/keys.js'
import { StatsCounter } from '../stats.js'

const UNCOUNTED = new StatsCounter()

/** The key of an entry: L1 uses its text, the store a digest of it. */
export class CacheKey {
  readonly text: string
  /** The readable form, which patterns match. */
  readonly label: string
  /** Counts the events of the key. */
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

/**
 * Returns the key of a value.
 *
 * @param prefixes - of the view of the data cache: views with other prefixes have other keys
 */
export function dataKey (name: string, prefixes: readonly string[] = [], counts?: StatsCounter): CacheKey {
  // No other key begins with this character.
  if (prefixes.length === 0) return new CacheKey(`=${name}`, name, counts)
  return new CacheKey(JSON.stringify(['data', ...prefixes, name]), [...prefixes, name].join(':'), counts)
}
