import { MAX_TIMER_MS, type Duration } from '../../shared/plugin/duration.js'
import { describe, invalidOptionError } from '../../shared/plugin/errors.js'
import { whenReady } from '../../shared/plugin/maybe-promise.js'
import { duration, fraction, option, unchecked, withDefault } from '../../shared/plugin/option-kinds.js'
import { checkNames, readOption, readOptions, type Option, type OptionTable } from '../../shared/plugin/option-table.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { InvalidValueError } from '../errors.js'
import { MAX_LIFE_MS } from '../store/store.js'
import { checkTags, type Tag, MAX_ENTRY_TAGS } from '../store/tags.js'
import { resolveTtl, returnedTtl, TTL_RESULTS, type Tiers } from '../tiers/ttl.js'

/** How a value is stored. */
export interface ValueOptions<T = unknown> {
  /**
   * How long the value is fresh, 15 days at most; 0 means that it is not stored. A function may also return a negative
   * number (not stored), `Infinity` (15 days) or a promise. Any other result rejects with
   * `FST_REDIS_SUITE_CACHE_INVALID_VALUE`.
   *
   * @default the plugin's
   */
  ttl?: Duration | ((value: T) => Duration | Promise<Duration>) | undefined
  /** How long a stale value may be returned while it is refreshed in the background. @default the plugin's */
  staleWhileRevalidate?: Duration | undefined
  /**
   * How long a stale value may be returned if the factory fails or exceeds a timeout. After a failure the factory is
   * not called again for 1 s.
   *
   * @default the plugin's
   */
  staleIfError?: Duration | undefined
  /**
   * The largest fraction by which a ttl is shortened at random, so that values do not expire all at once.
   *
   * @default the plugin's
   */
  jitter?: number | undefined
  /** Tags by which the value can be invalidated, 1,000 at most. A tag is a string that is not empty, or a number. */
  tags?: readonly Tag[] | ((value: T) => readonly Tag[] | Promise<readonly Tag[]>) | undefined
  /**
   * How long `null` and `undefined` are stored, which stand for "not found"; 0 means that they are not. They are never
   * returned stale. `set` always stores `null`.
   *
   * @default 0
   */
  negativeTtl?: Duration | undefined
}

/** How a value is read, and computed where it is missing. */
export interface GetOrSetOptions<T = unknown> extends ValueOptions<T> {
  /**
   * How long a caller waits before it gets a stale value that `staleIfError` allows. The factory continues in the
   * background.
   */
  softTimeout?: Duration | undefined
  /**
   * How long the factory may take. Then its `signal` is aborted, and the caller gets a stale value that `staleIfError`
   * allows, or `FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT`.
   */
  hardTimeout?: Duration | undefined
  /**
   * The last fraction of its ttl in which a read refreshes the value in the background, so that values that are read
   * often never expire.
   *
   * @default 0
   */
  refreshAhead?: number | undefined
  /** Stops this caller's wait when it is aborted. The factory is aborted as well if no other caller waits for it. */
  signal?: AbortSignal | undefined
}

/** How `writeThrough` stores the value that the source has accepted. */
export interface WriteThroughOptions<T = unknown> extends ValueOptions<T> {
  /** Tags that are invalidated once the source is written, such as those of pages that show the value. */
  invalidates?: readonly Tag[] | undefined
  /**
   * How long the writer may take. Then its `signal` is aborted, and the value is removed, as the state of the source is
   * unknown.
   */
  hardTimeout?: Duration | undefined
}

/** Defaults of values. */
export type ValueDefaults = Omit<GetOrSetOptions, 'tags' | 'signal' | 'ttl'> & { ttl?: Duration | undefined }

/** How a value is stored and computed, complete and checked. */
export interface ValuePlan {
  /** Returns the ttl of a value; 0: it is not stored. */
  ttl: (value: unknown) => Milliseconds | Promise<Milliseconds>
  staleWhileRevalidate: Milliseconds
  staleIfError: Milliseconds
  jitter: number
  negativeTtl: Milliseconds
  softTimeout: Milliseconds
  hardTimeout: Milliseconds
  refreshAhead: number
}

