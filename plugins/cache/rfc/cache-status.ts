import { serializeItem, Token } from 'structured-headers'
import type { Seconds } from '../../shared/plugin/units.js'

/** The value of `X-Cache`. */
type Outcome = 'HIT' | 'MISS' | 'STALE' | 'BYPASS' | 'REVALIDATED'

/** The parameters of `Cache-Status` (RFC 9211 §2), and `X-Cache`. */
export interface CacheStatus {
  outcome: Outcome
  /** Why the request went to the handler (RFC 9211 §2.2); undefined for a hit. */
  fwd: 'bypass' | 'method' | 'uri-miss' | 'vary-miss' | 'miss' | 'request' | 'stale' | undefined
  /** The status of the handler's response, where the client gets another one. */
  fwdStatus: number | undefined
  /** How long the response stays fresh; below 0 it is stale. */
  ttl: Seconds | undefined
  stored: boolean
  /** Whether the request waited for the response to another one. */
  collapsed: boolean
}

/**
 * Returns a function that serializes the field's member for this cache.
 *
 * @param name - of the cache: a token or a string (RFC 9211 §2)
 */
export function createCacheStatus (name: string): (status: CacheStatus, detail?: string) => string {
  const isToken = /^[A-Za-z*][\w!#$%&'*+.^`|~:/-]*$/.test(name)
  const item = serializeItem([isToken ? new Token(name) : name, new Map()])
  return ({ fwd, fwdStatus, ttl, stored, collapsed }, detail) => {
    let value = fwd === undefined ? `${item};hit` : `${item};fwd=${fwd}`
    if (fwdStatus !== undefined) value += `;fwd-status=${fwdStatus}`
    if (ttl !== undefined) value += `;ttl=${ttl}`
    if (stored) value += ';stored'
    if (collapsed) value += ';collapsed'
    if (detail !== undefined) {
      value += `;detail=${serializeItem([detail.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, 200), new Map()])}`
    }
    return value
  }
}
