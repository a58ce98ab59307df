import type { FastifyReply, FastifyRequest } from 'fastify'
import { parseCacheControl, parseTargeted, type Directives } from '../../rfc/cache-control.js'
import { joined } from '../../rfc/stored-headers.js'
import type { RequestCache } from '../request-state.js'
import { isPersonal } from './unkeyed-headers.js'

/** Fields that take precedence over `Cache-Control` for a CDN (RFC 9213 §2). */
const TARGETED_FIELDS = ['cdn-cache-control', 'cloudflare-cdn-cache-control', 'vercel-cdn-cache-control',
  'netlify-cdn-cache-control']
/** Fields of CDNs that have no word for "private", with the value that forbids to store the response. */
const OTHER_FIELDS = [['surrogate-control', 'no-store'], ['edge-control', 'no-store'],
  ['x-accel-expires', '0']] as const

type ForcePrivate = (request: FastifyRequest, reply: FastifyReply) => void

/**
 * Returns a function that excludes a response from shared caches in front of this process, such as a CDN: it adds
 * `private` to `Cache-Control` and to the fields for CDNs. A response with `public` is left as it is, and logged once.
 *
 * @param targeted - names of further targeted fields, in lower case
 */
export function createForcePrivate (targeted: readonly string[]): ForcePrivate {
  const fields = [...new Set([...targeted, ...TARGETED_FIELDS])]
  let isWarned = false
  return (request, reply) => {
    const headers = reply.getHeaders()
    const value = headers['cache-control']
    if (value !== 'private') {
      const field = privateField(joined(value), reply.statusCode)
      if (field.kind === 'public') {
        if (isWarned) return
        isWarned = true
        request.log.warn({ plugin: 'cache', route: request.routeOptions.url },
          'cache: the response of a private route says "Cache-Control: public", so that a CDN may send it to others; ' +
          'leave "public" out')
        return
      }
      if (field.kind === 'set') reply.header('cache-control', field.value)
    }
    for (const name of fields) forcePrivateTargeted(reply, name, joined(headers[name]))
    for (const [name, refusal] of OTHER_FIELDS) if (headers[name] !== undefined) reply.header(name, refusal)
  }
}

/** Reasons that a shared cache in front cannot know. It knows the meaning of `Authorization` (RFC 9111 §3.5). */
const PERSONAL_REASONS = new Set(['session', 'user'])

/**
 * Adds `private` to the `Cache-Control` of a response that may be one user's and is not stored here, unless the
 * response addresses shared caches itself. Another reason, such as `Set-Cookie`, may be why it is not stored.
 */
export function forcePrivateIfPersonal (state: RequestCache): void {
  const { reply } = state
  if (!PERSONAL_REASONS.has(state.why) && !isPersonal(state)) return
  const value = joined(reply.getHeader('cache-control'))
  const field = privateField(value, reply.statusCode)
  if (field.kind === 'set' && !parseCacheControl(value)?.has('s-maxage')) reply.header('cache-control', field.value)
}

const UNCHANGED = { kind: 'unchanged' } as const
const PRIVATE = { kind: 'set', value: 'private' } as const

type PrivateField = { kind: 'unchanged' } | { kind: 'public' } | { kind: 'set', value: string }

/** Returns how a `Cache-Control` field becomes private. */
function privateField (value: string | undefined, status: number): PrivateField {
  // After a 304 without the field, a client keeps the field that it has stored (RFC 9111 §3.2).
  if (value === undefined) return status === 304 ? UNCHANGED : PRIVATE
  const directives = parseCacheControl(value)
  if (directives === undefined || directives.size === 0) return PRIVATE
  if (directives.has('public')) return { kind: 'public' }
  return isPrivate(directives) ? UNCHANGED : { kind: 'set', value: `${value}, private` }
}

function forcePrivateTargeted (reply: FastifyReply, name: string, value: string | undefined): void {
  if (value === undefined) return
  const directives = parseTargeted(value)
  // A field that cannot be parsed is ignored (RFC 9213 §2.1), but not every CDN is that strict.
  if (directives === undefined) reply.header(name, 'private')
  else if (!directives.has('public') && !isPrivate(directives)) reply.header(name, `${value}, private`)
}

/**
 * Whether directives exclude shared caches. A cache that understands the status ignores `no-store` beside
 * `must-understand` (RFC 9111 §5.2.2.3).
 */
function isPrivate (directives: Directives): boolean {
  return directives.get('private') === true || (directives.has('no-store') && !directives.has('must-understand'))
}
