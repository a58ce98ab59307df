import type { SessionChange } from './store.js'

/** What a session held when it was read or saved last: JSON by property. */
export type Snapshot = Record<string, string>

// Names that would reach a prototype, or hide what every session has.
const RESERVED = new Set(['__proto__', 'constructor', 'prototype', 'sessionId', 'encryptedSessionId', 'toString', 'hasOwnProperty',
  'touch', 'regenerate', 'options', 'destroy', 'reload', 'save', 'get', 'set', 'isModified', 'isSaved'])

/** JSON by property; what JSON has no value for is left out. */
export function takeSnapshot (session: object): Snapshot {
  const snapshot: Snapshot = {}
  for (const [name, value] of Object.entries(session)) {
    if (RESERVED.has(name)) continue
    const json: string | undefined = JSON.stringify(value)
    if (json !== undefined) snapshot[name] = json
  }
  return snapshot
}

/** What changed between two snapshots. */
export function diff (before: Snapshot, after: Snapshot): Pick<SessionChange, 'set' | 'delete'> {
  return {
    set: Object.fromEntries(Object.entries(after).filter(([name, json]) => before[name] !== json)),
    delete: Object.keys(before).filter(name => !Object.hasOwn(after, name))
  }
}

/** @returns the properties, or undefined where one cannot be parsed: then it is no session of ours */
export function parseFields (fields: Snapshot): Record<string, unknown> | undefined {
  try {
    return Object.fromEntries(Object.entries(fields).filter(([name]) => !RESERVED.has(name)).map(([name, json]) => [name, JSON.parse(json)]))
  } catch {
    return undefined
  }
}
