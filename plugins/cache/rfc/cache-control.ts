import { parseDictionary, Token } from 'structured-headers'
import type { Seconds } from '../../shared/plugin/units.js'

/** The directives of a field by name; `true` for a directive without a value. */
export type Directives = ReadonlyMap<string, string | true>

/** One directive: a token, and a token or quoted string as its value (RFC 9111 §5.2, RFC 9110 §5.6). */
// eslint-disable-next-line no-control-regex
const DIRECTIVE = /^[\t ]*([!#$%&'*+.^_`|~\w-]+)(?:=(?:([!#$%&'*+.^_`|~\w-]+)|"((?:[^"\\\u0000-\u0008\u000a-\u001f\u007f]|\\[\t\u0020-\u007e\u0080-\u00ff])*)"))?[\t ]*(?:,|$)/
const EMPTY = /^[\t ]*(?:,|$)/

/** Directives that may name fields. Without names they apply to the whole response. */
const QUALIFIED = new Set(['private', 'no-cache'])

/**
 * Parses a `Cache-Control` field.
 *
 * The first of several directives with one name counts, as RFC 9111 §4.2.1 allows. Those that name fields are combined.
 *
 * @returns undefined for a field that is not a list of directives, none of which can be trusted then
 */
export function parseCacheControl (field: string | undefined): Directives | undefined {
  const directives = new Map<string, string | true>()
  let rest = field ?? ''
  while (rest !== '') {
    const empty = EMPTY.exec(rest)
    const match = empty ?? DIRECTIVE.exec(rest)
    if (match === null) return undefined
    rest = rest.slice(match[0].length)
    const name = empty ? undefined : match[1]?.toLowerCase()
    if (name === undefined) continue
    const value = match[2] ?? match[3]?.replaceAll(/\\(.)/g, '$1') ?? true
    const present = directives.get(name)
    if (QUALIFIED.has(name)) directives.set(name, joinQualified(present, value))
    else if (present === undefined) directives.set(name, value)
  }
  return directives
}

function joinQualified (present: string | true | undefined, value: string | true): string | true {
  if (present === true || value === true || !/[^\t ,]/.test(value)) return true
  return present === undefined ? value : `${present},${value}`
}

/** Directives whose value is a number of seconds. */
const SECONDS = new Set(['max-age', 's-maxage', 'stale-while-revalidate', 'stale-if-error'])

/**
 * Parses a targeted field, which is a structured dictionary (RFC 9213 §2.1).
 *
 * @returns undefined for a field that is ignored: it is absent, empty or cannot be parsed
 */
export function parseTargeted (field: string | undefined): Directives | undefined {
  if (field === undefined) return undefined
  try {
    const directives = new Map<string, string | true>()
    for (const [name, [value]] of parseDictionary(field)) {
      // A value of the wrong type counts like a field that cannot be parsed.
      if (SECONDS.has(name) && !(typeof value === 'number' && Number.isInteger(value) && value >= 0)) return undefined
      if (value === false) continue
      const isText = typeof value === 'string' || value instanceof Token ||
        (typeof value === 'number' && Number.isInteger(value))
      // A value of another type names no fields, so that the directive applies to the whole response.
      const text = isText ? String(value) : true
      directives.set(name, QUALIFIED.has(name) ? joinQualified(undefined, text) : text)
    }
    return directives.size === 0 ? undefined : directives
  } catch {
    return undefined
  }
}

/** A larger number of seconds counts as this (RFC 9111 §1.2.2). */
export const MAX_SECONDS = 2 ** 31

/**
 * Returns the delta-seconds of a directive; `'invalid'` for another value, which makes a response stale (RFC 9111
 * §4.2.1).
 */
export function secondsOf (directives: Directives, name: string): Seconds | 'invalid' | undefined {
  const value = directives.get(name)
  if (value === undefined) return undefined
  return value !== true && /^\d+$/.test(value) ? Math.min(Number(value), MAX_SECONDS) : 'invalid'
}

/**
 * Returns the field names in the qualified form of a directive, such as `no-cache="set-cookie, x-a"`; undefined for the
 * plain form.
 */
export function fieldsOf (directives: Directives, name: string): string[] | undefined {
  const value = directives.get(name)
  return value === undefined || value === true
    ? undefined
    : value.toLowerCase().split(',').map(field => field.trim()).filter(field => field !== '')
}
