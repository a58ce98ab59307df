import type { FastifyReply, FastifyRequest } from 'fastify'

// Never stored: they belong to one connection or one answer (RFC 9110 §7.6.1), to one client, or are made anew.
const NOT_STORED = /^(connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|set-cookie|age|date|x-cache|content-length|retry-after|(x-)?ratelimit.*)$/

/** Why a request may be answered out of the cache for nobody. A partition of its own (`private`) lifts what concerns identity. */
export function mayLookUp (request: FastifyRequest, hasOwner: boolean): boolean {
  if (request.method !== 'GET' && request.method !== 'HEAD') return false
  if (request.headers['content-length'] !== undefined || request.headers['transfer-encoding'] !== undefined) return false
  return hasOwner || (request.headers.authorization === undefined && !hasSession(request))
}

/** RFC 9111 §3, for a shared cache that only stores whole, successful answers. */
export function mayStore (request: FastifyRequest, reply: FastifyReply, hasOwner: boolean): boolean {
  if (request.method !== 'GET' || reply.statusCode !== 200) return false
  if (reply.hasHeader('set-cookie') || (!hasOwner && hasSession(request))) return false
  if (/\*/.test(String(reply.getHeader('vary') ?? ''))) return false
  const control = String(reply.getHeader('cache-control') ?? '').toLowerCase()
  return !/\bno-store\b|\bno-cache\b/.test(control) && (hasOwner || !/\bprivate\b/.test(control))
}

/** Any session plugin's: one that holds something makes the answer somebody's. */
function hasSession (request: FastifyRequest): boolean {
  const session: unknown = Reflect.get(request, 'session')
  return typeof session === 'object' && session !== null && Object.keys(session).some(name => name !== 'cookie')
}

/** The headers to keep with an answer. */
export function storedHeaders (reply: FastifyReply): Record<string, string> {
  const named = String(reply.getHeader('connection') ?? '').toLowerCase().split(',').map(name => name.trim())
  const kept: Record<string, string> = {}
  for (const [name, value] of Object.entries(reply.getHeaders())) {
    if (value !== undefined && !Array.isArray(value) && !NOT_STORED.test(name) && !named.includes(name)) kept[name] = String(value)
  }
  return kept
}

/** Whether a validator of the request names the answer (RFC 9110 §13.1.2, weak comparison). */
export function matchesEtag (ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false
  if (ifNoneMatch.trim() === '*') return true
  const weak = (tag: string) => tag.trim().replace(/^W\//, '')
  return ifNoneMatch.split(',').some(tag => weak(tag) === weak(etag))
}
