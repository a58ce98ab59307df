import type { FastifyReply } from 'fastify'
import { joined } from './stored-headers.js'

/**
 * Returns the request headers that a response varies by, in lower case.
 *
 * @returns `*` where no other request matches (RFC 9111 §4.1)
 */
export function parseVary (field: string | undefined): string[] | '*' {
  const names = (field ?? '').toLowerCase().split(',').map(name => name.trim()).filter(name => name !== '')
  return names.includes('*') ? '*' : [...new Set(names)].sort()
}

/**
 * Returns the `Vary` field that announces the parts of a route's key to caches in front; undefined where the key is the
 * URL alone. Caches in front have the host in their own keys.
 *
 * @param names - of headers and, as `cookie:{name}`, of cookies
 */
export function varyOfKey (names: readonly string[]): string | undefined {
  const fields = new Set(names.map(name => name.startsWith(COOKIE) ? 'cookie' : name))
  for (const name of fields) if (name === 'host' || name.startsWith(':')) fields.delete(name)
  return fields.size === 0 ? undefined : [...fields].join(', ')
}

/** Returns a `Vary` field with further names, each once. */
export function mergeVary (field: string | undefined, names: string): string {
  if (parseVary(field) === '*') return '*'
  const spelled = [...(field ?? '').split(','), ...names.split(',')].map(name => name.trim())
    .filter(name => name !== '')
  return spelled.filter((name, i) => spelled.findIndex(each => each.toLowerCase() === name.toLowerCase()) === i)
    .join(', ')
}

/** Adds names to a reply's `Vary`, each once. */
export function addVary (reply: FastifyReply, names: string): void {
  const present = reply.getHeader('vary')
  if (present !== names) reply.header('vary', mergeVary(joined(present), names))
}

/** The prefix of a cookie's name among the names of headers. */
export const COOKIE = 'cookie:'

/** Stands for an absent header. No header's value has this character (RFC 9111 §4.1). */
const ABSENT = '\0'

/** Returns a header's value in a normal form, so that equivalent values select the same response (RFC 9111 §4.1). */
export function normalizeSelecting (name: string, value: string | string[] | undefined): string {
  // For a name such as "constructor" the object of the headers has a value that is no header.
  if (typeof value !== 'string' && !Array.isArray(value)) return ABSENT
  const joined = (Array.isArray(value) ? value.join(',') : value).trim()
  if (name === 'accept-encoding' || name === 'accept-language') return byPreference(joined, name === 'accept-encoding')
  // Spaces within quotes are significant.
  return joined.includes('"') ? joined : joined.split(',').map(part => part.trim().replaceAll(/[\t ]+/g, ' ')).join(',')
}

/** Returns the value of a header or a cookie (`cookie:{name}`) that is a part of a route's key. */
export function selectingValue (name: string, headers: Record<string, string | string[] | undefined>): string {
  return name.startsWith(COOKIE)
    ? cookieOf(headers['cookie'], name.slice(COOKIE.length)) ?? ABSENT
    : normalizeSelecting(name, headers[name])
}

/** Returns the text of the first cookie of that name, which parsers prefer. */
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
 * Sorts weighted members in lower case, the most preferred first. Refused members (`q=0`) remain, as they differ from
 * absent ones. The order of equal weights is ignored for encodings, but some servers follow it for languages (RFC 9110
 * §12.5.4).
 */
function byPreference (value: string, isOrderFree: boolean): string {
  const parts = value.toLowerCase().split(',').map(part => part.trim()).filter(part => part !== '')
    .map(part => WEIGHTED.exec(part))
  const readable = parts.filter(part => part !== null)
  if (readable.length < parts.length) return value
  return readable.map(([, name = '', q = '1']) => ({ name, q: Number(q) }))
    .sort((a, b) => b.q - a.q || (!isOrderFree || a.name === b.name ? 0 : a.name < b.name ? -1 : 1))
    .map(({ name, q }) => q === 1 ? name : `${name};q=${q}`)
    .join(',')
}
