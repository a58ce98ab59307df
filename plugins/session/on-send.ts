import type { FastifyBaseLogger, FastifyReply, FastifyRequest, onSendHookHandler } from 'fastify'
import { finishHook, holdPayload } from '../shared/http/hook-callback.js'
import { checkIsCookie } from './cookie/cookie-rules.js'
import { attributesOf, clearingAttributes, isAsBefore, type CookieOptions } from './cookie/cookie.js'
import type { SuiteSessionStore } from './fastify-session-store.js'
import { contentsOf, refuseLosses } from './session-diff.js'
import { abandon, absenceOf, REPLY, stateOf, type RequestWithState } from './session-state.js'

export interface HookOptions {
  cookieName: string
  cookiePrefix: string
  /** Whether each reply renews the cookie. */
  rolling: boolean
  /** Whether sessions without contents are saved. */
  savesEmpty: boolean
  /** The option `cookie`. */
  cookie: CookieOptions
  log: FastifyBaseLogger
}

/**
 * Returns the hook that saves a request's session and sends its cookie.
 *
 * @param saveNew - the hook of `@fastify/session`, for sessions whose cookie the client does not have
 */
export function createOnSend (
  saveNew: onSendHookHandler, store: SuiteSessionStore, options: HookOptions
): onSendHookHandler {
  const warnOfInsecureCookie = createInsecureWarning(options)

  return function sessionOnSend (request: RequestWithState, reply, payload, done) {
    const { session } = request
    const absence = absenceOf(request)
    request[REPLY] = null

    // The session was destroyed, or could not be read.
    if (absence?.destroyed !== undefined && !session) {
      const { destroyed } = absence
      absence.destroyed = undefined
      holdPayload(payload)
      destroyed.then(() => {
        clearDeadCookie(request, reply, options)
        finishHook('session', reply, done, undefined, payload)
      }, error => finishHook('session', reply, done, error, payload))
      return
    }
    if (request.routeOptions.config?.session === false || absence?.kind === 'anonymous') return done(null, payload)
    if (!session?.sessionId) {
      if (absence?.kind === 'ended') clearDeadCookie(request, reply, options)
      return done(null, payload)
    }

    // Nothing is to be saved.
    const { phase, known } = stateOf(session)
    if (phase === 'abandoned') return done(null, payload)
    // The reply reports the failed save: another try would take another time-out.
    if (phase === 'unsaved' && reply.statusCode >= 500) return done(null, payload)
    let clientHasCookie: boolean
    try {
      checkIsCookie(session.cookie)
      clientHasCookie = hasCookie(request, options)
      if (isUntouched(session) && !options.rolling && clientHasCookie && !session.isSaved()) return done(null, payload)
      warnOfInsecureCookie(request)
    } catch (error) {
      return done(error as Error)
    }

    // The session is saved, and its cookie sent. A login has saved it already, and the handler may have changed its
    // cookie since.
    holdPayload(payload)
    const isSecureEnough = session.cookie.secure !== true || request.protocol === 'https'
    if (isSecureEnough && (clientHasCookie || (known !== undefined && session.isSaved()))) {
      return saveAndSendCookie(
        request, reply, store, options, error => finishHook('session', reply, done, error, payload)
      )
    }
    let failure: unknown
    const attempt = (work: () => unknown): FastifyReply => {
      try {
        work()
      } catch (error) {
        // The response that reports the error would try it again.
        abandon(session)
        failure = error
      }
      return reply
    }
    // `@fastify/session` sets the cookie in a callback of the store, where nothing catches what that throws.
    const cookieSetter = {
      // The cookie of a session that turns out to be destroyed would replace the one that a login has sent since.
      setCookie (name: string, value: string) {
        if (stateOf(session).phase === 'abandoned') return reply
        return attempt(() => reply.setCookie(name, value, attributesOf(session.cookie, options.cookie)))
      },
      clearCookie: (name: string) =>
        attempt(() => reply.clearCookie(name, attributesOf(session.cookie, options.cookie)))
    }
    const finish = (error?: unknown) => {
      // The response that reports the error would save the session again, and report that.
      if (error) abandon(session)
      finishHook('session', reply, done, error ?? failure, payload)
    }
    const save = () => {
      try {
        saveNew.call(this, request, cookieSetter as FastifyReply, payload, finish)
      } catch (error) {
        finish(error)
      }
    }
    if (needsNewSignature(request, options)) signAgain(request, options, save, finish)
    else save()
  }
}

