import type { FastifyReply } from 'fastify'
import { joined } from './stored-headers.js'

/**
 * The request headers that an answer varies by, in lower case.
 *
 * @returns `*` where no other request can be told to be the same (RFC 9111 §4.1)
 */
export function parseVary (field: string | undefined): string[] | '*' {
  const names = (field ?? '').toLowerCase().split(',').map(name => name.trim()).filter(name => name !== '')
  return names.includes('*') ? '*' : [...new Set(names)].sort()
}

/**
 * Returns the `Vary` that names what a route's key consists of, for caches in front; undefined where the key is the URL alone. Caches in front have
 * the host in their own keys.
 *
 * @param names - of headers and, as `cookie:{name}`, of cookies
 */
export function varyOfKey (names: readonly string[]): string | undefined {
  const fields = new Set(names.map(name => name.startsWith(COOKIE) ? 'cookie' : name).filter(name => name !== 'host' && !name.startsWith(':')))
  return fields.size === 0 ? undefined : [...fields].join(', ')
}

/** Adds names to a `Vary` field, each once. */
export function mergeVary (field: string | undefined, names: string): string {
  if (parseVary(field) === '*') return '*'
  const spelled = [...(field ?? '').split(','), ...names.split(',')].map(name => name.trim()).filter(name => name !== '')
  return spelled.filter((name, i) => spelled.findIndex(each => each.toLowerCase() === name.toLowerCase()) === i).join(', ')
}

/** Adds names to a reply's `Vary`, each once. */
export function addVary (reply: FastifyReply, names: string): void {
  const present = reply.getHeader('vary')
  if (present !== names) reply.header('vary', mergeVary(joined(present), names))
}

/** Begins the name of a cookie. */
export const COOKIE = 'cookie:'

// No header's value has this character: one that is absent is like no other (RFC 9111 §4.1).
const ABSENT = '\0'

/** A header's value as it selects an answer: spellings that mean the same are the same (RFC 9111 §4.1). */
export function normalizeSelecting (name: string, value: string | string[] | undefined): string {
  // Of a name such as "constructor" the headers have something, but no header.
  if (typeof value !== 'string' && !Array.isArray(value)) return ABSENT
  const joined = (Array.isArray(value) ? value.join(',') : value).trim()
  if (name === 'accept-encoding' || name === 'accept-language') return byPreference(joined, name === 'accept-encoding')
  // Within quotes a space is a space.
  return joined.includes('"') ? joined : joined.split(',').map(part => part.trim().replaceAll(/[\t ]+/g, ' ')).join(',')
}

/** The value of a request by which a route tells responses apart: of a header, or of a cookie (`cookie:{name}`). */
export function selectingValue (name: string, headers: Record<string, string | string[] | undefined>): string {
  return name.startsWith(COOKIE) ? cookieOf(headers['cookie'], name.slice(COOKIE.length)) ?? ABSENT : normalizeSelecting(name, headers[name])
}

/** @returns the text of the first cookie of that name, which is the one that parsers take */
export function cookieOf (text: string | string[] | undefined, name: string): string | undefined {
  if (typeof text !== 'string') return undefined
  for (const pair of text.split(';')) {
    const at = pair.indexOf('=')
    if (at !== -1 && pair.slice(0, at).trim() === name) return pair.slice(at + 1).trim()
  }
  return undefined
}

const WEIGHTED = /^([^\s;]+)(?:\s*;\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?$/

/**
 * What is weighted: in lower case, the most wanted first. What is refused (`q=0`) is kept, as it is not the same as what is
 * not named. The order of what is wanted equally is none for encodings, but for languages some go by it (RFC 9110 §12.5.4).
 */
function byPreference (value: string, isOrderFree: boolean): string {
  const parts = value.toLowerCase().split(',').map(part => part.trim()).filter(part => part !== '').map(part => WEIGHTED.exec(part))
  const readable = parts.filter(part => part !== null)
  if (readable.length < parts.length) return value
  return readable.map(([, name = '', q = '1']) => ({ name, q: Number(q) }))
    .sort((a, b) => b.q - a.q || (!isOrderFree || a.name === b.name ? 0 : a.name < b.name ? -1 : 1))
    .map(({ name, q }) => q === 1 ? name : `${name};q=${q}`)
    .join(',')
}