export interface TaggedPlan extends ValuePlan {
  /** The tags that are known before there is a value. */
  tags: readonly string[]
  tagsOf: ((value: unknown) => readonly string[] | Promise<readonly string[]>) | undefined
}

const LIFETIME = { max: MAX_LIFE_MS / 2 }
const THE_PLUGINS = "the plugin's"
const timeLimit: Option<Duration, Milliseconds> = {
  ...duration(undefined, { min: 1, max: MAX_TIMER_MS }), resolvedDefault: Infinity
}

const PLAN_OPTIONS = {
  staleWhileRevalidate: withDefault(duration(0, LIFETIME), THE_PLUGINS),
  staleIfError: withDefault(duration(0, LIFETIME), THE_PLUGINS),
  jitter: withDefault(fraction(0), THE_PLUGINS),
  negativeTtl: duration(0, LIFETIME),
  softTimeout: timeLimit,
  hardTimeout: timeLimit,
  refreshAhead: fraction(0)
} satisfies Partial<OptionTable<GetOrSetOptions>>

const DEFAULT_OPTIONS = {
  ...PLAN_OPTIONS,
  ttl: unchecked('duration, tier, or `(value) => either`', THE_PLUGINS)
} satisfies OptionTable<ValueDefaults>

/** The options of `getOrSet`, `set` and `writeThrough`. */
export const VALUE_OPTIONS = {
  ...DEFAULT_OPTIONS,
  tags: unchecked('tags or `(value) => tags`, sync or async'),
  signal: option({
    type: '`AbortSignal`', allowed: 'an AbortSignal', parse: given => given instanceof AbortSignal ? given : undefined
  }),
  invalidates: unchecked('tags')
} satisfies OptionTable<GetOrSetOptions & WriteThroughOptions>

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveDefaults (given: ValueDefaults, fallback: ValuePlan, tiers: Tiers): ValuePlan {
  checkNames('cache', DEFAULT_OPTIONS, given)
  return { ...readOptions('cache', PLAN_OPTIONS, given, fallback), ttl: resolveTtlFunction(given.ttl, fallback, tiers) }
}

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveValueOptions (
  given: GetOrSetOptions<never> & WriteThroughOptions<never>, fallback: ValuePlan, tiers: Tiers
): TaggedPlan {
  checkNames('cache', VALUE_OPTIONS, given)
  readOption('cache', 'signal', VALUE_OPTIONS.signal, given)
  const { tags = [] } = given
  return {
    ...readOptions('cache', PLAN_OPTIONS, given, fallback),
    ttl: resolveTtlFunction(given.ttl, fallback, tiers),
    tags: typeof tags === 'function' ? [] : checkEntryTags(tags),
    tagsOf: typeof tags === 'function'
      ? value => whenReady(tags(value as never), returned => checkEntryTags(returned))
      : undefined
  }
}

function resolveTtlFunction (ttl: GetOrSetOptions<never>['ttl'], fallback: ValuePlan, tiers: Tiers): ValuePlan['ttl'] {
  if (ttl === undefined) return fallback.ttl
  if (typeof ttl !== 'function') {
    const fixed = resolveTtl(ttl, tiers)
    return () => fixed
  }
  return value => whenReady<unknown, Milliseconds>(ttl(value as never), result => {
    const ms = returnedTtl(result, tiers)
    if (ms === undefined) throw new InvalidValueError('the function "ttl"', describe(result), TTL_RESULTS)
    return ms
  })
}

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
function checkEntryTags (tags: unknown): readonly string[] {
  const checked = checkTags(tags)
  if (checked.length > MAX_ENTRY_TAGS) throw invalidOptionError('cache', 'tags', tags, `at most ${MAX_ENTRY_TAGS} tags`)
  return checked
}
