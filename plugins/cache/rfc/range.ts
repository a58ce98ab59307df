import type { Validators } from './conditional.js'
import { parseHttpDate } from './http-date.js'

export interface ByteRange {
  first: number
  last: number
}

/**
 * Parses a `Range` field with one byte range (RFC 9110 §14.1.2).
 *
 * @returns undefined for a field that is ignored, as it has another unit, several ranges or an invalid one;
 * `'unsatisfiable'` for a range that has no byte of the body
 */
export function parseRange (field: string, length: number): ByteRange | 'unsatisfiable' | undefined {
  const match = /^bytes=[\t ]*(\d*)-(\d*)[\t ]*$/i.exec(field)
  const [, from = '', to = ''] = match ?? []
  if (match === null || (from === '' && to === '')) return undefined
  if (from === '') {
    return Number(to) === 0 || length === 0
      ? 'unsatisfiable'
      : { first: Math.max(0, length - Number(to)), last: length - 1 }
  }
  if (to !== '' && Number(to) < Number(from)) return undefined
  return Number(from) >= length
    ? 'unsatisfiable'
    : { first: Number(from), last: to === '' ? length - 1 : Math.min(Number(to), length - 1) }
}

/**
 * Whether `If-Range` names the stored response, by strong comparison, so that a part may be sent (RFC 9110 §13.1.5).
 */
export function isRangeCurrent (ifRange: string | undefined, { etag, lastModified, date }: Validators): boolean {
  if (ifRange === undefined) return true
  if (ifRange.startsWith('"')) return ifRange === etag
  // A date is a strong validator if it is at least a second before the response (RFC 9110 §8.8.2.2).
  const modified = parseHttpDate(lastModified)
  return modified !== undefined && ifRange === lastModified && date - modified >= 1000
}
