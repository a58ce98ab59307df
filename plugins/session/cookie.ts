import type { CookieSerializeOptions } from '@fastify/cookie'
import type { FastifySessionOptions } from '@fastify/session'
import type { Session } from 'fastify'

type CookieOptions = NonNullable<FastifySessionOptions['cookie']>

/**
 * What is to be kept of a session's cookie: nothing where it is as the options make it. One with a lifetime bears a time of its own,
 * and one that was made over HTTPS is not to lose `Secure` over HTTP.
 */
export function cookieToStore (given: Session['cookie'], options: CookieOptions): unknown {
  if (typeof given !== 'object' || given === null) return given
  const cookie: Record<string, unknown> = { ...given }
  const { path = '/', httpOnly = true, domain, partitioned, sameSite, secure } = options
  const isUsual = given.expires === null && given.originalMaxAge === null && cookie['originalExpires'] === undefined &&
    given.path === path && given.httpOnly === httpOnly && (given.domain || undefined) === (domain || undefined) && cookie['partitioned'] === partitioned
  if (!isUsual) return given
  if (secure === 'auto' && given.secure === false && given.sameSite === 'lax') return undefined
  if (given.sameSite !== (sameSite || null)) return given
  if (secure === 'auto' && given.secure === true) return { secure: true }
  return given.secure === (secure ?? null) ? undefined : given
}

/** What a reply says of a cookie: no more of what a handler may have put there. */
export function attributesOf ({ path, domain, httpOnly, secure, sameSite, expires, ...rest }: Session['cookie']): CookieSerializeOptions {
  return { path, domain, httpOnly, secure, sameSite, expires: expires ?? undefined, partitioned: 'partitioned' in rest && rest.partitioned === true }
}
