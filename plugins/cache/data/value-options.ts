import { MAX_TIMER_MS, type Duration } from '../../shared/plugin/duration.js'
import { describe, invalidOptionError } from '../../shared/plugin/errors.js'
import { whenReady } from '../../shared/plugin/maybe-promise.js'
import { readOptions, type OptionReader } from '../../shared/plugin/option-reader.js'
import { InvalidValueError } from '../errors.js'
import { MAX_LIFE_MS } from '../store/store.js'
import { checkTags, type Tag, MAX_ENTRY_TAGS } from '../store/tags.js'
import { resolveTtl, returnedTtl, TTL_RESULTS, type Tiers } from '../tiers/ttl.js'

/** How a value is kept. */
export interface ValueOptions<T = unknown> {
  /** How long the value is fresh, 15 days at most: a duration, the name of a tier, or a function of the value that says either; 0: not stored. @default the plugin's ttl */
  ttl?: Duration | ((value: T) => Duration | Promise<Duration>) | undefined
  /** For how long after that it is given while it is made anew in the background. @default the plugin's */
  staleWhileRevalidate?: Duration | undefined
  /** For how long after that it is given where the factory fails or takes too long. @default the plugin's */
  staleIfError?: Duration | undefined
  /** By which part of it, at random, the ttl is shorter, so that what was stored at once does not expire at once: 0 to 1. @default the plugin's */
  jitter?: number | undefined
  /** At most 1,000, by which the value can be invalidated, or a function of the value that says them. */
  tags?: readonly Tag[] | ((value: T) => readonly Tag[] | Promise<readonly Tag[]>) | undefined
  /** For how long `null` and `undefined`, as for what was not found, are kept; 0: not at all. `set` keeps `null` all the same. @default 0 */
  negativeTtl?: Duration | undefined
}

/** How a value is made. */
export interface GetOrSetOptions<T = unknown> extends ValueOptions<T> {
  /** After this a stale value that `staleIfError` allows is given, and the factory goes on in the background. @default none */
  softTimeout?: Duration | undefined
  /** After this the factory is given up: its signal is aborted, and the caller gets what `staleIfError` allows, or an error. @default none */
  hardTimeout?: Duration | undefined
  /** A value that is asked for in this last part of its ttl is made anew in the background, so that what is asked for often never expires: 0 to 1. @default 0 */
  refreshAhead?: number | undefined
  /** Ends the waiting of this caller; the factory is aborted too where nobody else waits for it. */
  signal?: AbortSignal | undefined
}

export interface WriteThroughOptions<T = unknown> extends ValueOptions<T> {
  /** Tags that are invalidated once the source is written, such as those of pages that show it. */
  invalidates?: readonly Tag[] | undefined
  /** After this the writer is given up: its signal is aborted, and as nobody knows what the source holds, the value is removed. @default none */
  hardTimeout?: Duration | undefined
}

/** Defaults of values. */
export type ValueDefaults = Omit<GetOrSetOptions, 'tags' | 'signal' | 'ttl'> & { ttl?: Duration | undefined }

/** Complete and checked. Times are milliseconds. */
export interface ValuePlan {
  /** Of a value; 0: it is not stored. */
  ttlOf: (value: unknown) => number | Promise<number>
  staleWhileRevalidate: number
  staleIfError: number
  jitter: number
  negativeTtl: number
  softTimeout: number
  hardTimeout: number
  refreshAhead: number
}

export interface TaggedPlan extends ValuePlan {
  /** Those that are known before there is a value. */
  tags: readonly string[]
  tagsOf: ((value: unknown) => readonly string[] | Promise<readonly string[]>) | undefined
}

const DEFAULTS = ['ttl', 'staleWhileRevalidate', 'staleIfError', 'jitter', 'negativeTtl', 'softTimeout', 'hardTimeout', 'refreshAhead']
const OPTIONS = [...DEFAULTS, 'tags', 'signal', 'invalidates']

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveDefaults (given: ValueDefaults, fallback: ValuePlan, tiers: Tiers): ValuePlan {
  const read = readOptions('cache', given)
  read.onlyKnown(DEFAULTS)
  return resolvePlan(given, fallback, tiers, read)
}

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveValueOptions (given: GetOrSetOptions<never> & WriteThroughOptions<never>, fallback: ValuePlan, tiers: Tiers): TaggedPlan {
  const read = readOptions('cache', given)
  read.onlyKnown(OPTIONS)
  const { tags = [], signal } = given
  if (signal !== undefined && !(signal instanceof AbortSignal)) read.fail('signal', 'an AbortSignal')
  return {
    ...resolvePlan(given, fallback, tiers, read),
    tags: typeof tags === 'function' ? [] : checkEntryTags(tags),
    tagsOf: typeof tags === 'function' ? value => whenReady(tags(value as never), given => checkEntryTags(given)) : undefined
  }
}

function resolvePlan (given: GetOrSetOptions<never>, fallback: ValuePlan, tiers: Tiers, read: OptionReader): ValuePlan {
  const life = { max: MAX_LIFE_MS / 2 }
  // No time-out is one that never comes.
  const timeout = (name: 'softTimeout' | 'hardTimeout') => given[name] === undefined ? fallback[name] : read.duration(name, 0, { min: 1, max: MAX_TIMER_MS })
  return {
    ttlOf: resolveTtlOf(given.ttl, fallback, tiers, read),
    staleWhileRevalidate: read.duration('staleWhileRevalidate', fallback.staleWhileRevalidate, life),
    staleIfError: read.duration('staleIfError', fallback.staleIfError, life),
    jitter: read.fraction('jitter', fallback.jitter),
    negativeTtl: read.duration('negativeTtl', fallback.negativeTtl, life),
    softTimeout: timeout('softTimeout'),
    hardTimeout: timeout('hardTimeout'),
    refreshAhead: read.fraction('refreshAhead', fallback.refreshAhead)
  }
}

function resolveTtlOf (ttl: GetOrSetOptions<never>['ttl'], fallback: ValuePlan, tiers: Tiers, read: OptionReader): ValuePlan['ttlOf'] {
  if (ttl === undefined) return fallback.ttlOf
  if (typeof ttl !== 'function') {
    const fixed = resolveTtl(ttl, tiers, read)
    return () => fixed
  }
  return value => whenReady<unknown, number>(ttl(value as never), result => {
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
