import type { Validators } from './conditional.js'
import { parseHttpDate } from './http-date.js'

export interface ByteRange {
  first: number
  last: number
}

/**
 * The one range that is asked for (RFC 9110 §14.1.2).
 *
 * @returns undefined where the field is to be ignored: another unit, not readable, several ranges; `'unsatisfiable'`
 * where there is nothing in it
 */
export function parseRange (field: string, length: number): ByteRange | 'unsatisfiable' | undefined {
  const match = /^bytes=[\t ]*(\d*)-(\d*)[\t ]*$/i.exec(field)
  const [, from = '', to = ''] = match ?? []
  if (match === null || (from === '' && to === '')) return undefined
  if (from === '') return Number(to) === 0 || length === 0 ? 'unsatisfiable' : { first: Math.max(0, length - Number(to)), last: length - 1 }
  if (to !== '' && Number(to) < Number(from)) return undefined
  return Number(from) >= length ? 'unsatisfiable' : { first: Number(from), last: to === '' ? length - 1 : Math.min(Number(to), length - 1) }
}

/** Whether a part may be sent: what `If-Range` names is what is stored, by strong comparison (RFC 9110 §13.1.5). */
export function isRangeCurrent (ifRange: string | undefined, { etag, lastModified, date }: Validators): boolean {
  if (ifRange === undefined) return true
  if (ifRange.startsWith('"')) return ifRange === etag
  // A date is a strong validator where it lies a second before the answer (RFC 9110 §8.8.2.2).
  const modified = parseHttpDate(lastModified)
  return modified !== undefined && ifRange === lastModified && date - modified >= 1000
}
