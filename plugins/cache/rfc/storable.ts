import { STATUS_CODES } from 'node:http'
import { fieldsOf, parseCacheControl, parseTargeted, type Directives } from './cache-control.js'
import { isHeuristicallyCacheable } from './freshness.js'

/** The facts that decide whether a response may be stored. */
export interface StorableInput {
  method: string
  status: number
  directives: Directives
  /** Whether the route has its own `ttl`, which takes precedence over the freshness of the response. */
  hasTtl: boolean
  /** The status codes that a route with a `ttl` stores. */
  statuses: ReadonlySet<number>
  hasAuthorization: boolean
  /** Whether a user is logged in, which counts like `Authorization`. */
  hasUser: boolean
  /** Whether the response is stored for its owner alone. */
  hasOwner: boolean
  hasSetCookie: boolean
  storesSetCookie: boolean
  hasSession: boolean
  variesByEverything: boolean
}

/**
 * Returns the directives that this cache obeys: those of the first valid targeted field, else `Cache-Control` (RFC 9213
 * §2.2).
 */
export function effectiveDirectives (
  cacheControl: string | undefined, targeted: ReadonlyArray<string | undefined>
): { directives: Directives | undefined, isTargeted: boolean } {
  for (const field of targeted) {
    const directives = parseTargeted(field)
    if (directives !== undefined) return { directives, isTargeted: true }
  }
  return { directives: parseCacheControl(cacheControl), isTargeted: false }
}

/**
 * Returns why a shared cache may not store a response, in a word or two; undefined where it may.
 *
 * @see RFC 9111 §3
 */
export function whyNotStorable (input: StorableInput): string | undefined {
  const { method, status, directives, hasTtl, hasOwner, hasAuthorization, hasUser } = input
  if (method !== 'GET') return 'method'
  if (status < 200 || status === 206 || status === 304) return 'status'
  if (hasTtl && !input.statuses.has(status)) return 'status'
  if (input.variesByEverything) return 'vary'
  if (input.hasSetCookie && !input.storesSetCookie) return 'set-cookie'
  if (input.hasSession && !hasOwner) return 'session'
  const forbidden = forbiddenBy(directives, status, hasOwner)
  if (forbidden !== undefined) return forbidden
  // RFC 9111 §3.5
  if (hasOwner || ['must-revalidate', 'public', 's-maxage'].some(name => directives.has(name))) return undefined
  return hasAuthorization ? 'authorization' : hasUser ? 'user' : undefined
}

function forbiddenBy (directives: Directives, status: number, hasOwner: boolean): string | undefined {
  if (directives.has('must-understand')) {
    // A cache that understands the status ignores the `no-store` for caches that do not (RFC 9111 §5.2.2.3).
    if (STATUS_CODES[status] === undefined) return 'must-understand'
  } else if (directives.has('no-store')) {
    return 'no-store'
  }
  // RFC 9111 §5.2.2.7
  return directives.get('private') === true && !hasOwner ? 'private' : undefined
}

/** Whether a response without explicit freshness may be stored (RFC 9111 §3). */
export function isStorableWithoutFreshness (directives: Directives, status: number): boolean {
  return directives.has('public') || isHeuristicallyCacheable(status)
}

/**
 * Returns the fields that the qualified forms of `private` and `no-cache` exclude from the stored response (RFC 9111
 * §5.2.2.4, §5.2.2.7).
 */
export function excludedFields (directives: Directives): string[] {
  return [...fieldsOf(directives, 'private') ?? [], ...fieldsOf(directives, 'no-cache') ?? []]
}
