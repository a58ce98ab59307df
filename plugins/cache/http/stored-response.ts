import type { Usability } from '../rfc/reuse.js'
import { isHeaders, type Headers } from '../rfc/stored-headers.js'
import { type Entry, isRecord, isTexts } from '../store/entry.js'

/** Of an answer. Times are milliseconds, from `storedAt`. */
export interface ResponseMeta {
  status: number
  headers: Headers
  /** The request headers that selected it, normalised. */
  vary: Record<string, string>
  /** Names that its handler and hooks read from the request and did not find. A request that carries one of them gets another response. */
  absent?: string[]
  /** How old it was then. */
  age: number
  /** For how long it is fresh; 0 or less where it has to be validated. */
  fresh: number
  staleWhileRevalidate: number
  staleIfError: number
  strict: boolean
  validateAlways: boolean
}

export type StoredResponse = Entry<ResponseMeta>

const responses = new WeakSet<Entry>()

/** Looked at once: what is in the first tier is given many times. */
export function isResponse (entry: Entry | undefined): entry is StoredResponse {
  if (entry === undefined || responses.has(entry)) return entry !== undefined
  const isSound = isSoundResponse(entry)
  if (isSound) responses.add(entry)
  return isSound
}

function isSoundResponse (entry: Entry): boolean {
  if (entry.kind !== 'response' || !isRecord(entry.meta)) return false
  const { status, headers, vary, absent, age, fresh, staleWhileRevalidate, staleIfError, strict, validateAlways } = entry.meta
  return isStorableStatus(status) && isHeaders(headers) && isRecord(vary) && (absent === undefined || isTexts(absent)) &&
    [age, fresh, staleWhileRevalidate, staleIfError].every(Number.isFinite) && typeof strict === 'boolean' && typeof validateAlways === 'boolean'
}

/** Whether an answer with it can be stored at all: it is whole, and no confirmation of another one. */
export function isStorableStatus (status: unknown): boolean {
  return Number.isInteger(status) && Number(status) >= 200 && Number(status) <= 599 && status !== 206 && status !== 304
}

/** @param now - by the store's clock */
export function usabilityOf ({ storedAt, meta }: StoredResponse, now: number): Usability {
  const elapsed = Math.max(0, now - storedAt)
  const { age, fresh, staleWhileRevalidate, staleIfError, strict, validateAlways } = meta
  return { age: age + elapsed, freshFor: fresh - elapsed, staleWhileRevalidate, staleIfError, strict, validateAlways }
}
