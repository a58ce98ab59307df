import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { CookieOptions } from './cookie.js'

/**
 * Returns a function that warns once of a session that is to be saved for a request over HTTP, where its cookie is `Secure` or should be: an
 * app behind a TLS proxy sees HTTP until Fastify's `trustProxy` is set.
 */
export function createInsecureWarning (log: FastifyBaseLogger, options: CookieOptions, savesEmpty: boolean): (request: FastifyRequest) => void {
  let hasWarned = false
  return request => {
    if (hasWarned) return
    const { session } = request
    const message = session.cookie.secure === true
      ? "a Secure cookie cannot be sent over HTTP, so changes of the session are lost. Behind a TLS proxy set Fastify's option trustProxy, and have the proxy send X-Forwarded-Proto; without TLS set cookie.secure to 'auto' or false"
      : options.secure === 'auto' && isHttpsAtProxy(request)
        ? "the cookie is sent without Secure, as Fastify does not read the proxy's headers, by which the client uses HTTPS. Set Fastify's option trustProxy"
        : undefined
    if (message === undefined || request.protocol === 'https' || !(savesEmpty || session.isSaved() || session.isModified())) return
    hasWarned = true
    log.warn({ plugin: 'session' }, `session: ${message} (logged once)`)
  }
}

/** By the headers that proxies send; a client may send them as well. */
function isHttpsAtProxy ({ raw: { headers } }: FastifyRequest): boolean {
  return /\bhttps$/i.test(String(headers['x-forwarded-proto'])) || /\bproto="?https\b/i.test(String(headers['forwarded'])) || headers['x-forwarded-ssl'] === 'on'
}
