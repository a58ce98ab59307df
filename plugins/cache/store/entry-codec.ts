import type { EncodedCopies } from './entry.js'
import { isRecord, type Entry } from './entry.js'
import { parseJson } from './json.js'
import { randomText } from './random-id.js'

// The first byte of each entry. Entries of another version read as a miss.
const VERSION = 3
const TOKEN_LENGTH = 12
const HEAD = 1 + TOKEN_LENGTH + 4
// In the place of the version while the source of an entry is being written.
const LOCKED = 0x80 | VERSION
/** Where the token lies, for the scripts: from its first byte to its last. */
export const TOKEN_RANGE = [1, TOKEN_LENGTH] as const

/**
 * Told to whoever reads a key, and to be named by whoever writes it: a key that was changed meanwhile has another one.
 * Empty where nothing was there.
 */
export type CasToken = string
/**
 * What is told of a key whose source is being written: no key has it, so nobody's write is stored. It is another one for each mark, as what is
 * made during one writing is not what may be given during the next.
 */
export function lockedToken (mark: CasToken): CasToken {
  return `!${mark}`
}

/**
 * An entry as bytes: version, token, length of the metadata (4 bytes, big-endian), metadata (JSON), body, encoded copies of it. Without
 * metadata it is a tombstone: there was something, and who is making it from before that shall not store it.
 */
export function encodeEntry (entry: Entry | 'tombstone'): Buffer {
  if (entry === 'tombstone') return Buffer.concat([head(0)])
  const { body, encoded, ...rest } = entry
  const copies = Object.entries(encoded ?? {})
  const lengths = copies.length === 0 ? undefined : Object.fromEntries(copies.map(([coding, copy]) => [coding, copy.length]))
  // The length tells a body that was cut off.
  const meta = Buffer.from(JSON.stringify({ ...rest, length: body.length, encoded: lengths }))
  return Buffer.concat([head(meta.length), meta, body, ...copies.map(([, copy]) => copy)])
}

function head (metaLength: number): Buffer {
  const bytes = Buffer.alloc(HEAD)
  bytes.writeUInt8(VERSION, 0)
  bytes.write(randomText(TOKEN_LENGTH * 3 / 4), 1, 'latin1')
  bytes.writeUInt32BE(metaLength, 1 + TOKEN_LENGTH)
  return bytes
}

/** What marks an entry when put over its first bytes, and what stands for one where there is none. */
export function encodeWriteLock (): { mark: Buffer, place: Buffer, token: CasToken } {
  const place = head(0)
  place.writeUInt8(LOCKED, 0)
  const mark = place.subarray(0, 1 + TOKEN_LENGTH)
  return { mark, place, token: mark.toString('latin1', 1) }
}

/** Where the metadata of an entry ends, by its first bytes. */
export function endOfMeta (start: Buffer): number {
  return start.length < HEAD ? HEAD : HEAD + start.readUInt32BE(1 + TOKEN_LENGTH)
}

/** What takes the mark away when put over the first byte. */
export const UNLOCKED = Buffer.of(VERSION)

/** @returns no entry for anything that is not a whole frame of this version */
export function decodeEntry (bytes: Buffer): { token: CasToken, entry: Entry | undefined } {
  const token = bytes.toString('latin1', 1, 1 + TOKEN_LENGTH)
  if (bytes[0] === LOCKED) return { token: lockedToken(token), entry: undefined }
  if (bytes.length < HEAD || bytes.readUInt8(0) !== VERSION) return { token, entry: undefined }
  const end = HEAD + bytes.readUInt32BE(1 + TOKEN_LENGTH)
  if (end === HEAD || end > bytes.length) return { token, entry: undefined }
  return { token, entry: entryOf(parseJson(bytes.toString('utf8', HEAD, end)), bytes.subarray(end)) }
}

function entryOf (rest: unknown, bytes: Buffer): Entry | undefined {
  if (!isRecord(rest)) return undefined
  const { kind, label, meta, storedAt, deleteAt, tags, length, encoded } = rest
  if ((kind !== 'response' && kind !== 'variants' && kind !== 'value') || typeof label !== 'string') return undefined
  if (!isTime(storedAt) || !isTime(deleteAt) || !isVersions(tags)) return undefined
  if (encoded === undefined) return length === bytes.length ? { kind, label, meta, body: bytes, storedAt, deleteAt, tags } : undefined
  const copies = isLength(length) && kind === 'response' ? copiesIn(encoded, bytes.subarray(length)) : undefined
  return copies && { kind, label, meta, body: bytes.subarray(0, Number(length)), encoded: copies, storedAt, deleteAt, tags }
}

/** @returns undefined where the bytes are not exactly those of the copies */
function copiesIn (lengths: unknown, bytes: Buffer): EncodedCopies | undefined {
  if (!isRecord(lengths)) return undefined
  const copies: Record<string, Buffer> = {}
  let end = 0
  for (const coding in lengths) {
    const length = lengths[coding]
    if (!/^[a-z\d-]{1,32}$/.test(coding) || !isLength(length) || end + length > bytes.length) return undefined
    copies[coding] = bytes.subarray(end, end += length)
  }
  return end === bytes.length ? copies : undefined
}

function isLength (value: unknown): value is number {
  return Number.isInteger(value) && Number(value) >= 0
}

function isTime (value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

function isVersions (value: unknown): value is Record<string, string> {
  if (!isRecord(value)) return false
  for (const tag in value) if (typeof value[tag] !== 'string') return false
  return true
}
