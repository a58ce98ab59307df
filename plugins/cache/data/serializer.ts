import { deserialize, serialize } from 'node:v8'
import { copyBytes, ownBytesOf } from '../../shared/data/bytes.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { describeLoss, lossIn } from '../../shared/data/lossless-json.js'
import { handled, isPromise } from '../../shared/plugin/maybe-promise.js'
import { UnserializableError } from '../errors.js'

/** Converts values to bytes and back. Both methods are synchronous, because values are read synchronously from L1. */
export interface Serializer {
  /** Stored with each value: a value that was written by a serializer of another name counts as a miss. */
  name: string
  /** @throws for a value that it cannot represent */
  serialize (value: unknown): string | Uint8Array
  /** @throws for bytes that it cannot read */
  deserialize (bytes: Buffer): unknown
}

/**
 * The format of cached values.
 *
 * - `json`: plain data; values that JSON would change, such as a `Map` or `NaN`, are refused
 * - `structured-clone`: every value that the structured clone algorithm can copy (`node:v8`): `Date`, `Map`, `Set`,
 * `BigInt`, `Buffer`,
 *   typed arrays, `RegExp`, `Error`, and circular references
 * - an object: a serializer of the program
 */
export type SerializerOption = 'json' | 'structured-clone' | Serializer

export const json: Serializer = {
  name: 'json',
  serialize (value) {
    // First, because it refuses circular references.
    const text: string | undefined = JSON.stringify(value)
    const loss = lossIn(value)
    if (loss !== undefined) {
      throw new TypeError(`${describeLoss(loss)}, which JSON cannot represent; ` +
        "convert it to plain data, or set the option serializer to 'structured-clone' or one of your own")
    }
    // For example, where a toJSON returned undefined.
    if (text === undefined) throw new TypeError('JSON cannot represent it')
    return text
  },
  deserialize: bytes => JSON.parse(bytes.toString('utf8'))
}

const structuredClone = isolating({ name: 'structured-clone', serialize, deserialize })

/**
 * Wraps a serializer so that it reads copies of the stored bytes, and refuses promises. A value may be a view of the
 * bytes that it was read from: a caller that changes it must not change the entry.
 */
function isolating ({ name, serialize, deserialize }: Serializer): Serializer {
  return {
    name,
    serialize: value => refusePromise(serialize(value)),
    deserialize: bytes => refusePromise(deserialize(copyBytes(bytes)))
  }
}

function refusePromise<T> (result: T): T {
  if (!isPromise(result)) return result
  handled(result)
  throw new TypeError('it is async, and must return at once')
}

/** @returns undefined for what is no serializer */
export function resolveSerializer (given: unknown): Serializer | undefined {
  if (given === 'json') return json
  if (given === 'structured-clone') return structuredClone
  return isSerializer(given) ? isolating(given) : undefined
}

function isSerializer (value: unknown): value is Serializer {
  if (typeof value !== 'object' || value === null) return false
  const { name, serialize, deserialize }: { name?: unknown, serialize?: unknown, deserialize?: unknown } = value
  return typeof serialize === 'function' && typeof deserialize === 'function' && typeof name === 'string' &&
    /^[\w.@:-]{1,32}$/.test(name)
}

/** @throws `FST_REDIS_SUITE_CACHE_UNSERIALIZABLE` */
export function toBytes ({ name, serialize }: Serializer, value: unknown, key: string): Buffer {
  try {
    const bytes = serialize(value)
    if (typeof bytes === 'string') return ownBytesOf(bytes)
    // A copy: a serializer may reuse its buffer before the entry is stored.
    if (ArrayBuffer.isView(bytes)) return copyBytes(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength))
    throw new TypeError('it returned neither text nor bytes')
  } catch (error) {
    throw new UnserializableError(key, name, reasonOf(error))
  }
}
