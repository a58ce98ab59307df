import type { CookieSerializeOptions } from '@fastify/cookie'
import type { FastifySessionOptions } from '@fastify/session'
import type { Session } from 'fastify'
import { checkAttributes, checkIsCookie, dateOf } from './cookie-rules.js'

export type CookieOptions = NonNullable<FastifySessionOptions['cookie']>

/**
 * Returns the part of a session's cookie that is stored: undefined if it is as the options make it. A cookie with a
 * lifetime has its own time, and a cookie that was made over HTTPS must not lose `Secure` over HTTP.
 */
export function cookieToStore (given: Session['cookie'], options: CookieOptions): unknown {
  if (typeof given !== 'object' || given === null) return given
  const cookie: Record<string, unknown> = { ...given }
  const { path = '/', httpOnly = true, domain, partitioned, sameSite, secure } = options
  const isUsual = given.expires === null && given.originalMaxAge === null && cookie['originalExpires'] === undefined &&
    given.path === path && given.httpOnly === httpOnly && (given.domain || undefined) === (domain || undefined) &&
    cookie['partitioned'] === partitioned
  if (!isUsual) return given
  if (secure === 'auto' && given.secure === false && given.sameSite === 'lax') return undefined
  if (given.sameSite !== (sameSite || null)) return given
  if (secure === 'auto' && given.secure === true) return { secure: true }
  return given.secure === (secure ?? null) ? undefined : given
}

type Cookie = Session['cookie'] & { partitioned?: boolean | undefined }

/** The attributes of a cookie at one moment. */
export type CookieSnapshot = Readonly<Pick<Cookie, typeof ATTRIBUTES[number] |
  'expires'> & { expiresAt: number | undefined }>

const ATTRIBUTES = ['path', 'domain', 'httpOnly', 'secure', 'sameSite', 'partitioned', 'originalMaxAge'] as const

export function takeCookieSnapshot (
  { path, domain, httpOnly, secure, sameSite, partitioned, originalMaxAge, expires }: Cookie
): CookieSnapshot {
  return {
    path, domain, httpOnly, secure, sameSite, partitioned, originalMaxAge, expires, expiresAt: expires?.valueOf()
  }
}

/** Whether no attribute was set since the snapshot. Setting `maxAge` again makes a new `expires`, which counts. */
export function isAsBefore (cookie: Cookie, before: CookieSnapshot): boolean {
  const { expires } = cookie
  if (expires !== before.expires || expires?.valueOf() !== before.expiresAt) return false
  for (const name of ATTRIBUTES) if (cookie[name] !== before[name]) return false
  return true
}

/**
 * Returns the attributes of a `Set-Cookie` that clears a session's cookie: those that it was set with. A browser
 * refuses to clear `__Host-…` without `Secure`, and has one cookie for each domain, path and partition.
 *
 * @param before - the cookie of the request's session; undefined if the session was not read
 * @param protocol - the request's, for `secure: 'auto'`
 */
export function clearingAttributes (
  before: CookieSnapshot | undefined, options: CookieOptions, protocol: string
): CookieSerializeOptions {
  const { path, domain, httpOnly, secure, sameSite, partitioned } = before ?? options
  const { priority } = options
  const attributes = {
    path,
    domain,
    httpOnly,
    secure,
    sameSite,
    partitioned: partitioned === true,
    ...priority !== undefined && { priority }
  }
  if (secure !== 'auto') return attributes
  // `@fastify/session` resolves it so.
  return protocol === 'https' ? { ...attributes, secure: true } : { ...attributes, secure: false, sameSite: 'lax' }
}

/**
 * Returns the attributes of `Set-Cookie`, without other properties that a handler may have set.
 *
 * @throws `FST_REDIS_SUITE_SESSION_INVALID_COOKIE`
 */
export function attributesOf (cookie: Session['cookie'], { priority }: CookieOptions): CookieSerializeOptions {
  checkIsCookie(cookie)
  checkAttributes(cookie)
  const { path, domain, httpOnly, secure, sameSite, expires, partitioned }: Cookie = cookie
  return {
    path,
    domain,
    httpOnly,
    secure,
    sameSite,
    expires: dateOf(expires),
    partitioned: partitioned === true,
    ...priority !== undefined && { priority }
  }
}
