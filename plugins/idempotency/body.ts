import { reasonOf } from '../shared/plugin/errors.js'
import { hashId } from '../shared/plugin/keys.js'
import { UnserializableError } from './errors.js'

/**
 * Returns a digest of a parsed body: two bodies that say the same have the same one. A stream says nothing, as it has not been read.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_UNSERIALIZABLE`
 */
export function digestOf (body: unknown): string {
  if (body === undefined || body === null) return ''
  if (typeof body === 'string' || body instanceof Uint8Array) return hashId(body)
  if (typeof body === 'object' && isStream(body)) return ''
  try {
    return hashId(JSON.stringify(tell(body, body)))
  } catch (error) {
    throw new UnserializableError(error instanceof RangeError ? 'it is circular, or nested too deep' : reasonOf(error).split('\n', 1)[0])
  }
}

/** By its methods, as a member of a JSON body may have any name. */
function isStream (value: object): boolean {
  return ['pipe', 'getReader'].some(name => typeof Reflect.get(value, name) === 'function')
}

/** JSON would write bytes number by number, and has nothing of a form's fields. */
function tell (value: unknown, body: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  if (value instanceof Uint8Array) return { bytes: hashId(value) }
  if (isStream(value)) return undefined
  if ('toJSON' in value && typeof value.toJSON === 'function') return tell(value.toJSON(), body)
  if (Symbol.iterator in value) return Array.from(value as Iterable<unknown>, each => tell(each, body))
  // Each part of a form by @fastify/multipart refers to all of the form.
  const isPart = 'fieldname' in value && 'fields' in value && value.fields === body
  // The order of an object's members has no meaning in JSON (RFC 8259 §4).
  const names = Object.keys(value).filter(name => !isPart || name !== 'fields').sort()
  return Object.fromEntries(names.map(name => [name, tell(Reflect.get(value, name), body)]))
}
