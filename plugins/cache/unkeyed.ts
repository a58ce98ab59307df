import type { FastifyRequest } from 'fastify'

// Of the connection, of the message's form, and those whose meaning the cache itself takes care of.
const HARMLESS = new Set(['accept-version', 'cache-control', 'connection', 'content-length', 'content-type', 'expect', 'if-match', 'if-modified-since', 'if-none-match',
  'if-range', 'if-unmodified-since', 'pragma', 'range', 'transfer-encoding'])

/** Which request headers a handler reads. */
export interface UnkeyedReads {
  /** Ends the watching. @param keyed - the headers that are in the key or in `Vary` @returns the others that were read */
  end (keyed: readonly string[]): string[]
}

/** Watches the request's headers: an answer that depends on one that is not in the key may be given to somebody else. */
export function watchReads (request: FastifyRequest): UnkeyedReads {
  const { raw } = request
  const { headers } = raw
  const read = new Set<string>()
  raw.headers = watched(headers, name => read.add(name))
  // @fastify/cookie has read them before.
  const cookies: unknown = Reflect.get(request, 'cookies')
  const hasCookies = typeof cookies === 'object' && cookies !== null
  if (hasCookies) Reflect.set(request, 'cookies', watched(cookies, () => read.add('cookie')))
  return {
    end (keyed) {
      raw.headers = headers
      if (hasCookies) Reflect.set(request, 'cookies', cookies)
      return [...read].filter(name => !HARMLESS.has(name) && !keyed.includes(name))
    }
  }
}

function watched<T extends object> (target: T, onRead: (name: string) => void): T {
  return new Proxy(target, {
    get (target, name, receiver) {
      if (typeof name === 'string' && Object.hasOwn(target, name)) onRead(name)
      return Reflect.get(target, name, receiver)
    }
  })
}
