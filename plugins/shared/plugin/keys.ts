import * as crypto from 'node:crypto'

const PLAIN_ID = /^[\w.@:-]{1,64}$/

/**
 * Makes any string safe as the last part of a key. A short plain id stays readable; everything else (braces of a hash
 * tag, pattern characters, control characters, long input) becomes `#` and its SHA-256.
 * No two ids share a result: `#` is not a plain character.
 */
export function safeId (id: string): string {
  return PLAIN_ID.test(id) ? id : `#${hashId(id)}`
}

// Node.js 20.12 and later do it in one step.
const digest: (input: string | Uint8Array) => string = typeof crypto.hash === 'function'
  ? input => crypto.hash('sha256', input, 'base64url')
  : input => crypto.createHash('sha256').update(input).digest('base64url')

// Half of a surrogate pair, of which UTF-8 makes the same whatever it is.
const ILL_FORMED = /\p{Surrogate}/u
// No UTF-8 begins so.
const UTF16 = Buffer.of(0xff)

/** SHA-256 as 43 characters of base64url. */
export function hashId (id: string | Uint8Array): string {
  return digest(typeof id === 'string' && ILL_FORMED.test(id) ? Buffer.concat([UTF16, Buffer.from(id, 'utf16le')]) : id)
}

/** `{prefix}:{plugin}:{what}:` of all keys of one kind, to which an id is appended. */
export function keySpace (prefix: string, plugin: string, what: string): string {
  return `${prefix}:${plugin}:${what}:`
}

/** Which of so many partitions a key belongs to: the same on all instances. */
export function partitionOf (key: string, partitions: number): number {
  return Buffer.from(hashId(key), 'base64url').readUInt32BE() % partitions
}
