import type { FastifyReply, FastifyRequest } from 'fastify'
import { parseCacheControl, parseTargeted, type Directives } from '../../rfc/cache-control.js'
import { joined } from '../../rfc/stored-headers.js'
import type { RequestCache } from '../request-state.js'
import { isPersonal } from './unkeyed-headers.js'

// Fields that a CDN heeds above Cache-Control (RFC 9213 §2).
const TARGETED = ['cdn-cache-control', 'cloudflare-cdn-cache-control', 'vercel-cdn-cache-control', 'netlify-cdn-cache-control']
// Fields of others that have no word for "private", and how each says that the response is not to be stored.
const OTHERS = [['surrogate-control', 'no-store'], ['edge-control', 'no-store'], ['x-accel-expires', '0']] as const

type ForcePrivate = (request: FastifyRequest, reply: FastifyReply) => void

/**
 * Returns a function that keeps a response out of shared caches between this process and its owner, such as a CDN: it adds `private` to
 * `Cache-Control` and to the fields by which CDNs are addressed. A response that says `public` is left as it is, and logged once.
 *
 * @param targeted - names of further targeted fields, in lower case
 */
export function createForcePrivate (targeted: readonly string[]): ForcePrivate {
  const fields = [...new Set([...targeted, ...TARGETED])]
  let isWarned = false
  return (request, reply) => {
    const headers = reply.getHeaders()
    const value = headers['cache-control']
    if (value !== 'private') {
      const kept = keptPrivate(joined(value), reply.statusCode)
      if (kept === 'public') {
        if (!isWarned) request.log.warn({ plugin: 'cache', route: request.routeOptions.url }, 'cache: the response of a private route says "Cache-Control: public", so that a CDN may send it to others; leave "public" out')
        isWarned = true
        return
      }
      if (kept !== undefined) reply.header('cache-control', kept)
    }
    for (const name of fields) keepTargeted(reply, name, joined(headers[name]))
    for (const [name, refusal] of OTHERS) if (headers[name] !== undefined) reply.header(name, refusal)
  }
}

// A shared cache sees neither sessions nor what the handler read. It knows what `Authorization` means (RFC 9111 §3.5).
const PERSONAL = new Set(['session', 'user'])

/**
 * Adds `private` to the `Cache-Control` of a response that this cache does not store as it may be one user's, unless the response
 * addresses shared caches itself.
 *
 * It may be one user's also where something else, such as `Set-Cookie`, keeps it out of this cache.
 */
export function forcePrivateIfPersonal (reply: FastifyReply, state: RequestCache): void {
  if (!PERSONAL.has(state.why) && !isPersonal(reply, state)) return
  const value = joined(reply.getHeader('cache-control'))
  const kept = keptPrivate(value, reply.statusCode)
  if (kept !== undefined && kept !== 'public' && !parseCacheControl(value)?.has('s-maxage')) reply.header('cache-control', kept)
}

/** @returns the field to send; undefined where it may stay as it is; `'public'` where it says so */
function keptPrivate (value: string | undefined, status: number): string | undefined {
  // A client keeps the field that it stored with the response, where a 304 has none (RFC 9111 §3.2).
  if (value === undefined) return status === 304 ? undefined : 'private'
  const directives = parseCacheControl(value)
  if (directives === undefined || directives.size === 0) return 'private'
  if (directives.has('public')) return 'public'
  return isPrivate(directives) ? undefined : `${value}, private`
}

function keepTargeted (reply: FastifyReply, name: string, value: string | undefined): void {
  if (value === undefined) return
  const directives = parseTargeted(value)
  // A field that cannot be parsed does not count, but not every CDN is that strict.
  if (directives === undefined) reply.header(name, 'private')
  else if (!directives.has('public') && !isPrivate(directives)) reply.header(name, `${value}, private`)
}

/** A cache that understands the status ignores the `no-store` beside `must-understand` (RFC 9111 §5.2.2.3). */
function isPrivate (directives: Directives): boolean {
  return directives.get('private') === true || (directives.has('no-store') && !directives.has('must-understand'))
}
