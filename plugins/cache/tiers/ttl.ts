import { parseDuration, type Duration } from '../../shared/plugin/duration.js'
import { invalidOptionError } from '../../shared/plugin/errors.js'
import { MAX_LIFE_MS } from '../store/store.js'

/** Milliseconds by name. */
export type Tiers = ReadonlyMap<string, number>

/** @returns undefined for what does not have durations by names that are no durations themselves */
export function parseTiers (tiers: unknown): Tiers | undefined {
  if (typeof tiers !== 'object' || tiers === null) return undefined
  const parsed = Object.entries(tiers).map(([name, duration]) => [name, parseDuration(duration)] as const)
  const areSound = parsed.every(([name, ms]) =>
    ms !== undefined && name !== 'headers' && parseDuration(name) === undefined)
  return areSound ? new Map(parsed as ReadonlyArray<readonly [string, number]>) : undefined
}

/** @throws `FST_REDIS_SUITE_CACHE_INVALID_OPTION` */
export function resolveTtl (ttl: Duration, tiers: Tiers, also = ''): number {
  const ms = named(ttl, tiers) ?? parseDuration(ttl)
  if (ms !== undefined && ms >= 0 && ms <= MAX_LIFE_MS / 2) return ms
  const ofTiers = tiers.size > 0
    ? `a tier: ${[...tiers.keys()].map(name => `'${name}'`).join(', ')}`
    : 'the name of a tier of the option "tiers"'
  throw invalidOptionError(
    'cache', 'ttl', ttl, `milliseconds or a string such as '30s', up to 15 days${also}; a function; ${ofTiers}`
  )
}

/** The results that a `ttl` function may return, for messages. */
export const TTL_RESULTS = "milliseconds, a string such as '30s', or the name of a tier; 0 or less means that it " +
  'is not stored, and more than 15 days count as 15 days'

/** @returns the milliseconds that a function has returned; undefined for what is no ttl */
export function returnedTtl (result: unknown, tiers: Tiers): number | undefined {
  // A time until something that is over is no mistake.
  if (typeof result === 'number' && result <= 0) return 0
  const ms = result === Infinity ? result : named(result, tiers) ?? parseDuration(result)
  return ms === undefined ? undefined : Math.min(ms, MAX_LIFE_MS / 2)
}

function named (ttl: unknown, tiers: Tiers): number | undefined {
  return typeof ttl === 'string' ? tiers.get(ttl) : undefined
}
