import { STATUS_CODES } from 'node:http'
import { fieldsOf, parseCacheControl, parseTargeted, type Directives } from './cache-control.js'
import { isHeuristicallyCacheable } from './freshness.js'

/** What decides on whether an answer may be stored. */
export interface StorableInput {
  method: string
  status: number
  directives: Directives
  /** Whose words count above the answer's: the route has a ttl of its own. */
  hasTtl: boolean
  /** The status codes that such a route stores. */
  statuses: ReadonlySet<number>
  hasAuthorization: boolean
  /** Whether somebody is logged in, which counts like `Authorization`. */
  hasUser: boolean
  /** Whether it is kept for one user alone. */
  hasOwner: boolean
  hasSetCookie: boolean
  storesSetCookie: boolean
  hasSession: boolean
  variesByEverything: boolean
}

/** The directives that count for this cache: the first targeted field that is valid, else `Cache-Control` (RFC 9213 §2.2). */
export function effectiveDirectives (cacheControl: string | undefined, targeted: ReadonlyArray<string | undefined>): { directives: Directives | undefined, isTargeted: boolean } {
  for (const field of targeted) {
    const directives = parseTargeted(field)
    if (directives !== undefined) return { directives, isTargeted: true }
  }
  return { directives: parseCacheControl(cacheControl), isTargeted: false }
}

/**
 * RFC 9111 §3, for a shared cache.
 *
 * @returns why the answer may not be stored, in a word or two; undefined where it may
 */
export function whyNotStorable (input: StorableInput): string | undefined {
  const { method, status, directives, hasTtl, hasOwner } = input
  if (method !== 'GET') return 'method'
  if (status < 200 || status === 206 || status === 304) return 'status'
  if (hasTtl && !input.statuses.has(status)) return 'status'
  if (input.variesByEverything) return 'vary'
  if (input.hasSetCookie && !input.storesSetCookie) return 'set-cookie'
  if (input.hasSession && !hasOwner) return 'session'
  const forbidden = forbiddenBy(directives, status, hasOwner)
  if (forbidden !== undefined) return forbidden
  if (!(input.hasAuthorization || input.hasUser) || hasOwner || ['must-revalidate', 'public', 's-maxage'].some(name => directives.has(name))) return undefined
  return input.hasAuthorization ? 'authorization' : 'user'
}

function forbiddenBy (directives: Directives, status: number, hasOwner: boolean): string | undefined {
  const understood = STATUS_CODES[status] !== undefined
  if (directives.has('must-understand')) {
    // Who understands the status need not heed the no-store that stands for those who do not (RFC 9111 §5.2.2.3).
    if (!understood) return 'must-understand'
  } else if (directives.has('no-store')) {
    return 'no-store'
  }
  return directives.get('private') === true && !hasOwner ? 'private' : undefined
}

/** Whether an answer that says nothing of its freshness may be kept for a while at all (RFC 9111 §3). */
export function mayBeKeptUnasked (directives: Directives, status: number): boolean {
  return directives.has('public') || isHeuristicallyCacheable(status)
}

/** Fields that the qualified forms of `private` and `no-cache` keep out of the cache. */
export function excludedFields (directives: Directives): string[] {
  return [...fieldsOf(directives, 'private') ?? [], ...fieldsOf(directives, 'no-cache') ?? []]
}
