import { secondsOf, type Directives } from './cache-control.js'

/** How long what is stored may be used, in milliseconds. */
export interface Usability {
  /** Since it was generated. */
  age: number
  /** For how long it is fresh still; below 0 it is stale. */
  freshFor: number
  /** For how long after that it may be used while it is made anew, and where it cannot be made: RFC 5861. */
  staleWhileRevalidate: number
  staleIfError: number
  /** `must-revalidate`, `proxy-revalidate`, `s-maxage`: never used stale (RFC 9111 §5.2.2.2). */
  strict: boolean
  /** `no-cache`: never used without being validated. */
  validateAlways: boolean
}

/**
 * - `use`: answer with it
 * - `refresh`: answer with it, and make it anew in the background
 * - `validate`: ask the handler, which may say that it is still right
 */
export type Reuse = 'use' | 'refresh' | 'validate'

/** RFC 9111 §4.2 and §4.2.4: whether what is stored may be used for a request. */
export function reuseOf (stored: Usability, request: Directives | undefined): Reuse {
  if (stored.validateAlways || request?.has('no-cache')) return 'validate'
  const maxAge = request && limit(request, 'max-age')
  if (maxAge !== undefined && stored.age > maxAge) return 'validate'
  const minFresh = request && limit(request, 'min-fresh')
  if (minFresh !== undefined && stored.freshFor < minFresh) return 'validate'
  if (stored.freshFor > 0) return 'use'
  if (stored.strict) return 'validate'
  if (-stored.freshFor < stored.staleWhileRevalidate) return 'refresh'
  return -stored.freshFor < toleratedStaleness(request) ? 'use' : 'validate'
}

/** Whether it may be used in place of an error: RFC 5861 §4. */
export function isUsableOnError ({ freshFor, staleIfError, strict, validateAlways }: Usability): boolean {
  return freshFor > 0 ? !validateAlways : !strict && !validateAlways && -freshFor < staleIfError
}

/** Milliseconds; a directive that cannot be read asks for nothing that is stored. */
function limit (directives: Directives, name: string): number | undefined {
  const seconds = secondsOf(directives, name)
  if (seconds === undefined) return undefined
  return seconds === 'invalid' ? (name === 'max-age' ? 0 : Infinity) : seconds * 1000
}

/** `max-stale`, which without a value is without an end (RFC 9111 §5.2.1.2). */
function toleratedStaleness (directives: Directives | undefined): number {
  if (directives?.get('max-stale') === true) return Infinity
  const seconds = directives && secondsOf(directives, 'max-stale')
  return seconds === undefined || seconds === 'invalid' ? 0 : seconds * 1000
}
