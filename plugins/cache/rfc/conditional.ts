import { parseHttpDate } from './http-date.js'

/** By which a stored answer can be told from another one. */
export interface Validators {
  etag: string | undefined
  lastModified: string | undefined
  /** When it was generated, in milliseconds since the epoch. */
  date: number
}

const ENTITY_TAG = /^[\t ,]*((?:W\/)?"[\u0021\u0023-\u007e\u0080-\u00ff]*")[\t ]*(?=,|$)/

/** The entity tags of `If-None-Match` or `If-Match`; what is not one ends the list. */
export function parseEntityTags (field: string): string[] {
  const tags: string[] = []
  let rest = field
  for (let match = ENTITY_TAG.exec(rest); match !== null; match = ENTITY_TAG.exec(rest)) {
    tags.push(match[1] ?? '')
    rest = rest.slice(match[0].length)
  }
  return tags
}

/** RFC 9110 §13.1.2, by weak comparison. */
export function matchesEtag (ifNoneMatch: string, etag: string | undefined): boolean {
  if (ifNoneMatch.trim() === '*') return true
  if (etag === undefined) return false
  const opaque = (tag: string) => tag.replace(/^W\//, '')
  return parseEntityTags(ifNoneMatch).some(tag => opaque(tag) === opaque(etag))
}

/** Whether the client has what is stored: RFC 9110 §13.2.2, where `If-None-Match` takes precedence, and RFC 9111 §4.3.2. */
export function isNotModified (ifNoneMatch: string | undefined, ifModifiedSince: string | undefined, stored: Validators): boolean {
  if (ifNoneMatch !== undefined) return matchesEtag(ifNoneMatch, stored.etag)
  const since = parseHttpDate(ifModifiedSince)
  return since !== undefined && (parseHttpDate(stored.lastModified) ?? stored.date) <= since
}

/** The headers with which to ask whether what is stored is still right: RFC 9111 §4.3.1. */
export function validationHeaders ({ etag, lastModified }: Validators): Record<string, string> {
  return {
    ...(etag !== undefined && { 'if-none-match': etag }),
    ...(lastModified !== undefined && { 'if-modified-since': lastModified })
  }
}
