import type { Usability } from '../rfc/reuse.js'
import { isHeaders, type Headers } from '../rfc/stored-headers.js'
import { type Entry, isRecord, isTexts } from '../store/entry.js'

/** The metadata of a stored response. */
export interface ResponseMeta extends Usability {
  status: number
  headers: Headers
  /** The request headers that selected the response, normalized (RFC 9111 §4.1). */
  vary: Record<string, string>
  /**
   * Names that the handler and hooks looked for in the request and did not find. A request that carries one gets
   * another response.
   */
  absent?: string[]
}

export type StoredResponse = Entry<ResponseMeta>

/** Whether an entry is a response that can be sent. */
export function isResponse (entry: Entry | undefined): entry is StoredResponse {
  if (entry?.kind !== 'response' || !isRecord(entry.meta)) return false
  const { status, headers, vary, absent, mustRevalidate, noCache } = entry.meta
  const { generatedAt, staleAt, revalidateUntil, serveOnErrorUntil } = entry.meta
  return isStorableStatus(status) && isHeaders(headers) && isRecord(vary) &&
    (absent === undefined || isTexts(absent)) &&
    Number.isFinite(generatedAt) && Number.isFinite(staleAt) && Number.isFinite(revalidateUntil) &&
    Number.isFinite(serveOnErrorUntil) && typeof mustRevalidate === 'boolean' && typeof noCache === 'boolean'
}

const checkedInL1 = new WeakSet<Entry>()

/** As {@link isResponse}, for an entry of L1, which is the same object each time: it is checked once. */
export function isResponseOfL1 (entry: Entry | undefined): entry is StoredResponse {
  if (entry === undefined || checkedInL1.has(entry)) return entry !== undefined
  const isValid = isResponse(entry)
  if (isValid) checkedInL1.add(entry)
  return isValid
}

/** Whether a response with the status can be stored: it is complete and final, and confirms no other response. */
export function isStorableStatus (status: unknown): boolean {
  return Number.isInteger(status) && Number(status) >= 200 && Number(status) <= 599 && status !== 206 && status !== 304
}

/**
 * Returns the time at which a stored response is judged. The clock of the instance that stored it may have been ahead:
 * its age never decreases, and a response that is stale from the start is never taken for a fresh one.
 *
 * @param now - by the store's clock
 */
export function timeFor ({ storedAt }: StoredResponse, now: number): number {
  return Math.max(now, storedAt)
}
