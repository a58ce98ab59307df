import type { StatsCounter } from '../stats.js'
import { dataKey, type CacheKey } from '../store/cache-key.js'
import type { Tiers } from '../tiers/ttl.js'
import {
  resolveDefaults, resolveValueOptions, type GetOrSetOptions, type TaggedPlan, type ValueDefaults, type ValuePlan,
  type WriteThroughOptions
} from './value-options.js'

interface ScopeParts {
  prefixes: readonly string[]
  counts: StatsCounter
  defaults: ValuePlan
  tiers: Tiers
}

/** The options of a call that has none: always this object, so that they are resolved once a scope. */
export const NO_OPTIONS = Object.freeze({})

/** The keys, tags and defaults of one view of the data cache: the whole cache, or a prefix of it. */
export class CacheScope {
  readonly prefixes: readonly string[]
  /** A tag for each prefix, which every value below it has: one write invalidates all of them. */
  readonly tags: readonly string[]
  readonly defaults: ValuePlan
  readonly #counts: StatsCounter
  readonly #tiers: Tiers
  #defaultPlan: TaggedPlan | undefined

  constructor ({ prefixes, counts, defaults, tiers }: ScopeParts) {
    this.prefixes = prefixes
    // A program's own tags never begin with a NUL.
    this.tags = prefixes.map((_, at) => `\0${JSON.stringify(prefixes.slice(0, at + 1))}`)
    this.defaults = defaults
    this.#counts = counts
    this.#tiers = tiers
  }

  /** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` for a default that cannot be used */
  withPrefix (prefix: string, counts: StatsCounter, defaults: ValueDefaults): CacheScope {
    return new CacheScope({
      prefixes: [...this.prefixes, prefix],
      counts,
      defaults: resolveDefaults(defaults, this.defaults, this.#tiers),
      tiers: this.#tiers
    })
  }

  keyOf (name: string): CacheKey {
    return dataKey(name, this.prefixes, this.#counts)
  }

  /**
   * Returns a call's options, complete and checked, with the tags of the scope.
   *
   * @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION`
   */
  planOf (options: GetOrSetOptions<never> & WriteThroughOptions<never>): TaggedPlan {
    if (options === NO_OPTIONS && this.#defaultPlan !== undefined) return this.#defaultPlan
    const plan = resolveValueOptions(options, this.defaults, this.#tiers)
    const scoped = this.tags.length === 0 ? plan : { ...plan, tags: [...this.tags, ...plan.tags] }
    if (options === NO_OPTIONS) this.#defaultPlan = scoped
    return scoped
  }
}
