import { deserialize, serialize } from 'node:v8'
import { reasonOf } from '../../shared/plugin/errors.js'
import { describeLoss, lossIn } from '../../shared/plugin/lossless-json.js'
import { handled, isPromise } from '../../shared/plugin/maybe-promise.js'
import type { OptionReader } from '../../shared/plugin/option-reader.js'
import { UnserializableError } from '../errors.js'
import { copyBytes } from '../../shared/plugin/bytes.js'

/** Turns values into bytes and back. Both methods must return at once, as values are read at once. */
export interface Serializer {
  /** Kept with each value: what another one wrote is made anew. */
  name: string
  /** @throws for what it cannot tell */
  serialize (value: unknown): string | Uint8Array
  /** @throws for what it cannot read */
  deserialize (bytes: Buffer): unknown
}

/**
 * - `json`: what JSON can represent; what it would write as something else, such as a `Map` or `NaN`, is refused
 * - `structured-clone`: what the structured clone algorithm can copy, by the platform's own library (`node:v8`): `Date`, `Map`,
 *   `Set`, `BigInt`, `Buffer`, typed arrays, `RegExp`, `Error`, references in circles
 */
export type SerializerOption = 'json' | 'structured-clone' | Serializer

export const json: Serializer = {
  name: 'json',
  serialize (value) {
    // First, as it refuses cycles.
    const text: string | undefined = JSON.stringify(value)
    const loss = lossIn(value)
    if (loss !== undefined) throw new TypeError(`${describeLoss(loss)}, which JSON cannot represent; convert it to plain data, or set the option serializer to 'structured-clone' or one of your own`)
    // Such as what a toJSON has returned.
    if (text === undefined) throw new TypeError('JSON cannot represent it')
    return text
  },
  deserialize: bytes => JSON.parse(bytes.toString('utf8'))
}

const structuredClone = withOwnBytes({ name: 'structured-clone', serialize, deserialize })

/** A value may be a view of the bytes it was read from, and whoever changes it must not change what is kept for the others. */
function withOwnBytes (serializer: Serializer): Serializer {
  return { name: serializer.name, serialize: value => atOnce(serializer.serialize(value)), deserialize: bytes => atOnce(serializer.deserialize(copyBytes(bytes))) }
}

function atOnce<T> (result: T): T {
  if (!isPromise(result)) return result
  handled(result)
  throw new TypeError('it is async, and must return at once')
}

export function resolveSerializer (given: SerializerOption | undefined, read: OptionReader): Serializer {
  if (given === undefined || given === 'json') return json
  if (given === 'structured-clone') return structuredClone
  const isOne = typeof given === 'object' && given !== null && typeof given.serialize === 'function' && typeof given.deserialize === 'function' &&
    typeof given.name === 'string' && /^[\w.@:-]{1,32}$/.test(given.name)
  return isOne ? withOwnBytes(given) : read.fail('serializer', "'json', 'structured-clone', or { name, serialize, deserialize } with a name of up to 32 letters, digits and . : @ _ -")
}

/** @throws `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE` */
export function toBytes ({ name, serialize }: Serializer, value: unknown, key: string): Buffer {
  try {
    const bytes = serialize(value)
    if (typeof bytes === 'string') return Buffer.from(bytes)
    // Its own: a serializer may give the same memory out again before they are stored.
    if (ArrayBuffer.isView(bytes)) return copyBytes(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    throw new TypeError('it gave neither text nor bytes')
  } catch (error) {
    throw new UnserializableError(key, name, reasonOf(error))
  }
}
