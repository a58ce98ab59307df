import { joined, type Headers } from '../../rfc/stored-headers.js'

const FIELDS = ['content-security-policy', 'content-security-policy-report-only']
const NONCE = /'nonce-([^']+)'/g

/**
 * Whether a response holds a nonce of its own (CSP Level 3 §2.3.1), which is worthless, or harmful, in another response: one in a header that is
 * to be stored, or in the body one that a header of this response alone names.
 *
 * @param headers - of the response
 * @param stored - those of them that are to be stored
 * @param body - undefined while it is not known
 */
export function hasNonce (headers: Record<string, unknown>, stored: Headers, body: Buffer | undefined): boolean {
  const nonces = noncesOf(headers)
  if (nonces.length === 0) return false
  if (noncesOf(stored).length > 0) return true
  // An encoded body cannot be searched.
  return body !== undefined && (headers['content-encoding'] !== undefined || nonces.some(nonce => body.includes(nonce)))
}

function noncesOf (headers: Record<string, unknown>): string[] {
  return FIELDS.flatMap(name => [...(joined(headers[name]) ?? '').matchAll(NONCE)].map(([, nonce = '']) => nonce))
}
