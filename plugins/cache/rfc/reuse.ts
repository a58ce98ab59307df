import type { Milliseconds } from '../../shared/plugin/units.js'
import { secondsOf, type Directives } from './cache-control.js'

/** Until when a stored response may be used. Times are milliseconds since the epoch, by the store's clock. */
export interface Usability {
  /** When the response was generated, by its initial age (RFC 9111 §4.2.3). */
  generatedAt: number
  /** When the response becomes stale. A response that is stale from the start has to be validated for each use. */
  staleAt: number
  /** Until when the stale response is served while it is revalidated in the background (RFC 5861 §3). */
  revalidateUntil: number
  /** Until when the stale response is served in place of an error (RFC 5861 §4). */
  serveOnErrorUntil: number
  /** `must-revalidate`, `proxy-revalidate` or `s-maxage`: the response is never served stale (RFC 9111 §5.2.2.2). */
  mustRevalidate: boolean
  /** `no-cache`: the response is never served without validation (RFC 9111 §5.2.2.4). */
  noCache: boolean
}

/**
 * - `use`: the response is served
 * - `refresh`: the response is served, and revalidated in the background
 * - `validate`: the handler is asked, which may confirm the response by 304
 */
export type Reuse = 'use' | 'refresh' | 'validate'

/**
 * Decides whether a stored response may be used for a request.
 *
 * @param request - the directives of the request that are obeyed
 * @see RFC 9111 §4.2, §4.2.4 and §5.2.1
 */
export function reuseOf (stored: Usability, now: number, request: Directives | undefined): Reuse {
  const { generatedAt, staleAt, revalidateUntil, mustRevalidate, noCache } = stored
  // RFC 9111 §5.2.2.4, §5.2.1.4
  if (noCache || request?.has('no-cache')) return 'validate'
  // RFC 9111 §5.2.1.1
  const maxAge = request && limit(request, 'max-age')
  if (maxAge !== undefined && now - generatedAt > maxAge) return 'validate'
  // RFC 9111 §5.2.1.3
  const minFresh = request && limit(request, 'min-fresh')
  if (minFresh !== undefined && staleAt - now < minFresh) return 'validate'
  if (now < staleAt) return 'use'
  // RFC 9111 §5.2.2.2
  if (mustRevalidate) return 'validate'
  // RFC 5861 §3
  if (now < revalidateUntil) return 'refresh'
  // RFC 9111 §5.2.1.2
  return now - staleAt < toleratedStaleness(request) ? 'use' : 'validate'
}

/** Whether a stored response may be served in place of an error (RFC 5861 §4). */
export function isUsableOnError (
  { staleAt, serveOnErrorUntil, mustRevalidate, noCache }: Usability, now: number
): boolean {
  if (noCache) return false
  return now < staleAt || (!mustRevalidate && now < serveOnErrorUntil)
}

/** Returns the limit that a directive of the request sets. An invalid value allows no stored response. */
function limit (directives: Directives, name: 'max-age' | 'min-fresh'): Milliseconds | undefined {
  const seconds = secondsOf(directives, name)
  if (seconds === undefined) return undefined
  return seconds === 'invalid' ? (name === 'max-age' ? 0 : Infinity) : seconds * 1000
}

/**
 * Returns how stale a response the request accepts: without limit for `max-stale` without a value (RFC 9111 §5.2.1.2).
 */
function toleratedStaleness (directives: Directives | undefined): Milliseconds {
  if (directives?.get('max-stale') === true) return Infinity
  const seconds = directives && secondsOf(directives, 'max-stale')
  return seconds === undefined || seconds === 'invalid' ? 0 : seconds * 1000
}
