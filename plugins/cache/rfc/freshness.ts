import type { Milliseconds } from '../../shared/plugin/units.js'
import { MAX_SECONDS, secondsOf, type Directives } from './cache-control.js'
import { parseHttpDate } from './http-date.js'

/** The parts of a response that determine its freshness. Times are milliseconds since the epoch. */
export interface FreshnessInput {
  directives: Directives
  expires: string | undefined
  date: string | undefined
  age: string | undefined
  lastModified: string | undefined
  status: number
  /** When the handler was called, and when its response came. */
  requestedAt: number
  respondedAt: number
}

/**
 * Returns how long a response is fresh in a shared cache from when it was generated.
 *
 * @returns undefined for a response without explicit freshness; 0 where its value is invalid
 * @see RFC 9111 §4.2.1
 */
export function explicitLifetime (
  { directives, expires, date, respondedAt }: FreshnessInput
): Milliseconds | undefined {
  for (const name of ['s-maxage', 'max-age']) {
    const seconds = secondsOf(directives, name)
    if (seconds !== undefined) return seconds === 'invalid' ? 0 : seconds * 1000
  }
  if (expires === undefined) return undefined
  const end = parseHttpDate(expires)
  return end === undefined ? 0 : Math.max(0, end - (parseHttpDate(date) ?? respondedAt))
}

/** Status codes that may be stored without explicit freshness (RFC 9110 §15.1). */
const HEURISTICALLY_CACHEABLE = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])

export function isHeuristicallyCacheable (status: number): boolean {
  return HEURISTICALLY_CACHEABLE.has(status)
}

/**
 * Returns a heuristic lifetime: a fraction of the time since the last modification.
 *
 * @param fraction - RFC 9111 suggests 0.1
 * @see RFC 9111 §4.2.2
 */
export function heuristicLifetime (input: FreshnessInput, fraction: number): Milliseconds | undefined {
  const { directives, date, lastModified, status, respondedAt } = input
  if (!isHeuristicallyCacheable(status) && !directives.has('public')) return undefined
  const modified = parseHttpDate(lastModified)
  return modified === undefined ? undefined : Math.max(0, ((parseHttpDate(date) ?? respondedAt) - modified) * fraction)
}

/** Returns the age of a response when it came (RFC 9111 §4.2.3). */
export function initialAge ({ date, age, requestedAt, respondedAt }: FreshnessInput): Milliseconds {
  const sent = parseHttpDate(date)
  const apparent = sent === undefined ? 0 : Math.max(0, respondedAt - sent)
  // `Date` has whole seconds, so that less than one second is no age.
  const apparentAge = apparent < 1000 ? 0 : apparent
  // The first member of a list counts, and a value that is no number is ignored (RFC 9111 §5.1).
  const [, seconds] = /^\s*(\d+)\s*(?:,|$)/.exec(age ?? '') ?? []
  return seconds === undefined
    ? apparentAge
    : Math.max(apparentAge, Math.min(Number(seconds), MAX_SECONDS) * 1000 + (respondedAt - requestedAt))
}
