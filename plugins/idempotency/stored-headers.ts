import type { FastifyReply } from 'fastify'

type Headers = Record<string, string | string[]>

/** Names of response headers in lower case. */
export interface StoredHeaderNames {
  readonly exact: readonly string[]
  /** The beginnings of names that end in `*`. */
  readonly prefixes: readonly string[]
}

// Never stored: hop-by-hop fields (RFC 9110 §7.6.1), fields of one client, and fields that are computed for each
// response.
const NEVER_STORED = new Set([
  'connection', 'proxy-connection', 'keep-alive', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'proxy-authenticate',
  'proxy-authentication-info', 'set-cookie', 'content-length', 'date', 'idempotency-replayed'
])
// Stored only if listed without `*`: fields of other plugins, and fields that identify or time one request.
const PER_REQUEST = /^x-(?:cache|ratelimit-.*|request-id|correlation-id|trace-id|response-time|runtime)$/

/** Resolves the option `headers`, without the fields that are never stored. */
export function resolveHeaders (given: readonly string[]): StoredHeaderNames {
  const names = given.map(name => name.toLowerCase()).filter(name => !NEVER_STORED.has(name))
  const isPattern = (name: string): boolean => name.endsWith('*')
  return {
    exact: names.filter(name => !isPattern(name)), prefixes: names.filter(isPattern).map(name => name.slice(0, -1))
  }
}

/**
 * Returns the headers of a response that are stored.
 *
 * @param before - the headers before the handler ran: hooks set them for each response, so a `*` does not match them
 */
export function storedHeaders (reply: FastifyReply, { exact, prefixes }: StoredHeaderNames, before: object): Headers {
  const stored: Headers = {}
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    const isStored = exact.includes(name) ||
      (prefixes.some(prefix => name.startsWith(prefix)) && isSetByHandler(name, value, before))
    if (isStored && value !== undefined) stored[name] = Array.isArray(value) ? value : String(value)
  }
  return stored
}

function isSetByHandler (name: string, value: unknown, before: object): boolean {
  return !NEVER_STORED.has(name) && !PER_REQUEST.test(name) && value !== Reflect.get(before, name)
}

/** Restores the listed headers of the stored response. Hooks may replace those that a `*` matches. */
export function restoreHeaders (reply: FastifyReply, { exact }: StoredHeaderNames, headers: Readonly<Headers>): void {
  for (const name of exact) {
    const value = headers[name]
    if (value === undefined) reply.removeHeader(name)
    else reply.header(name, value)
  }
}
