import type { FastifyRequest } from 'fastify'
import { hashId } from '../shared/plugin/keys.js'
import { digestOf } from './body.js'

const PARTS = ['method', 'host', 'path', 'query', 'body', 'fingerprint'] as const
/** Characters of each part's digest, which show what differs. The digest of all parts decides whether anything does. */
const HINT_LENGTH = 4

/**
 * Returns a digest of what the request asks for, which a repetition has as well, and after it a short one of each part.
 *
 * @param more - what the option `fingerprint` returned
 * @throws `FST_REDIS_SUITE_IDEMPOTENCY_UNSERIALIZABLE`
 */
export function fingerprintOf ({ method, host, url, body }: FastifyRequest, more: string): string {
  const end = url.indexOf('?')
  const [path, query] = end === -1 ? [url, ''] : [url.slice(0, end), url.slice(end)]
  const parts = [method, host, path, query, digestOf(body), more]
  return `${hashId(JSON.stringify(parts))}.${parts.map(part => hashId(part).slice(0, HINT_LENGTH)).join('')}`
}

/** Returns in which parts two requests differ; an empty list where it cannot be told. */
export function differencesOf (a: string, b: string): string[] {
  const [hints, others] = [a, b].map(print => print.split('.')[1] ?? '')
  if (hints?.length !== PARTS.length * HINT_LENGTH || others?.length !== hints.length) return []
  return PARTS.filter((_, i) => hintAt(hints, i) !== hintAt(others, i))
}

function hintAt (hints: string, part: number): string {
  return hints.slice(part * HINT_LENGTH, (part + 1) * HINT_LENGTH)
}
