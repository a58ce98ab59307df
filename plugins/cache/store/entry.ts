import { ownBytes } from '../../shared/plugin/bytes.js'
import type { EncodedCopies } from '../http/body/content-codings.js'
import { isHeaders, type Headers } from '../rfc/stored-headers.js'
import type { Usability } from '../rfc/reuse.js'

/** What is kept under one key. */
export interface Entry<M = unknown> {
  /**
   * - `response`: an answer
   * - `variants`: answers of this key differ by request headers, and lie under keys of their own
   * - `value`: what a function returned
   */
  kind: 'response' | 'variants' | 'value'
  /** The key in words, by which patterns find it. */
  label: string
  meta: M
  body: Buffer
  /** Copies of the body of a response that a hook has encoded for a client. */
  encoded?: EncodedCopies | undefined
  /** When it began to be made, by the store's clock: milliseconds since the epoch. */
  storedAt: number
  /** For how many milliseconds it is kept. */
  life: number
  /** The version that each of its tags had then. */
  tags: Record<string, string>
}

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

/** Of a key with variants. */
export interface VariantsMeta {
  /** The request headers, in lower case and in order. */
  names: string[]
  /** Their keys are made of it, so that they are gone with it. */
  nonce: string
  /** The key's generation in which they were first told apart. */
  origin: string
  /** Ids of the stored variants, the least recently used first. */
  ids: string[]
}

/** Of a value: for how long it is fresh, from `storedAt`, and may be used after that. */
export interface ValueMeta {
  fresh: number
  staleWhileRevalidate: number
  staleIfError: number
  /** The serializer's name. */
  format: string
  /** Whether it is `undefined`, which not every serializer can tell. */
  isAbsent?: boolean
}

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

export function isVariants (entry: Entry | undefined): entry is Entry<VariantsMeta> {
  if (entry?.kind !== 'variants' || !isRecord(entry.meta)) return false
  const { names, nonce, origin, ids } = entry.meta
  return isTexts(names) && typeof nonce === 'string' && typeof origin === 'string' && isTexts(ids)
}

export function isValue (entry: Entry | undefined): entry is Entry<ValueMeta> {
  if (entry?.kind !== 'value' || !isRecord(entry.meta)) return false
  const { fresh, staleWhileRevalidate, staleIfError, format } = entry.meta
  return [fresh, staleWhileRevalidate, staleIfError].every(Number.isFinite) && typeof format === 'string'
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

export function isRecord (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !Object.hasOwn(value, '__proto__')
}

// What an entry takes beside its contents, roughly.
const OVERHEAD_BYTES = 1024

/** What an entry takes in this process, roughly: who asks chooses how long its key is, which is there twice. */
export function bytesOf (entry: Entry | undefined): number {
  if (entry === undefined) return OVERHEAD_BYTES
  let bytes = OVERHEAD_BYTES + entry.body.length + 2 * entry.label.length
  for (const coding in entry.encoded) bytes += entry.encoded[coding]?.length ?? 0
  if (isVariants(entry)) return bytes + 64 * entry.meta.ids.length
  if (!isResponse(entry)) return bytes
  for (const fields of [entry.meta.headers, entry.meta.vary]) for (const name in fields) bytes += name.length + (fields[name]?.length ?? 0)
  return bytes
}

/** The same entry with bytes of its own, see {@link ownBytes}. */
export function ownEntry (entry: Entry): Entry {
  const body = ownBytes(entry.body)
  const encoded = entry.encoded && Object.fromEntries(Object.entries(entry.encoded).map(([coding, copy]) => [coding, ownBytes(copy)]))
  return body === entry.body && encoded === undefined ? entry : { ...entry, body, encoded }
}

export function isTexts (value: unknown): value is string[] {
  return Array.isArray(value) && value.every(text => typeof text === 'string')
}
