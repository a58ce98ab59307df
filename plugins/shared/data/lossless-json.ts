import { types } from 'node:util'

/** A value that JSON would silently change. */
interface Loss {
  /** A noun phrase, such as `a Map` or `NaN`. */
  what: string
  /** The path of property names to it; empty for the value itself. */
  path: string[]
}

/**
 * Finds a value that JSON loses: functions, symbols, `NaN`, infinities, an invalid `Date`, and platform objects whose
 * contents are not properties (`Map`, `Set`, `RegExp`, `Error`, `Response`, `Promise`, typed arrays, …). A value that
 * is nested too deeply for this function is one as well: before Node.js 26, `JSON.stringify` refuses it.
 *
 * An object with a method `toJSON` defines its own JSON: a `Date` becomes a string, a `Buffer` an object. A property
 * that is `undefined` becomes absent, which reads the same.
 *
 * @param value - one that `JSON.stringify` accepts, so that it has no cycle
 */
export function lossIn (value: unknown): Loss | undefined {
  try {
    return lossWithin(value)
  } catch (error) {
    if (error instanceof RangeError) return lost('nested too deeply')
    throw error
  }
}

function lossWithin (value: unknown): Loss | undefined {
  switch (typeof value) {
    case 'number': return Number.isFinite(value) ? undefined : lost(String(value))
    case 'function': return lost('a function')
    case 'symbol': return lost('a symbol')
    case 'object': return value === null ? undefined : lossInObject(value)
    default: return undefined
  }
}

/** Describes a loss for a message. */
export function describeLoss ({ what, path }: Loss): string {
  return path.length === 0 ? `it is ${what}` : `"${path.join('.')}" is ${what}`
}

function lossInObject (object: object): Loss | undefined {
  if ('toJSON' in object && typeof object.toJSON === 'function') {
    return types.isDate(object) && Number.isNaN(object.getTime()) ? lost('an invalid Date') : undefined
  }
  if (Array.isArray(object)) return lossInList(object)
  const prototype: unknown = Object.getPrototypeOf(object)
  if (prototype !== Object.prototype && prototype !== null && hasInternalState(object)) {
    return lost(`a ${nameOf(object)}`)
  }
  for (const name in object) {
    if (!Object.hasOwn(object, name)) continue
    const loss = lossWithin(object[name as keyof typeof object])
    if (loss !== undefined) return { what: loss.what, path: [name, ...loss.path] }
  }
  return undefined
}

function lossInList (list: readonly unknown[]): Loss | undefined {
  for (let i = 0; i < list.length; i++) {
    const loss = lossWithin(list[i])
    if (loss !== undefined) return { what: loss.what, path: [String(i), ...loss.path] }
  }
  return undefined
}

/** Whether the object's contents are not properties. Instances of an app's own classes have properties. */
function hasInternalState (object: object): boolean {
  if (types.isMap(object) || types.isSet(object) || types.isNativeError(object) || object instanceof Error ||
    ArrayBuffer.isView(object)) {
    return true
  }
  if (types.isBoxedPrimitive(object)) return false
  return tagOf(object) !== 'Object' && Object.keys(object).length === 0
}

function tagOf (object: object): string {
  return Object.prototype.toString.call(object).slice('[object '.length, -1)
}

function nameOf (object: object): string {
  return tagOf(object) === 'Object' ? object.constructor.name : tagOf(object)
}

function lost (what: string): Loss {
  return { what, path: [] }
}
