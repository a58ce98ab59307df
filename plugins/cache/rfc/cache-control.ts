import { parseDictionary, Token } from 'structured-headers'

/** What a `Cache-Control` says, by name: `true` for a directive without a value. */
export type Directives = ReadonlyMap<string, string | true>

// One directive: a token, and a token or quoted string as its value (RFC 9111 §5.2, RFC 9110 §5.6).
// eslint-disable-next-line no-control-regex
const DIRECTIVE = /^[\t ]*([!#$%&'*+.^_`|~\w-]+)(?:=(?:([!#$%&'*+.^_`|~\w-]+)|"((?:[^"\\\u0000-\u0008\u000a-\u001f\u007f]|\\[\t\u0020-\u007e\u0080-\u00ff])*)"))?[\t ]*(?:,|$)/
const EMPTY = /^[\t ]*(?:,|$)/

// Directives that may name the fields which they are about, and are about all of the answer where they do not.
const QUALIFIED = new Set(['private', 'no-cache'])

/**
 * Of a directive that is there more than once the first one counts, as RFC 9111 §4.2.1 allows; of one that may name fields,
 * all that it names, or the whole answer.
 *
 * @returns undefined for a field that is no list of directives: nothing of it can be trusted
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

// Directives whose value is a number of seconds.
const SECONDS = new Set(['max-age', 's-maxage', 'stale-while-revalidate', 'stale-if-error'])

/**
 * A targeted field (RFC 9213 §2): a structured dictionary, and one that is not, or is empty, is as if it were not there.
 *
 * @returns undefined where the field does not count
 */
export function parseTargeted (field: string | undefined): Directives | undefined {
  if (field === undefined) return undefined
  try {
    const directives = new Map<string, string | true>()
    for (const [name, [value]] of parseDictionary(field)) {
      // A field with a value of the wrong type is no better than one that cannot be parsed.
      if (SECONDS.has(name) && !(typeof value === 'number' && Number.isInteger(value) && value >= 0)) return undefined
      if (value === false) continue
      const isText = typeof value === 'string' || value instanceof Token || (typeof value === 'number' && Number.isInteger(value))
      // What a value cannot be read as, it does not narrow.
      const text = isText ? String(value) : true
      directives.set(name, QUALIFIED.has(name) ? joinQualified(undefined, text) : text)
    }
    return directives.size === 0 ? undefined : directives
  } catch {
    return undefined
  }
}

// RFC 9111 §1.2.2: what is larger than can be represented is taken as the largest.
export const LARGEST_SECONDS = 2 ** 31

/** The delta-seconds of a directive; `'invalid'` where it is something else (RFC 9111 §4.2.1: take it as stale). */
export function secondsOf (directives: Directives, name: string): number | 'invalid' | undefined {
  const value = directives.get(name)
  if (value === undefined) return undefined
  return value !== true && /^\d+$/.test(value) ? Math.min(Number(value), LARGEST_SECONDS) : 'invalid'
}

/** Names of fields in the qualified form of a directive: `no-cache="set-cookie, x-a"`; undefined: the plain form. */
export function fieldsOf (directives: Directives, name: string): string[] | undefined {
  const value = directives.get(name)
  return value === undefined || value === true ? undefined : value.toLowerCase().split(',').map(field => field.trim()).filter(field => field !== '')
}
