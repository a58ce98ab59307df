import { serializeItem, Token } from 'structured-headers'

/** What became of a request, for `X-Cache`. */
export type Outcome = 'HIT' | 'MISS' | 'STALE' | 'BYPASS' | 'REVALIDATED'

/** What `Cache-Status` tells (RFC 9211). */
export interface CacheStatus {
  outcome: Outcome
  /** Why the handler was asked (RFC 9211 §2.2); undefined where it was not. */
  fwd: 'bypass' | 'method' | 'uri-miss' | 'vary-miss' | 'miss' | 'request' | 'stale' | undefined
  /** What the handler answered, where the client was told something else. */
  fwdStatus: number | undefined
  /** Seconds for which it is fresh still. */
  ttl: number | undefined
  stored: boolean
  /** Whether it waited for another request's answer. */
  collapsed: boolean
}

/** Makes the field's value. @param name - of this cache */
export function createCacheStatus (name: string): (status: CacheStatus, detail?: string) => string {
  const item = /^[A-Za-z*][\w!#$%&'*+.^`|~:/-]*$/.test(name) ? serializeItem([new Token(name), new Map()]) : serializeItem([name, new Map()])
  return ({ fwd, fwdStatus, ttl, stored, collapsed }, detail) => {
    let value = fwd === undefined ? `${item};hit` : `${item};fwd=${fwd}`
    if (fwdStatus !== undefined) value += `;fwd-status=${fwdStatus}`
    if (ttl !== undefined) value += `;ttl=${ttl}`
    if (stored) value += ';stored'
    if (collapsed) value += ';collapsed'
    if (detail !== undefined) value += `;detail=${serializeItem([detail.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 200), new Map()])}`
    return value
  }
}
