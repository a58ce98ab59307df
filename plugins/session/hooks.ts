import type { FastifyInstance, FastifyReply, FastifyRequest, onRequestHookHandler, onSendHookHandler } from 'fastify'
import { failHook, finishHook, holdPayload } from '../shared/http/hook-callback.js'
import { recorderOf, type Reader, type ReadRecorder } from '../shared/http/read-recorder.js'
import type { SuiteSessionStore } from './fastify-session-store.js'
import { closeReply, openReply, REPLY } from './callbacks.js'
import { checkIsCookie } from './cookie/cookie-rules.js'
import { attributesOf, clearingAttributes, type CookieOptions } from './cookie/cookie.js'
import { decryptWithPromise, storeFor } from './promises.js'
import { NoCookiesError, NoSessionError } from './errors.js'

export interface HookOptions {
  cookieName: string
  cookiePrefix: string
  /** Whether each reply renews the cookie. */
  rolling: boolean
  /** The option `cookie`. */
  cookie: CookieOptions
  /** Called where a session may have to be saved. */
  warnOfInsecure: (request: FastifyRequest) => void
}

const SESSION = Symbol('session')

/**
 * The instance as `@fastify/session` is to see it: its two hooks become ours, as a route may be without sessions, and a session that could
 * not be read may neither be saved nor clear the client's cookie; the adapter is told of each object that becomes the request's session; and
 * what takes a callback returns a promise without one.
 */
export function withOwnHooks (fastify: FastifyInstance, adapter: SuiteSessionStore, options: HookOptions): FastifyInstance {
  const wrappers: Record<string, (handler: never) => unknown> = {
    onRequest: (handler: onRequestHookHandler) => readingApart(wrapOnRequest(handler, adapter)),
    onSend: (handler: onSendHookHandler) => payloadReadingApart(wrapOnSend(handler, adapter, options))
  }
  // Properties that a request has from its beginning cost less than those that are added to it.
  for (const property of [REPLY, SESSION]) fastify.decorateRequest(property, null)
  return new Proxy(fastify, {
    get (target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (name === 'addHook') return (hook: string, handler: never) => target.addHook(hook as 'onRequest', (wrappers[hook]?.(handler) ?? handler) as onRequestHookHandler)
      if (name === 'decorateRequest') {
        const ours: Record<string, object> = { session: accessor(adapter), sessionStore: { getter (this: FastifyRequest) { return storeFor(this, adapter) } } }
        return (property: string, given: object) => target.decorateRequest(property, (ours[property] ?? given) as never)
      }
      if (name === 'decorate') {
        return (property: string, given: FastifyInstance['decryptSession']) => target.decorate(property, (property === 'decryptSession' ? decryptWithPromise(given) : given) as never)
      }
      return typeof value === 'function' ? value.bind(target) : value
    }
  })
}

/** A session's cookie changes no response unless something reads the session. The callback calls the hooks of others. */
function readingApart (hook: onRequestHookHandler): onRequestHookHandler {
  return function sessionHook (request, reply, done) {
    const recorder = recorderOf(request)
    if (recorder === undefined) return hook.call(this, request, reply, done)
    const before = recorder.reader
    recorder.reader = 'session'
    try {
      return hook.call(this, request, reply, error => {
        endReading(recorder, before)
        done(error)
      })
    } finally {
      endReading(recorder, before)
    }
  }
}

/** As {@link readingApart}, for `onSend`: rest arguments in one function for both would cost each request more. */
function payloadReadingApart (hook: onSendHookHandler): onSendHookHandler {
  return function sessionHook (request, reply, payload, done) {
    const recorder = recorderOf(request)
    if (recorder === undefined) return hook.call(this, request, reply, payload, done)
    const before = recorder.reader
    recorder.reader = 'session'
    try {
      return hook.call(this, request, reply, payload, (error?: null, result?: unknown) => {
        endReading(recorder, before)
        done(error as null, result)
      })
    } finally {
      endReading(recorder, before)
    }
  }
}

/** A callback that is called later finds another reader, which stays. */
function endReading (recorder: ReadRecorder, before: Reader): void {
  if (recorder.reader === 'session') recorder.reader = before
}

/**
 * Stands for the session of a route with `config.session: false` where `@fastify/passport` is registered: `secureSession()` calls `request.session.get`
 * on each route, so that null would make health probes fail.
 */
class NoSession {
  get (): undefined {
    return undefined
  }

  data (): object {
    return {}
  }

  set (): never {
    throw new NoSessionError()
  }

  regenerate (): never {
    throw new NoSessionError()
  }
}

const NO_SESSION = Object.freeze(new NoSession()) as unknown as FastifyRequest['session']

function isOfPassport (request: FastifyRequest): boolean {
  return 'passport' in request
}

function accessor (adapter: SuiteSessionStore) {
  type Holder = FastifyRequest & { [SESSION]?: FastifyRequest['session'] | null }
  return {
    getter (this: Holder) {
      recorderOf(this)?.readSession()
      return this[SESSION] ?? (isOfPassport(this) && this.routeOptions.config?.session === false ? NO_SESSION : null)
    },
    setter (this: Holder, session: FastifyRequest['session'] | null) { if (adapter.accept(this, session, this[SESSION])) this[SESSION] = session }
  }
}

function wrapOnRequest (handler: onRequestHookHandler, adapter: SuiteSessionStore): onRequestHookHandler {
  return function sessionOnRequest (request, reply, done) {
    if (request.routeOptions.config?.session === false) return done()
    // How a user has registered @fastify/cookie shows here first.
    if (!request.cookies) return done(new NoCookiesError())
    openReply(request, reply)
    adapter.atBegin(end => handler.call(this, request, reply, error => {
      end()
      finishHook('session', reply, done, error)
    }), error => failHook('session', reply, done, error))
  }
}

