import type { Entry } from './store.js'

// The first byte of a stored entry. Another version's entries are not read but made anew.
const VERSION = 1
const HEAD = 5

/** An entry as bytes: version, length of the metadata (4 bytes, big-endian), metadata (JSON), body. */
export function encodeFrame ({ body, ...rest }: Entry): Buffer {
  // The length tells a body that was cut off.
  const meta = Buffer.from(JSON.stringify({ ...rest, length: body.length }))
  const head = Buffer.alloc(HEAD)
  head.writeUInt8(VERSION, 0)
  head.writeUInt32BE(meta.length, 1)
  return Buffer.concat([head, meta, body])
}

/** @returns undefined for anything that is not a whole frame of this version */
export function decodeFrame (bytes: Buffer): Entry | undefined {
  if (bytes.length < HEAD || bytes.readUInt8(0) !== VERSION) return undefined
  const end = HEAD + bytes.readUInt32BE(1)
  if (end > bytes.length) return undefined
  const rest = parseObject(bytes.toString('utf8', HEAD, end))
  if (rest === undefined) return undefined
  const { storedAt, ttl, stale, length } = rest
  const [meta, tags] = [rest['meta'], rest['tags']]
  const body = bytes.subarray(end)
  if (!isTime(storedAt) || !isTime(ttl) || !isTime(stale) || !isObject(meta) || !isStrings(tags)) return undefined
  return length === body.length ? { body, meta, storedAt, ttl, stale, tags } : undefined
}

function parseObject (text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return isObject(value) ? value : undefined
  } catch {
    return undefined
  }
}

function isObject (value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) && !Object.hasOwn(value, '__proto__')
}

function isTime (value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0
}

function isStrings (value: unknown): value is Record<string, string> {
  return isObject(value) && Object.values(value).every(entry => typeof entry === 'string')
}
