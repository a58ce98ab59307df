import type { CookieSerializeOptions } from '@fastify/cookie'
import type { FastifySessionOptions } from '@fastify/session'
import type { Session } from 'fastify'
import { checkAttributes, checkIsCookie, dateOf } from './cookie-rules.js'

export type CookieOptions = NonNullable<FastifySessionOptions['cookie']>

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

/**
 * The attributes of `Set-Cookie`, without anything else that a handler may have put into the cookie.
 *
 * @throws `FST_REDIS_SUITE_SESSION_INVALID_COOKIE`
 */
export function attributesOf (cookie: Session['cookie'], { priority }: CookieOptions): CookieSerializeOptions {
  checkIsCookie(cookie)
  checkAttributes(cookie)
  const { path, domain, httpOnly, secure, sameSite, expires, ...rest } = cookie
  const partitioned = 'partitioned' in rest && rest.partitioned === true
  return { path, domain, httpOnly, secure, sameSite, expires: dateOf(expires), partitioned, ...priority !== undefined && { priority } }
}
