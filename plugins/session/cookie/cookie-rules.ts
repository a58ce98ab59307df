import { invalidOptionError, unknownOptionError } from '../../shared/plugin/errors.js'
import type { CookieOptions } from './cookie.js'
import { InvalidCookieError } from '../errors.js'

interface Rule {
  fits: (value: unknown) => boolean
  /** For errors. */
  allowed: string
}

// RFC 6265 §4.1.1, as `@fastify/cookie` implements it.
const PATH = /^[\x20-\x3A\x3D-\x7E]*$/
const DOMAIN = /^(?:\.?[a-z\d](?:[a-z\d-]{0,61}[a-z\d])?)(?:\.[a-z\d](?:[a-z\d-]{0,61}[a-z\d])?)*$/i
/** The name of a cookie. */
export const COOKIE_NAME = /^[\x21-\x3A\x3C\x3E-\x7E]+$/
/** About the time from now to the last year that a header can contain. */
export const MAX_AGE_MS = 2.5e14

const flag: Rule = { fits: value => typeof value === 'boolean', allowed: 'true or false' }
const lifetime: Rule = {
  fits: value => typeof value === 'number' && Math.abs(value) <= MAX_AGE_MS,
  allowed: 'a finite number of milliseconds'
}
const date: Rule = { fits: value => dateOf(value) !== undefined, allowed: 'a Date from the year 1601 to 9999' }

/**
 * The attributes of a session's cookie, in the order of their checks: an invalid `maxAge` makes an invalid `expires` as
 * well.
 */
const RULES: Readonly<Record<string, Rule>> = {
  path: {
    fits: value => typeof value === 'string' && PATH.test(value),
    allowed: 'a path of printable ASCII characters without ";" and "<"'
  },
  domain: {
    fits: value => typeof value === 'string' && (value === '' || DOMAIN.test(value)), allowed: 'a domain name'
  },
  httpOnly: flag,
  secure: { fits: value => typeof value === 'boolean' || value === 'auto', allowed: "true, false or 'auto'" },
  sameSite: { fits: isSameSite, allowed: "true, false, 'strict', 'lax' or 'none'" },
  partitioned: flag,
  originalMaxAge: lifetime,
  expires: date,
  originalExpires: date,
  maxAge: lifetime
}
const ENTRIES = Object.entries(RULES)

const priority: Rule = {
  fits: value => ['low', 'medium', 'high'].includes(String(value).toLowerCase()),
  allowed: "'low', 'medium' or 'high'"
}
const OPTIONS: Readonly<Record<string, Rule>> = {
  ...RULES,
  path: {
    fits: value => RULES['path']!.fits(value) && String(value).startsWith('/'),
    allowed: 'a path that begins with "/", of printable ASCII characters without ";" and "<"'
  },
  maxAge: { fits: value => lifetime.fits(value) && Number(value) >= 0, allowed: 'a number of milliseconds, 0 or more' },
  priority
}
const OPTION_NAMES = [
  'path', 'domain', 'httpOnly', 'secure', 'sameSite', 'partitioned', 'priority', 'maxAge', 'expires'
]

/** Returns a date that a header can contain, otherwise undefined. */
export function dateOf (value: unknown): Date | undefined {
  if (!(value instanceof Date) && typeof value !== 'number' && typeof value !== 'string') return undefined
  const at = new Date(value)
  const year = at.getUTCFullYear()
  return year >= 1601 && year <= 9999 ? at : undefined
}

/**
 * Refuses a cookie object that `@fastify/session` did not make: it would be sent without `HttpOnly`.
 *
 * @throws `FST_REDIS_SUITE_SESSION_INVALID_COOKIE`
 */
export function checkIsCookie (cookie: unknown): asserts cookie is object {
  if (typeof cookie === 'object' && cookie !== null && 'toJSON' in cookie && typeof cookie.toJSON === 'function') return
  throw new InvalidCookieError('', 'set the attributes of the object that is there, and do not replace it')
}

/** Refuses attributes that cannot be sent. @throws `FST_REDIS_SUITE_SESSION_INVALID_COOKIE` */
export function checkAttributes (cookie: object): void {
  // The getter `maxAge` of a cookie object returns the time left until `expires`, not the value that was set.
  const attributes: object = 'toJSON' in cookie && typeof cookie.toJSON === 'function' ? cookie.toJSON() : cookie
  for (const [name, { fits, allowed }] of ENTRIES) {
    const value: unknown = Reflect.get(attributes, name)
    if (value !== undefined && value !== null && !fits(value)) {
      throw new InvalidCookieError(name === 'originalMaxAge' ? '.maxAge' : `.${name}`, `set it to ${allowed}`)
    }
  }
}

/** Returns the attributes of a stored cookie that can be sent; undefined if all of them can. */
export function repairCookie (stored: unknown): Record<string, unknown> | undefined {
  if (typeof stored !== 'object' || stored === null || Array.isArray(stored)) return {}
  const entries = Object.entries(stored)
  const usable = entries.filter(([name, value]) =>
    Object.hasOwn(RULES, name) && (value === null || RULES[name]!.fits(value)))
  return usable.length === entries.length ? undefined : Object.fromEntries(usable)
}

/** @throws `FST_REDIS_SUITE_SESSION_INVALID_OPTION` */
export function checkCookieOptions (cookie: unknown): void {
  if (cookie === undefined) return
  if (typeof cookie !== 'object' || cookie === null || Array.isArray(cookie)) {
    throw invalidOptionError('session', 'cookie', cookie, 'an object')
  }
  for (const [name, value] of Object.entries(cookie)) {
    if (!OPTION_NAMES.includes(name)) {
      throw unknownOptionError('session', `cookie.${name}`, OPTION_NAMES.map(each => `cookie.${each}`))
    }
    const { fits, allowed } = OPTIONS[name]!
    if (value !== undefined && value !== null && !fits(value)) {
      throw invalidOptionError('session', `cookie.${name}`, value, allowed)
    }
  }
}

/**
 * Refuses attributes with which browsers reject the cookie.
 *
 * @param options - options that {@link checkCookieOptions} accepts
 * @throws `FST_REDIS_SUITE_SESSION_INVALID_OPTION`
 * @see https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#section-4.1.3
 */
export function checkBrowserRules (
  cookieName: string, { secure, sameSite, partitioned, path, domain }: CookieOptions
): void {
  const [prefix] = /^__(?:host|secure)-/i.exec(cookieName) ?? []
  const isSameSiteNone = String(sameSite).toLowerCase() === 'none'
  const reason = prefix !== undefined
    ? `cookieName ${prefix}…`
    : partitioned === true ? 'cookie.partitioned' : isSameSiteNone ? "cookie.sameSite 'none'" : undefined
  if (reason !== undefined && secure === false) {
    const allowed = `true or 'auto' with ${reason}, as browsers reject such a cookie without Secure`
    throw invalidOptionError('session', 'cookie.secure', secure, allowed)
  }
  if (prefix?.toLowerCase() !== '__host-') return
  if (domain) throw invalidOptionError('session', 'cookie.domain', domain, `none with ${reason}`)
  if (path !== undefined && path !== '/') throw invalidOptionError('session', 'cookie.path', path, `'/' with ${reason}`)
}

function isSameSite (value: unknown): boolean {
  return typeof value === 'boolean' ||
    (typeof value === 'string' && ['strict', 'lax', 'none'].includes(value.toLowerCase()))
}
