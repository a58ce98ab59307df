import type { FastifyRequest } from 'fastify'
import { describe, routeOf } from '../shared/plugin/errors.js'
import { hashId } from '../shared/plugin/keys.js'
import { InvalidKeyError, InvalidValueError, MissingKeyError } from './errors.js'
import type { ResolvedRouteIdempotency } from './options.js'

const MAX_KEY_LENGTH = 255
// A string of a structured field (RFC 9651 §3.3.3), as the draft requires; most clients send the same without quotes.
const QUOTED = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/
const ASCII = /^[\x20-\x7e]*$/
// The last quote is not escaped.
const CLOSED = /^".*[^\\](?:\\\\)*"$/
const PLAIN = /^[\x21\x23-\x2b\x2d-\x7e]+$/

/**
 * Returns the key of a request; `undefined` if it has none.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_KEY`, `FST_REDIS_SUITE_IDEMPOTENCY_MISSING_KEY`
 */
export function keyOf (request: FastifyRequest, { header, required }: ResolvedRouteIdempotency): string | undefined {
  const given = request.headers[header]
  if (given === undefined) {
    if (required) throw new MissingKeyError(header)
    return undefined
  }
  const text = String(given).trim()
  const key = QUOTED.exec(text)?.[1]?.replaceAll(/\\(.)/g, '$1') ?? (PLAIN.test(text) ? text : undefined)
  if (key === undefined || key === '' || key.length > MAX_KEY_LENGTH) {
    throw new InvalidKeyError(header, invalidityOf(text, key), MAX_KEY_LENGTH)
  }
  return key
}

/** @param key - the parsed key; undefined if the text cannot be parsed */
function invalidityOf (text: string, key: string | undefined): string {
  if (text === '' || key === '') return 'is empty'
  if (key !== undefined) return `has a key of ${key.length} characters`
  if (!ASCII.test(text)) return 'has a character that is not printable ASCII'
  if (!text.startsWith('"')) {
    return text.includes('"')
      ? 'has a quote, but does not begin with one'
      : 'has a blank or a comma outside of quotes, as if it was sent twice'
  }
  return CLOSED.test(text)
    ? 'has a quote or a backslash between its quotes that no backslash precedes'
    : 'begins with a quote, but does not end with one'
}

/**
 * Calls the option `scope` or `fingerprint`. A scope that is undefined or empty, such as that of callers without an API
 * key, would make all of them one caller.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE`
 */
export async function textOf (
  route: ResolvedRouteIdempotency, option: 'scope' | 'fingerprint', request: FastifyRequest
): Promise<string> {
  const text: unknown = await route[option](request)
  const mayBeEmpty = option === 'fingerprint'
  if (typeof text === 'string' && (text !== '' || mayBeEmpty)) return text
  const allowed = `a string${mayBeEmpty ? '' : ' that is not empty'}; refuse such a request in an earlier hook, or ` +
    'return a string that identifies it'
  throw new InvalidValueError(`route ${routeOf(request)}: the function "${option}" returned`, describe(text), allowed)
}

/** Returns the id under which the store has a key: another scope never has the same id. */
export function idOf (key: string, scope: string): string {
  return hashId(JSON.stringify([scope, key]))
}