/**
 * Whether the session is as it was read. The digests of `@fastify/session` take longer, and ignore values that JSON
 * does not have.
 *
 * @throws `FST_REDIS_SUITE_SESSION_UNSERIALIZABLE`
 */
function isUntouched (session: FastifyRequest['session']): boolean {
  const contents = contentsOf(session)
  refuseLosses(session)
  const { known } = stateOf(session)
  return contents === known?.contents && known.cookie !== undefined && isAsBefore(session.cookie, known.cookie)
}

/** Whether the client has sent the session's cookie, signed as it would be now. */
function hasCookie ({ session, cookies }: FastifyRequest, { cookieName, cookiePrefix }: HookOptions): boolean {
  return cookies[cookieName] === cookiePrefix + session.encryptedSessionId
}

/** Does what `@fastify/session` would, without its two digests of the session. */
function saveAndSendCookie (
  request: FastifyRequest, reply: FastifyReply, store: SuiteSessionStore, options: HookOptions,
  done: (error?: Error) => void
): void {
  const { session } = request
  const { cookieName, cookiePrefix, rolling, cookie } = options
  store.set(session.sessionId, session, (error, isSaved) => {
    try {
      if (error) throw error
      if ((isSaved || rolling || session.isSaved()) && stateOf(session).phase !== 'abandoned') {
        reply.setCookie(cookieName, cookiePrefix + session.encryptedSessionId, attributesOf(session.cookie, cookie))
      }
    } catch (error) {
      // The response that reports the error would try it again.
      abandon(session)
      return done(error as Error)
    }
    done()
  })
}

/** `@fastify/session` leaves the cookie of a destroyed session with the client. */
function clearDeadCookie (request: RequestWithState, reply: FastifyReply, { cookieName, cookie }: HookOptions): void {
  if (request.cookies[cookieName] === undefined) return
  reply.clearCookie(cookieName, clearingAttributes(absenceOf(request)?.cookie, cookie, request.protocol))
}

/** Whether the client's cookie of this session was signed with an older secret: `@fastify/session` would clear it. */
function needsNewSignature (request: FastifyRequest, options: HookOptions): boolean {
  return Boolean(request.cookies[options.cookieName]) && stateOf(request.session).known !== undefined &&
    !hasCookie(request, options)
}

function signAgain (
  {
    session, cookies
  }: FastifyRequest, { cookieName, cookiePrefix }: HookOptions, next: () => void, fail: (error: Error) => void
): void {
  session.save(error => {
    if (error) return fail(error)
    cookies[cookieName] = cookiePrefix + session.encryptedSessionId
    next()
  })
}

const SECURE_OVER_HTTP = 'a Secure cookie cannot be sent over HTTP, so changes of the session are lost. ' +
  "Behind a TLS proxy set Fastify's option trustProxy, and have the proxy send X-Forwarded-Proto; without TLS set " +
  "cookie.secure to 'auto' or false"
const INSECURE_BEHIND_PROXY = "the cookie is sent without Secure, as Fastify does not read the proxy's headers, " +
  'by which the client uses HTTPS. ' +
  "Set Fastify's option trustProxy"

/**
 * Returns a function that warns once if a session is to be saved over HTTP, but its cookie is `Secure` or should be. An
 * app behind a TLS proxy sees HTTP until Fastify's `trustProxy` is set.
 */
function createInsecureWarning ({ log, cookie, savesEmpty }: HookOptions): (request: FastifyRequest) => void {
  let hasWarned = false
  return request => {
    if (hasWarned) return
    const { session } = request
    const message = session.cookie.secure === true
      ? SECURE_OVER_HTTP
      : cookie.secure === 'auto' && isHttpsAtProxy(request) ? INSECURE_BEHIND_PROXY : undefined
    if (message === undefined || request.protocol === 'https' ||
      !(savesEmpty || session.isSaved() || session.isModified())) {
      return
    }
    hasWarned = true
    log.warn({ plugin: 'session' }, `session: ${message} (logged once)`)
  }
}

/** By the headers that proxies send. A client may send them as well. */
function isHttpsAtProxy ({ raw: { headers } }: FastifyRequest): boolean {
  return /\bhttps$/i.test(String(headers['x-forwarded-proto'])) || headers['x-forwarded-ssl'] === 'on' ||
    /\bproto="?https\b/i.test(String(headers['forwarded']))
}
