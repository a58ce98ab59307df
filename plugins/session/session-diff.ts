import { reasonOf } from '../shared/plugin/errors.js'
import { describeLoss, lossIn } from '../shared/data/lossless-json.js'
import { UnserializableError } from './errors.js'
import type { SessionChange } from './store/store.js'

/** The JSON of each property of a session at one moment. */
export type SessionSnapshot = Record<string, string>

/** The changes between two snapshots. */
export type FieldChanges = Pick<SessionChange, 'set' | 'delete'>

// Names that would reach a prototype, or hide a member of every session.
export const RESERVED: ReadonlySet<string> = new Set([
  '__proto__', 'constructor', 'prototype', 'sessionId', 'encryptedSessionId', 'toString', 'hasOwnProperty',
  'touch', 'regenerate', 'options', 'destroy', 'reload', 'save', 'get', 'set', 'isModified', 'isSaved'
])

function isContent (name: string): boolean {
  return name !== 'cookie' && !RESERVED.has(name)
}

/**
 * Returns all but the cookie and reserved names as JSON, without the braces.
 *
 * @throws `FST_REDIS_SUITE_SESSION_UNSERIALIZABLE`
 */
export function contentsOf (session: object): string {
  const contents: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(session)) if (isContent(name)) contents[name] = value
  try {
    return JSON.stringify(contents).slice(1, -1)
  } catch {
    // Its error names the property.
    takeSnapshot(contents)
    throw new UnserializableError('', 'unknown')
  }
}

/**
 * Returns the JSON of each property. Properties that JSON has no value for are left out.
 *
 * @throws `FST_REDIS_SUITE_SESSION_UNSERIALIZABLE`
 */
export function takeSnapshot (session: object): SessionSnapshot {
  const snapshot: SessionSnapshot = {}
  for (const [name, value] of Object.entries(session)) {
    if (RESERVED.has(name)) continue
    const json = jsonOf(name, value)
    if (json !== undefined) snapshot[name] = json
  }
  return snapshot
}

function jsonOf (name: string, value: unknown): string | undefined {
  let json: string | undefined
  try {
    json = JSON.stringify(value)
  } catch (error) {
    throw new UnserializableError(name, reasonOf(error))
  }
  if (name !== 'cookie') refuseLoss(name, value)
  return json
}

/**
 * Refuses values that JSON cannot represent: such a change may not even show in the JSON.
 *
 * @param session - a session that {@link contentsOf} accepts
 * @throws `FST_REDIS_SUITE_SESSION_UNSERIALIZABLE`
 */
export function refuseLosses (session: object): void {
  for (const [name, value] of Object.entries(session)) if (isContent(name)) refuseLoss(name, value)
}

function refuseLoss (name: string, value: unknown): void {
  const loss = lossIn(value)
  if (loss !== undefined) throw new UnserializableError(name, `${describeLoss(loss)}; store plain data`)
}

/** Returns the changes between two snapshots. */
export function diff (before: SessionSnapshot, after: SessionSnapshot): FieldChanges {
  return {
    set: Object.fromEntries(Object.entries(after).filter(([name, json]) => before[name] !== json)),
    delete: Object.keys(before).filter(name => !Object.hasOwn(after, name))
  }
}

/**
 * Returns the changes since a text of {@link contentsOf}. Most properties have not changed, so that only the text after
 * the first one that has is parsed.
 */
export function diffContents (before: string, after: SessionSnapshot): FieldChanges {
  const entries = Object.entries(after)
  let at = 0
  const first = entries.findIndex(([name, json]) => {
    const key = JSON.stringify(name)
    const colon = at + key.length
    const end = colon + 1 + json.length
    // Comparing slices is faster than `startsWith`.
    if (before.slice(colon + 1, end) !== json || before.slice(at, colon) !== key ||
      (end < before.length && before[end] !== ',')) {
      return true
    }
    at = end + 1
    return false
  })
  const rest: object = JSON.parse(`{${before.slice(at)}}`)
  return diff(takeSnapshot(rest), first === -1 ? {} : Object.fromEntries(entries.slice(first)))
}

/** Returns all properties as one JSON object. */
export function joinFields (fields: SessionSnapshot): string {
  return `{${Object.entries(fields).map(([name, json]) => `${JSON.stringify(name)}:${json}`).join()}}`
}

/**
 * Returns the properties in a stored text; undefined if it is not a session of this plugin.
 *
 * @param open - returns the JSON of a sealed property; undefined if properties are not sealed
 */
export function parseFields (
  text: string, open?: (name: string, sealed: unknown) => string | undefined
): Record<string, unknown> | undefined {
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return undefined
    const fields = parsed as Record<string, unknown>
    for (const name of Object.keys(fields)) {
      if (RESERVED.has(name)) {
        Reflect.deleteProperty(fields, name)
        continue
      }
      if (open === undefined) continue
      const json = open(name, fields[name])
      if (json === undefined) return undefined
      fields[name] = JSON.parse(json)
    }
    return fields
  } catch {
    return undefined
  }
}
