import type { FastifyReply } from 'fastify'

type Headers = Record<string, string | string[]>

/** Names of headers in lower case. */
export interface HeaderNames {
  readonly exact: readonly string[]
  /** What all of the names that a `*` stands for begin with. */
  readonly starts: readonly string[]
}

// Of one connection (RFC 9110 §7.6.1), of one client, or made for each response.
const NEVER = new Set(['connection', 'proxy-connection', 'keep-alive', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'proxy-authenticate', 'proxy-authentication-info',
  'set-cookie', 'content-length', 'date', 'idempotency-replayed'])
// Those of other plugins, and those that name or time one request. They are kept by their own names alone.
const OF_ONE_REQUEST = /^x-(?:cache|ratelimit-.*|request-id|correlation-id|trace-id|response-time|runtime)$/

/** Reads the option `headers`, and leaves out what no response is replayed with. */
export function resolveHeaders (given: readonly string[]): HeaderNames {
  const names = given.map(name => name.toLowerCase()).filter(name => !NEVER.has(name))
  const isPattern = (name: string): boolean => name.endsWith('*')
  return { exact: names.filter(name => !isPattern(name)), starts: names.filter(isPattern).map(name => name.slice(0, -1)) }
}

/**
 * Returns the headers of a response that are kept.
 *
 * @param before - the headers before the handler ran: hooks set them for each response, so a `*` does not stand for them
 */
export function storedHeaders (reply: FastifyReply, { exact, starts }: HeaderNames, before: object): Headers {
  const kept: Headers = {}
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    const isKept = exact.includes(name) || (starts.some(start => name.startsWith(start)) && isOfHandler(name, value, before))
    if (isKept && value !== undefined) kept[name] = Array.isArray(value) ? value : String(value)
  }
  return kept
}

function isOfHandler (name: string, value: unknown, before: object): boolean {
  return !NEVER.has(name) && !OF_ONE_REQUEST.test(name) && value !== Reflect.get(before, name)
}

/** Makes the headers that are named those of the first response, whatever hooks have set since. A hook may set again what a `*` stands for. */
export function restoreHeaders (reply: FastifyReply, { exact }: HeaderNames, headers: Readonly<Headers>): void {
  for (const name of exact) {
    const value = headers[name]
    if (value === undefined) reply.removeHeader(name)
    else reply.header(name, value)
  }
}
