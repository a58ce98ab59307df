import { ownBytes } from '../../shared/data/bytes.js'
import type { Bytes, Milliseconds } from '../../shared/plugin/units.js'

/** The content of one key. */
export interface Entry<M = unknown> {
  /**
   * - `response`: a stored response
   * - `variants`: the responses of this key differ by request headers, and are stored under keys of their own
   * - `value`: a value of the data cache
   */
  kind: 'response' | 'variants' | 'value'
  /** The readable form of the key, which patterns match. */
  label: string
  meta: M
  body: Buffer
  /** Copies of a response's body that a hook has encoded for a client. */
  encoded?: EncodedCopies | undefined
  /** When its fill began, by the store's clock: milliseconds since the epoch. */
  storedAt: number
  /** When it expires in both tiers, by the store's clock: milliseconds since the epoch. */
  deleteAt: number
  /** The version of each tag when the fill began. */
  tags: Record<string, string>
}

/** Copies of a body by their content coding (RFC 9110 §8.4.1). */
export type EncodedCopies = Readonly<Record<string, Buffer>>

/** Stored with a list of variants. */
export interface VariantsMeta {
  /** The request headers that select a variant, in lower case and sorted. */
  names: string[]
  /** A part of the variants' keys, so that they cannot be found any more once the list is removed. */
  nonce: string
  /** The token of the key when the list was created. */
  origin: string
  /** The ids of the stored variants, the least recently used first. */
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

export function isTexts (value: unknown): value is string[] {
  return Array.isArray(value) && value.every(text => typeof text === 'string')
}

/** Whether a value is a time of an entry, in milliseconds since the epoch. */
export function isTime (value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

/** Returns how long an entry is kept from the moment in which its fill began. */
export function ttlOf ({ storedAt, deleteAt }: Entry): Milliseconds {
  return deleteAt - storedAt
}

// A rough estimate of what an entry uses beside its contents.
const OVERHEAD_BYTES = 1024

/** Estimates the memory that an entry uses. Clients choose the length of its key, which is in memory twice. */
export function bytesOf (entry: Entry | undefined): Bytes {
  if (entry === undefined) return OVERHEAD_BYTES
  let bytes = OVERHEAD_BYTES + entry.body.length + 2 * entry.label.length
  for (const coding in entry.encoded) bytes += entry.encoded[coding]?.length ?? 0
  if (isVariants(entry)) return bytes + 64 * entry.meta.ids.length
  if (entry.kind !== 'response' || !isRecord(entry.meta)) return bytes
  return bytes + bytesOfFields(entry.meta['headers']) + bytesOfFields(entry.meta['vary'])
}

function bytesOfFields (fields: unknown): Bytes {
  let bytes = 0
  if (isRecord(fields)) for (const name in fields) bytes += name.length + String(fields[name]).length
  return bytes
}

/** Returns the entry with bytes that share no memory with others, see {@link ownBytes}. */
export function ownEntry (entry: Entry): Entry {
  const body = ownBytes(entry.body)
  const copies = entry.encoded && Object.entries(entry.encoded)
  const encoded = copies && Object.fromEntries(copies.map(([coding, copy]) => [coding, ownBytes(copy)]))
  return body === entry.body && encoded === undefined ? entry : { ...entry, body, encoded }
}
