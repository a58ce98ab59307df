import { LARGEST_SECONDS, secondsOf, type Directives } from './cache-control.js'
import { parseHttpDate } from './http-date.js'

/** Of an answer, what its freshness is reckoned from. Times are milliseconds since the epoch. */
export interface FreshnessInput {
  directives: Directives
  expires: string | undefined
  date: string | undefined
  age: string | undefined
  lastModified: string | undefined
  status: number
  /** When the request was sent to the handler, and when its answer came. */
  requestedAt: number
  respondedAt: number
}

/**
 * For how many milliseconds from being generated an answer is fresh in a shared cache: RFC 9111 §4.2.1.
 *
 * @returns undefined where it does not say; 0 where what it says cannot be read
 */
export function explicitLifetime ({ directives, expires, date, respondedAt }: FreshnessInput): number | undefined {
  for (const name of ['s-maxage', 'max-age']) {
    const seconds = secondsOf(directives, name)
    if (seconds !== undefined) return seconds === 'invalid' ? 0 : seconds * 1000
  }
  if (expires === undefined) return undefined
  const end = parseHttpDate(expires)
  return end === undefined ? 0 : Math.max(0, end - (parseHttpDate(date) ?? respondedAt))
}

// RFC 9110 §15.1: status codes that may be stored without being told so.
const HEURISTICALLY_CACHEABLE = new Set([200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501])

export function isHeuristicallyCacheable (status: number): boolean {
  return HEURISTICALLY_CACHEABLE.has(status)
}

/**
 * A guess (RFC 9111 §4.2.2): a part of the time for which it has not changed.
 *
 * @param fraction - RFC 9111 suggests 0.1
 */
export function heuristicLifetime (input: FreshnessInput, fraction: number): number | undefined {
  const { directives, date, lastModified, status, respondedAt } = input
  if (!isHeuristicallyCacheable(status) && !directives.has('public')) return undefined
  const modified = parseHttpDate(lastModified)
  return modified === undefined ? undefined : Math.max(0, ((parseHttpDate(date) ?? respondedAt) - modified) * fraction)
}

/** How old, in milliseconds, an answer already was when it came: RFC 9111 §4.2.3. */
export function initialAge ({ date, age, requestedAt, respondedAt }: FreshnessInput): number {
  const sent = parseHttpDate(date)
  const apparent = sent === undefined ? 0 : Math.max(0, respondedAt - sent)
  // `Date` has whole seconds: less than one is no age.
  const apparentAge = apparent < 1000 ? 0 : apparent
  // Of a list the first member counts, and what is no number does not (RFC 9111 §5.1).
  const [, seconds] = /^\s*(\d+)\s*(?:,|$)/.exec(age ?? '') ?? []
  return seconds === undefined ? apparentAge : Math.max(apparentAge, Math.min(Number(seconds), LARGEST_SECONDS) * 1000 + (respondedAt - requestedAt))
}
