import { randomFillSync } from 'node:crypto'
import type { Bytes } from '../../shared/plugin/units.js'
import { isRecord, isTime, type EncodedCopies, type Entry } from './entry.js'
import { decodeFlat, encodeFlat, isFlat } from './flat-meta.js'

// The first byte of each entry. Entries of another version read as a miss.
const VERSION = 3
const TOKEN_LENGTH = 12
/** The offset of an entry's metadata. */
export const META_START = 1 + TOKEN_LENGTH + 4
// Replaces the version while the source of an entry is being written.
const LOCKED = 0x80 | VERSION
/** The offsets of the token's first and last byte, for the scripts. */
export const TOKEN_RANGE = [1, TOKEN_LENGTH] as const
/** The first byte of the token of an entry whose write is about to be queued. Random tokens have none of both. */
export const STAGED = '~'
/** The first byte of the token of an entry whose write is queued: the rest is the write's position. */
export const QUEUED = '='
/** Written over the first byte of an entry, it ends a write lock. */
export const UNLOCKED = Buffer.of(VERSION)

/**
 * Identifies the content of a key for a compare-and-set: a reader gets the token, and a writer names it. Each write
 * changes the token. Empty where the key does not exist.
 */
export type CasToken = string

/**
 * Returns the token that readers of a locked key get. No key has such a token, so no write with it is stored. Each lock
 * has another one, as a fill that began during one lock must not be joined during the next.
 */
export function lockedToken (token: CasToken): CasToken {
  return `!${token}`
}

export function stagedToken (): CasToken {
  return STAGED + randomText(TOKEN_LENGTH).slice(1, TOKEN_LENGTH)
}

const POSITION_BYTES = { time: 6, count: 5 }
const MAX_COUNT = 2 ** 40 - 1

/**
 * Returns the token of a queued write. Tokens of later writes are greater, by their bytes.
 *
 * @param position - the id of the write in its stream
 */
export function queuedToken (position: string): CasToken {
  const [time = 0, count = 0] = position.split('-').map(Number)
  const token = Buffer.alloc(TOKEN_LENGTH)
  token.write(QUEUED, 'latin1')
  token.writeUIntBE(time, 1, POSITION_BYTES.time)
  token.writeUIntBE(Math.min(count, MAX_COUNT), 1 + POSITION_BYTES.time, POSITION_BYTES.count)
  return token.toString('latin1')
}

/**
 * Encodes an entry: version, token, length of the metadata (4 bytes, big-endian), metadata (JSON), body, encoded copies
 * of the body. Without metadata it is a tombstone, which refuses the writes of fills that began before the entry was
 * removed.
 */
export function encodeEntry (entry: Entry | 'tombstone', token?: CasToken): Buffer {
  if (entry === 'tombstone') return encodeHead(0)
  const flat = encodeFlat(entry, META_START)
  if (flat !== undefined) return writeHead(flat, flat.length - META_START - entry.body.length, token)
  const { body, encoded, ...rest } = entry
  const copies = Object.entries(encoded ?? {})
  const lengths = encoded && Object.fromEntries(copies.map(([coding, copy]) => [coding, copy.length]))
  // The length detects a body that was cut off.
  const meta = Buffer.from(JSON.stringify({ ...rest, length: body.length, encoded: lengths }))
  return Buffer.concat([encodeHead(meta.length, token), meta, body, ...copies.map(([, copy]) => copy)])
}

function encodeHead (metaLength: Bytes, token?: CasToken): Buffer {
  return writeHead(Buffer.alloc(META_START), metaLength, token)
}

/** Writes the head into the first bytes. */
function writeHead (bytes: Buffer, metaLength: Bytes, token: CasToken = randomText(TOKEN_LENGTH * 3 / 4)): Buffer {
  bytes.writeUInt8(VERSION, 0)
  bytes.write(token, 1, 'latin1')
  bytes.writeUInt32BE(metaLength, 1 + TOKEN_LENGTH)
  return bytes
}

/**
 * @returns `prefix`, which locks an entry when written over its first bytes; `placeholder`, which locks a key without
 * an entry
 */
export function encodeWriteLock (): { prefix: Buffer, placeholder: Buffer, token: CasToken } {
  const placeholder = encodeHead(0)
  placeholder.writeUInt8(LOCKED, 0)
  const prefix = placeholder.subarray(0, 1 + TOKEN_LENGTH)
  return { prefix, placeholder, token: prefix.toString('latin1', 1) }
}

/** Returns the token of an entry, read from its first bytes. @param head - as latin1; empty where there is no entry */
export function decodeToken (head: string): CasToken {
  const token = head.slice(1, 1 + TOKEN_LENGTH)
  return head.charCodeAt(0) === LOCKED ? lockedToken(token) : token
}

/** Returns the offset at which the metadata of an entry ends, read from its first bytes. */
export function metaEnd (start: Buffer): Bytes {
  return start.length < META_START ? META_START : META_START + start.readUInt32BE(1 + TOKEN_LENGTH)
}

/** @returns no entry for a tombstone, a locked or damaged entry, and one of another version */
export function decodeEntry (bytes: Buffer): { token: CasToken, entry: Entry | undefined } {
  const token = bytes.toString('latin1', 1, 1 + TOKEN_LENGTH)
  if (bytes[0] === LOCKED) return { token: lockedToken(token), entry: undefined }
  if (bytes.length < META_START || bytes.readUInt8(0) !== VERSION) return { token, entry: undefined }
  const end = metaEnd(bytes)
  if (end === META_START || end > bytes.length) return { token, entry: undefined }
  const rest = bytes.subarray(end)
  const entry = isFlat(bytes, META_START)
    ? decodeFlat(bytes, META_START, end, rest)
    : readEntry(parseJson(bytes.toString('utf8', META_START, end)), rest)
  return { token, entry }
}

function readEntry (rest: unknown, bytes: Buffer): Entry | undefined {
  if (!isRecord(rest)) return undefined
  const { kind, label, meta, storedAt, deleteAt, tags, length, encoded } = rest
  if ((kind !== 'response' && kind !== 'variants' && kind !== 'value') || typeof label !== 'string') return undefined
  if (!isTime(storedAt) || !isTime(deleteAt) || !isVersions(tags)) return undefined
  if (!isLength(length)) return undefined
  const body = length === bytes.length ? bytes : bytes.subarray(0, length)
  const entry: Entry = { kind, label, meta, body, storedAt, deleteAt, tags }
  if (encoded === undefined) return length === bytes.length ? entry : undefined
  const copies = kind === 'response' ? readCopies(encoded, bytes.subarray(length)) : undefined
  return copies && { ...entry, encoded: copies }
}

/** @returns undefined where the copies do not fill the bytes exactly */
function readCopies (lengths: unknown, bytes: Buffer): EncodedCopies | undefined {
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

function isVersions (value: unknown): value is Record<string, string> {
  if (!isRecord(value)) return false
  for (const tag in value) if (typeof value[tag] !== 'string') return false
  return true
}

/** @returns undefined for a text that is not JSON */
export function parseJson (text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

// Random bytes are drawn in large pieces, as each call costs more than its bytes.
const pool = Buffer.alloc(6 * 1024)
let used = pool.length

/** Returns random bytes as base64url. */
export function randomText (bytes: Bytes): string {
  if (used + bytes > pool.length) {
    randomFillSync(pool)
    used = 0
  }
  used += bytes
  return pool.toString('base64url', used - bytes, used)
}
