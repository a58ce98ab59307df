import { types } from 'node:util'

// Deeper data is nearly always a cycle, and would overflow the stack.
const MAX_DEPTH = 500
// The names of all elements are read, to find additional properties.
const MAX_BYTES = 65_536

/** The error of a value whose text could equal that of another one. The message is a noun phrase. */
export class NotCanonicalError extends Error {}

/**
 * Returns a text that is equal for equal data only. It includes the order of properties and entries, as code may depend
 * on it.
 *
 * Supported are plain objects, arrays, primitives except symbols, and `Date`, `RegExp`, `Map`, `Set`, `URL`,
 * `URLSearchParams`, buffers and typed arrays of at most 64 KiB. Subclasses and additional properties of these are
 * refused: they may have hidden state.
 *
 * @throws {NotCanonicalError} for anything else
 */
export function canonicalText (value: unknown): string {
  try {
    return textOf(value, 0)
  } catch (error) {
    throw error instanceof NotCanonicalError ? error : new NotCanonicalError('an object that cannot be read')
  }
}

function textOf (value: unknown, depth: number): string {
  switch (typeof value) {
    case 'string': return JSON.stringify(value)
    case 'number': return Object.is(value, -0) ? '-0' : String(value)
    case 'bigint': return `${value}n`
    case 'boolean': return String(value)
    case 'undefined': return 'undefined'
    case 'object': return value === null ? 'null' : textOfObject(value, depth + 1)
    default: throw new NotCanonicalError(`a ${typeof value}`)
  }
}

function textOfObject (object: object, depth: number): string {
  if (depth > MAX_DEPTH) throw new NotCanonicalError('a cycle, or data that is nested too deeply')
  if (Array.isArray(object)) return textOfArray(object, depth)
  const prototype: unknown = Object.getPrototypeOf(object)
  if (prototype === Object.prototype) return textOfRecord(object, depth)
  // Parsers of queries, parameters and cookies create objects without a prototype, or with an empty one.
  if (prototype === null || isEmptyPrototype(prototype)) return `null${textOfRecord(object, depth)}`
  return textOfKnown(object, prototype, depth)
}

function isEmptyPrototype (prototype: unknown): boolean {
  return Object.getPrototypeOf(prototype) === null && Reflect.ownKeys(prototype as object).length === 0
}

function textOfArray (array: unknown[], depth: number): string {
  if (Object.getPrototypeOf(array) !== Array.prototype) {
    throw new NotCanonicalError('an instance of a subclass of Array')
  }
  // The own keys are the elements and `length`.
  if (Reflect.ownKeys(array).length !== array.length + 1) {
    throw new NotCanonicalError('an array with holes or further properties')
  }
  const items: string[] = []
  for (let i = 0; i < array.length; i++) items.push(textOf(read(array, String(i)), depth))
  return `[${items.join()}]`
}

function textOfRecord (object: object, depth: number): string {
  const fields = Reflect.ownKeys(object).map(name => {
    if (typeof name === 'symbol') throw new NotCanonicalError('an object with a symbol as a property')
    return `${JSON.stringify(name)}:${textOf(read(object, name), depth)}`
  })
  return `{${fields.join()}}`
}

/** Reads the property itself, so that a recording proxy notices. */
function read (object: object, name: string): unknown {
  const property = Object.getOwnPropertyDescriptor(object, name)
  if (property === undefined || !('value' in property)) {
    throw new NotCanonicalError('an object with a getter, or an array with holes')
  }
  if (property.enumerable !== true) throw new NotCanonicalError('an object with a hidden property')
  return Reflect.get(object, name)
}

type Read = (object: never, depth: number) => string

/** By prototype: the number of own properties of an instance, and its text. */
const KNOWN = new Map<unknown, [properties: number, text: Read]>([
  [Date.prototype, [0, (date: Date) => `Date(${date.getTime()})`]],
  [
    RegExp.prototype,
    [1, ({ source, flags, lastIndex }: RegExp) => `RegExp${JSON.stringify([source, flags, lastIndex])}`]
  ],
  [Map.prototype, [0, (map: Map<unknown, unknown>, depth) => `Map${textOf([...map], depth)}`]],
  [Set.prototype, [0, (set: Set<unknown>, depth) => `Set${textOf([...set], depth)}`]],
  [URL.prototype, [0, ({ href }: URL) => `URL${JSON.stringify(href)}`]],
  [URLSearchParams.prototype, [0, (parameters: URLSearchParams) => `URLSearchParams${JSON.stringify([...parameters])}`]]
])

const BYTES = new Map<unknown, string>([
  Buffer, Int8Array, Uint8Array, Uint8ClampedArray, Int16Array, Uint16Array, Int32Array, Uint32Array, Float32Array,
  Float64Array, BigInt64Array, BigUint64Array
].map(({ prototype, name }) => [prototype, name]))

function textOfKnown (object: object, prototype: unknown, depth: number): string {
  const bytes = BYTES.get(prototype)
  if (bytes !== undefined && types.isTypedArray(object)) return textOfBytes(object as Uint8Array, bytes)
  const known = KNOWN.get(prototype)
  if (known === undefined) throw new NotCanonicalError(`an instance of ${nameOf(object)}`)
  const [properties, text] = known
  if (Reflect.ownKeys(object).length !== properties) {
    throw new NotCanonicalError(`an instance of ${nameOf(object)} with further properties`)
  }
  return text(object as never, depth)
}

function textOfBytes (array: Uint8Array, name: string): string {
  if (array.byteLength > MAX_BYTES) throw new NotCanonicalError(`more than ${MAX_BYTES} bytes`)
  if (Reflect.ownKeys(array).length !== array.length) {
    throw new NotCanonicalError(`an instance of ${name} with further properties`)
  }
  return `${name}(${Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64')})`
}

function nameOf (object: object): string {
  const { constructor }: { constructor?: unknown } = object
  return typeof constructor === 'function' && constructor.name !== '' ? constructor.name : 'a class'
}
