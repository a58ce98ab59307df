import type { FastifyRequest } from 'fastify'
import { hashId } from '../shared/keys.js'
import { digestOf } from './body.js'
import { InvalidKeyError, InvalidValueError, MissingKeyError } from './errors.js'
import type { ResolvedRoute } from './options.js'

const MAX_KEY_LENGTH = 255
// A string of a structured field (RFC 9651), as the draft wants it, or the same without quotes, as most send it.
const QUOTED = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/
const PLAIN = /^[\x21\x23-\x2b\x2d-\x7e]+$/

/**
 * @returns the key, or undefined where there is none
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_KEY`, `FST_REDIS_SUITE_IDEMPOTENCY_MISSING_KEY`
 */
export function keyOf (request: FastifyRequest, { header, required }: ResolvedRoute): string | undefined {
  const given = request.headers[header]
  if (given === undefined) {
    if (required) throw new MissingKeyError(header)
    return undefined
  }
  const key = typeof given === 'string' ? parseKey(given.trim()) : undefined
  if (key === undefined) throw new InvalidKeyError(header, MAX_KEY_LENGTH)
  return key
}

/** @returns undefined where it is no key */
function parseKey (text: string): string | undefined {
  const quoted = QUOTED.exec(text)?.[1]?.replaceAll(/\\(.)/g, '$1')
  const key = quoted ?? (PLAIN.test(text) ? text : undefined)
  return key !== undefined && key !== '' && key.length <= MAX_KEY_LENGTH ? key : undefined
}

/**
 * Calls a function among the options. An `undefined` or an empty scope, as of a caller without an API key, would make such callers one.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE`
 */
export async function textOf (route: ResolvedRoute, option: 'scope' | 'fingerprint', request: FastifyRequest): Promise<string> {
  const text: unknown = await route[option](request)
  const mayBeEmpty = option === 'fingerprint'
  if (typeof text === 'string' && (text !== '' || mayBeEmpty)) return text
  throw new InvalidValueError(option, mayBeEmpty ? 'a string' : 'a string that is not empty', text === '' ? 'an empty one' : typeof text)
}

/** Of a key and its owner: nobody else's leads there. */
export function idOf (key: string, owner: string): string {
  return hashId(JSON.stringify([owner, key]))
}

/**
 * What the request asks for: a repetition has the same.
 *
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_UNSERIALIZABLE`
 */
export function fingerprintOf (request: FastifyRequest, more: string): string {
  return hashId(JSON.stringify([request.method, request.host, request.url, more, digestOf(request.body)]))
}
