import { parseHttpDate } from './http-date.js'

/** The validators of a stored response (RFC 9110 §8.8). */
export interface Validators {
  etag: string | undefined
  lastModified: string | undefined
  /** When the response was generated: milliseconds since the epoch. */
  date: number
}

const ENTITY_TAG = /^[\t ,]*((?:W\/)?"[\u0021\u0023-\u007e\u0080-\u00ff]*")[\t ]*(?=,|$)/

/** Returns the entity tags of `If-None-Match` or `If-Match`, up to the first text that is none. */
export function parseEntityTags (field: string): string[] {
  const tags: string[] = []
  let rest = field
  for (let match = ENTITY_TAG.exec(rest); match !== null; match = ENTITY_TAG.exec(rest)) {
    tags.push(match[1] ?? '')
    rest = rest.slice(match[0].length)
  }
  return tags
}

/** Whether `If-None-Match` lists an entity tag, by weak comparison (RFC 9110 §13.1.2). */
export function matchesEtag (ifNoneMatch: string, etag: string | undefined): boolean {
  if (ifNoneMatch.trim() === '*') return true
  if (etag === undefined) return false
  const opaque = (tag: string) => tag.replace(/^W\//, '')
  return parseEntityTags(ifNoneMatch).some(tag => opaque(tag) === opaque(etag))
}

/**
 * Whether the client has the stored response (RFC 9111 §4.3.2). `If-None-Match` takes precedence (RFC 9110 §13.2.2).
 */
export function isNotModified (
  ifNoneMatch: string | undefined, ifModifiedSince: string | undefined, stored: Validators
): boolean {
  if (ifNoneMatch !== undefined) return matchesEtag(ifNoneMatch, stored.etag)
  const since = parseHttpDate(ifModifiedSince)
  return since !== undefined && (parseHttpDate(stored.lastModified) ?? stored.date) <= since
}

/** Returns the conditions that ask whether the stored response is still valid (RFC 9111 §4.3.1). */
export function validationHeaders ({ etag, lastModified }: Validators): Record<string, string> {
  return {
    ...(etag !== undefined && { 'if-none-match': etag }),
    ...(lastModified !== undefined && { 'if-modified-since': lastModified })
  }
}
