import type { FastifyRequest } from 'fastify'
import { reasonOf } from '../shared/plugin/errors.js'
import { hashId } from '../shared/plugin/keys.js'
import { UnserializableError } from './errors.js'

const PARTS = ['method', 'host', 'path', 'query', 'body', 'fingerprint'] as const
/** The characters of each part's digest. Only the digest of all parts decides whether requests are equal. */
const HINT_LENGTH = 4

/**
 * Returns a digest of what the request asks for, followed by a short digest of each part.
 *
 * @param more - the result of the option `fingerprint`
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_UNSERIALIZABLE`
 */
export function fingerprintOf ({ method, host, url, body }: FastifyRequest, more: string): string {
  const end = url.indexOf('?')
  const [path, query] = end === -1 ? [url, ''] : [url.slice(0, end), url.slice(end)]
  const parts = [method, host, path, query, digestOf(body), more]
  return `${hashId(JSON.stringify(parts))}.${parts.map(part => hashId(part).slice(0, HINT_LENGTH)).join('')}`
}

/** Returns the names of the parts in which two requests differ; an empty list if they are not known. */
export function differencesOf (a: string, b: string): string[] {
  const [hints, others] = [a, b].map(print => print.split('.')[1] ?? '')
  if (hints?.length !== PARTS.length * HINT_LENGTH || others?.length !== hints.length) return []
  return PARTS.filter((_, i) => hintAt(hints, i) !== hintAt(others, i))
}

function hintAt (hints: string, part: number): string {
  return hints.slice(part * HINT_LENGTH, (part + 1) * HINT_LENGTH)
}

/**
 * Returns a digest of a parsed body: equal data have equal digests. A stream has none, as it has not been read.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_UNSERIALIZABLE`
 */
function digestOf (body: unknown): string {
  if (body === undefined || body === null) return ''
  if (typeof body === 'string' || body instanceof Uint8Array) return hashId(body)
  if (typeof body === 'object' && isStream(body)) return ''
  try {
    return hashId(JSON.stringify(canonical(body, body)))
  } catch (error) {
    throw new UnserializableError(
      error instanceof RangeError ? 'it is circular, or nested too deep' : reasonOf(error).split('\n', 1)[0]
    )
  }
}

/** The check reads methods, as a member of a JSON body may have any name. */
function isStream (value: object): boolean {
  return ['pipe', 'getReader'].some(name => typeof Reflect.get(value, name) === 'function')
}

/** Returns a value with equal JSON for equal data. Plain JSON lacks a form's iterable fields. */
function canonical (value: unknown, body: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Uint8Array) return { bytes: hashId(value) }
  if (isStream(value)) return undefined
  if ('toJSON' in value && typeof value.toJSON === 'function') return canonical(value.toJSON(), body)
  if (Symbol.iterator in value) return Array.from(value as Iterable<unknown>, each => canonical(each, body))
  // Each part of a form by @fastify/multipart refers to the whole form.
  const isPart = 'fieldname' in value && 'fields' in value && value.fields === body
  // The members of a JSON object are unordered (RFC 8259 §4).
  const names = Object.keys(value).filter(name => !isPart || name !== 'fields').sort()
  return Object.fromEntries(names.map(name => [name, canonical(Reflect.get(value, name), body)]))
}