function wrapOnSend (handler: onSendHookHandler, adapter: SuiteSessionStore, options: HookOptions): onSendHookHandler {
  return function sessionOnSend (request, reply, payload, done) {
    const { session } = request
    closeReply(request)
    const ending = session ? undefined : adapter.takeEnding(request)
    if (ending !== undefined) {
      holdPayload(payload)
      ending.then(() => {
        clearDeadCookie(request, reply, adapter, options)
        finishHook('session', reply, done, undefined, payload)
      }, error => finishHook('session', reply, done, error, payload))
      return
    }
    if (request.routeOptions.config?.session === false || adapter.isAnonymous(request)) return done(null, payload)
    if (!session?.sessionId) {
      if (adapter.hasEnded(request)) clearDeadCookie(request, reply, adapter, options)
      return done(null, payload)
    }
    try {
      // The reply reports the failed save: a second try would take another time-out.
      if (reply.statusCode >= 500 && adapter.isUnsaved(session)) return done(null, payload)
      if (adapter.isAbandoned(session)) return done(null, payload)
      checkIsCookie(session.cookie)
      if (isSettled(request, adapter, options)) return done(null, payload)
      options.warnOfInsecure(request)
    } catch (error) {
      return done(error as Error)
    }
    holdPayload(payload)
    // A login has saved it, and the handler may have changed its cookie since.
    const isKnown = hasCookie(request, options) || (adapter.isStored(session) && session.isSaved())
    if (isKnown && isSecureEnough(request)) {
      return saveKnown(request, reply, adapter, options, error => finishHook('session', reply, done, error, payload))
    }
    let failure: unknown
    const attempt = (work: () => unknown): FastifyReply => {
      try {
        work()
      } catch (error) {
        // The response that reports the error would try it again.
        adapter.abandon(session)
        failure = error
      }
      return reply
    }
    // `@fastify/session` sets the cookie in a callback of the store, where nothing catches what that throws.
    const face = {
      // The cookie of a session that turns out to be dead would take the place of the one that a login has given since.
      setCookie: (name: string, value: string) => adapter.isAbandoned(session) ? reply : attempt(() => reply.setCookie(name, value, attributesOf(session.cookie, options.cookie))),
      clearCookie: (name: string) => attempt(() => reply.clearCookie(name, attributesOf(session.cookie, options.cookie)))
    }
    const finish = (error?: unknown) => {
      // The response that reports the error would save the session again, and report that.
      if (error) adapter.abandon(session)
      finishHook('session', reply, done, error ?? failure, payload)
    }
    const goOn = () => {
      try {
        handler.call(this, request, face as FastifyReply, payload, finish)
      } catch (error) {
        finish(error)
      }
    }
    if (!signAnew(request, adapter, options, goOn, finish)) goOn()
  }
}

/** Whether `@fastify/session` would find nothing to do: by far the most requests only read their session. */
function isSettled (request: FastifyRequest, adapter: SuiteSessionStore, options: HookOptions): boolean {
  return adapter.isUntouched(request.session) && !options.rolling && hasCookie(request, options) && !request.session.isSaved()
}

/** Whether the client has the session's cookie as it is to be. */
function hasCookie ({ session, cookies }: FastifyRequest, { cookieName, cookiePrefix }: HookOptions): boolean {
  return cookies[cookieName] === cookiePrefix + session.encryptedSessionId
}

function isSecureEnough ({ session, protocol }: FastifyRequest): boolean {
  return session.cookie.secure !== true || protocol === 'https'
}

/** Does what `@fastify/session` would, which takes a digest of the session before it saves it and one after. */
function saveKnown (request: FastifyRequest, reply: FastifyReply, adapter: SuiteSessionStore, { cookieName, cookiePrefix, rolling, cookie }: HookOptions, done: (error?: Error) => void): void {
  const { session } = request
  adapter.set(session.sessionId, session, (error, isSaved) => {
    try {
      if (error) throw error
      if ((isSaved || rolling || session.isSaved()) && !adapter.isAbandoned(session)) {
        reply.setCookie(cookieName, cookiePrefix + session.encryptedSessionId, attributesOf(session.cookie, cookie))
      }
    } catch (error) {
      // The reply that says so would try it again.
      adapter.abandon(session)
      return done(error as Error)
    }
    done()
  })
}

/** Of a session that was destroyed: `@fastify/session` leaves it with the client. */
function clearDeadCookie (request: FastifyRequest, reply: FastifyReply, adapter: SuiteSessionStore, { cookieName, cookie }: HookOptions): void {
  if (request.cookies[cookieName] === undefined) return
  reply.clearCookie(cookieName, clearingAttributes(adapter.cookieOfEnded(request), cookie, request.protocol))
}

/**
 * A cookie that was signed with an older secret is signed anew, where `@fastify/session` would clear it.
 *
 * @returns whether it has to be
 */
function signAnew (request: FastifyRequest, adapter: SuiteSessionStore, options: HookOptions, goOn: () => void, fail: (error: Error) => void): boolean {
  const { session, cookies } = request
  const { cookieName, cookiePrefix } = options
  if (!cookies[cookieName] || !adapter.isStored(session) || hasCookie(request, options)) return false
  session.save(error => {
    if (error) return fail(error)
    cookies[cookieName] = cookiePrefix + session.encryptedSessionId
    goOn()
  })
  return true
}
