import { parseCacheControl } from './cache-control.js'

export type Headers = Record<string, string | string[]>

// Of one connection (RFC 9110 §7.6.1) or of this answer alone; what is made anew for each answer; and how much a client may
// still ask, which would be another one's.
const NEVER_STORED = /^(?:connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|age|x-cache|cache-status|content-length|(?:x-)?ratelimit.*)$/
// What belongs to the body that is stored, and not to the 304 that confirms it (RFC 9111 §3.2).
const OF_THE_BODY = new Set(['content-encoding', 'content-length', 'content-md5', 'content-range', 'etag'])

/**
 * The headers of an answer that are kept with it.
 *
 * @param before - those that stood there before the handler ran: whoever sets them sets them for each request
 * @param excluded - further names, in lower case
 */
export function storedHeaders (headers: Record<string, unknown>, before: Record<string, unknown>, excluded: readonly string[] = []): Headers {
  const named = String(headers['connection'] ?? '').toLowerCase().split(',').map(name => name.trim())
  const kept: Headers = {}
  for (const [name, value] of Object.entries(headers)) {
    if (value === undefined || value === before[name] || NEVER_STORED.test(name) || named.includes(name) || excluded.includes(name)) continue
    kept[name] = Array.isArray(value) ? value.map(String) : String(value)
  }
  return kept
}

/** What is stored, with the headers of a 304 that confirms it: RFC 9111 §4.3.4. */
export function freshenedHeaders (stored: Headers, confirmed: Headers): Headers {
  return { ...stored, ...Object.fromEntries(Object.entries(confirmed).filter(([name]) => !OF_THE_BODY.has(name))) }
}

const NAME = /^[!#$%&'*+.^_`|~\da-z-]+$/
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/

/** Whether something that was read back is headers that can be sent. */
export function isHeaders (value: unknown): value is Headers {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  return Object.entries(value).every(([name, field]) => NAME.test(name) && name !== '__proto__' && !NEVER_STORED.test(name) &&
    (Array.isArray(field) ? field : [field]).every(text => typeof text === 'string' && VALUE.test(text)))
}

/** One text of a field that may be there several times. */
export function joined (value: unknown): string | undefined {
  if (value === undefined) return undefined
  return Array.isArray(value) ? value.join(', ') : String(value)
}

/** The request's directives; `Pragma: no-cache` where it has none (RFC 9111 §5.4). */
export function requestDirectives (headers: Record<string, string | string[] | undefined>) {
  const field = joined(headers['cache-control'])
  if (field === undefined) return /\bno-cache\b/i.test(joined(headers['pragma']) ?? '') ? new Map([['no-cache', true as const]]) : undefined
  // What cannot be read asks for nothing.
  return parseCacheControl(field)
}
