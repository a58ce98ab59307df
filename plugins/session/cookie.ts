import type { FastifySessionOptions } from '@fastify/session'
import type { FastifyRequest, Session } from 'fastify'

type CookieOptions = NonNullable<FastifySessionOptions['cookie']>

/**
 * Whether a session's cookie is what the options make of any, so that nothing of it need be kept. One that ends at a time of its own is not.
 */
export function isUsualCookie (given: Session['cookie'], options: CookieOptions, request: FastifyRequest): boolean {
  if (typeof given !== 'object' || given === null) return false
  const cookie: Record<string, unknown> = { ...given }
  const { path = '/', httpOnly = true, domain, partitioned, sameSite, secure } = options
  const isInsecure = secure === 'auto' && request.protocol !== 'https'
  return given.expires === null && given.originalMaxAge === null && cookie['originalExpires'] === undefined &&
    given.path === path && given.httpOnly === httpOnly && (given.domain || undefined) === (domain || undefined) && cookie['partitioned'] === partitioned &&
    given.sameSite === (isInsecure ? 'lax' : sameSite || null) && given.secure === (secure === 'auto' ? !isInsecure : secure ?? null)
}
