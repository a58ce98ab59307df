import * as crypto from 'node:crypto'

const PLAIN_ID = /^[\w.@:-]{1,64}$/

/**
 * Returns a string that is safe as the last part of a key. A short plain id stays readable; everything else (braces of
 * a hash tag, pattern characters, control characters, long input) becomes `#` and its SHA-256. No two ids have the same
 * result, as `#` is not a plain character.
 */
export function safeId (id: string): string {
  return PLAIN_ID.test(id) ? id : `#${hashId(id)}`
}

// Node.js 20.12 and later have a faster function.
const digest: (input: string | Uint8Array) => string = typeof crypto.hash === 'function'
  ? input => crypto.hash('sha256', input, 'base64url')
  : input => crypto.createHash('sha256').update(input).digest('base64url')

// UTF-8 encodes all lone surrogates as the same bytes.
const ILL_FORMED = /\p{Surrogate}/u
// No UTF-8 text begins with this byte.
const UTF16 = Buffer.of(0xff)

/** Returns the SHA-256 as 43 characters of base64url. */
export function hashId (id: string | Uint8Array): string {
  return digest(typeof id === 'string' && ILL_FORMED.test(id) ? Buffer.concat([UTF16, Buffer.from(id, 'utf16le')]) : id)
}

/** Returns `{prefix}:{plugin}:{what}:`, the beginning of all keys of a kind. */
export function keySpace (prefix: string, plugin: string, what: string): string {
  return `${prefix}:${plugin}:${what}:`
}

/** Returns the partition of a key, which is the same on all instances. */
export function partitionOf (key: string, partitions: number): number {
  return Buffer.from(hashId(key), 'base64url').readUInt32BE() % partitions
}
