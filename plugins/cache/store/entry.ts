import { ownBytes } from '../../shared/plugin/bytes.js'

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
  /** When its fill began, by the store's clock: milliseconds since the epoch. */
  storedAt: number
  /** When it expires in both tiers, by the store's clock: milliseconds since the epoch. */
  deleteAt: number
  /** The version that each of its tags had then. */
  tags: Record<string, string>
}

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

export function isVariants (entry: Entry | undefined): entry is Entry<VariantsMeta> {
  if (entry?.kind !== 'variants' || !isRecord(entry.meta)) return false
  const { names, nonce, origin, ids } = entry.meta
  return isTexts(names) && typeof nonce === 'string' && typeof origin === 'string' && isTexts(ids)
}

export function isRecord (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !Object.hasOwn(value, '__proto__')
}

// What an entry takes beside its contents, roughly.
const OVERHEAD_BYTES = 1024

/** Estimates the memory that an entry uses. Clients choose the length of its key, which is in memory twice. */
export function bytesOf (entry: Entry | undefined): number {
  if (entry === undefined) return OVERHEAD_BYTES
  let bytes = OVERHEAD_BYTES + entry.body.length + 2 * entry.label.length
  for (const coding in entry.encoded) bytes += entry.encoded[coding]?.length ?? 0
  if (isVariants(entry)) return bytes + 64 * entry.meta.ids.length
  if (entry.kind !== 'response' || !isRecord(entry.meta)) return bytes
  return bytes + bytesOfFields(entry.meta.headers) + bytesOfFields(entry.meta.vary)
}

function bytesOfFields (fields: unknown): number {
  let bytes = 0
  if (isRecord(fields)) for (const name in fields) bytes += name.length + String(fields[name]).length
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

/** Copies of a body by the content coding that they have (RFC 9110 §8.4.1). */
export type EncodedCopies = Readonly<Record<string, Buffer>>
