import { parseCacheControl, type Directives } from './cache-control.js'

export type Headers = Record<string, string | string[]>

/**
 * Fields that are never stored: hop-by-hop fields (RFC 9110 §7.6.1), fields that are recomputed for each response, and
 * the rate-limit state of one client.
 */
const NEVER_STORED = new RegExp('^(?:connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|' +
  'age|x-cache|cache-status|content-length|(?:x-)?ratelimit.*)$')
/** Fields that describe the stored body, and not the 304 that confirms it (RFC 9111 §3.2). */
const BODY_FIELDS = new Set(['content-encoding', 'content-length', 'content-md5', 'content-range', 'etag'])

/**
 * Returns the headers that are stored with a response (RFC 9111 §3.1).
 *
 * @param before - the headers before the handler ran: hooks set these for each request
 * @param excluded - further names, in lower case
 */
export function storedHeaders (
  headers: Record<string, unknown>, before: Record<string, unknown>, excluded: readonly string[] = []
): Headers {
  const named = String(headers['connection'] ?? '').toLowerCase().split(',').map(name => name.trim())
  const stored: Headers = {}
  for (const [name, value] of Object.entries(headers)) {
    const isExcluded = NEVER_STORED.test(name) || named.includes(name) || excluded.includes(name)
    if (value === undefined || value === before[name] || isExcluded) continue
    stored[name] = Array.isArray(value) ? value.map(String) : String(value)
  }
  return stored
}

/** Returns the stored headers, updated by those of a 304 that confirms the response (RFC 9111 §4.3.4). */
export function freshenedHeaders (stored: Headers, confirmed: Headers): Headers {
  return { ...stored, ...Object.fromEntries(Object.entries(confirmed).filter(([name]) => !BODY_FIELDS.has(name))) }
}

const NAME = /^[!#$%&'*+.^_`|~\da-z-]+$/
const VALUE = /^[\t\x20-\x7e\x80-\xff]*$/

/** Names that have been checked. Responses have few different ones, and each check would cost 0.1 µs. */
const checkedNames = new Set<string>()
const MAX_CHECKED_NAMES = 1000

/** Whether a value that was read from the store consists of headers that can be sent. */
export function isHeaders (value: unknown): value is Headers {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  for (const name of Object.keys(value)) {
    const field: unknown = Reflect.get(value, name)
    if (!isStoredName(name) || !(Array.isArray(field) ? field.every(isValue) : isValue(field))) return false
  }
  return true
}

function isStoredName (name: string): boolean {
  if (checkedNames.has(name)) return true
  if (!NAME.test(name) || name === '__proto__' || NEVER_STORED.test(name)) return false
  if (checkedNames.size < MAX_CHECKED_NAMES) checkedNames.add(name)
  return true
}

function isValue (value: unknown): boolean {
  return typeof value === 'string' && VALUE.test(value)
}

/** Returns one text of a field that may have several lines (RFC 9110 §5.3). */
export function joined (value: unknown): string | undefined {
  if (value === undefined) return undefined
  return Array.isArray(value) ? value.join(', ') : String(value)
}

/** Returns the directives of a request. `Pragma: no-cache` counts where it has no `Cache-Control` (RFC 9111 §5.4). */
export function requestDirectives (headers: Record<string, string | string[] | undefined>): Directives | undefined {
  const field = joined(headers['cache-control'])
  if (field === undefined) {
    return /\bno-cache\b/i.test(joined(headers['pragma']) ?? '') ? new Map([['no-cache', true as const]]) : undefined
  }
  // A field that cannot be parsed is ignored.
  return parseCacheControl(field)
}
