import type { FastifyInstance, FastifyRequest, onRequestHookHandler, onSendHookHandler } from 'fastify'
import { failHook, finishHook } from '../shared/http/hook-callback.js'
import { recorderOf, type Reader, type ReadRecorder } from '../shared/http/read-recorder.js'
import { decryptWithPromise, storeFor } from './callbacks.js'
import { NoCookiesError, NoSessionError } from './errors.js'
import type { SuiteSessionStore } from './fastify-session-store.js'
import { createOnSend, type HookOptions } from './on-send.js'
import { REPLY, SESSION, type RequestWithState } from './session-state.js'

/**
 * Returns the instance as `@fastify/session` is to see it, which then registers these in place of its own:
 *
 * - `onRequest` and `onSend`: a route may be without sessions, and a session that could not be read is neither saved
 * nor cleared
 * - `request.session`: the store checks each object that becomes the request's session
 * - `request.sessionStore` and `decryptSession`: they return promises if they get no callback
 */
export function withOwnHooks (
  fastify: FastifyInstance, store: SuiteSessionStore, options: HookOptions
): FastifyInstance {
  const wrappers: Record<string, (handler: never) => unknown> = {
    onRequest: (handler: onRequestHookHandler) => readingApart(createOnRequest(handler, store)),
    onSend: (handler: onSendHookHandler) => payloadReadingApart(createOnSend(handler, store, options))
  }
  // Properties that a request has from its beginning cost less than those that are added to it.
  for (const property of [SESSION, REPLY]) fastify.decorateRequest(property, null)
  return new Proxy(fastify, {
    get (target, name) {
      const value: unknown = Reflect.get(target, name, target)
      if (name === 'addHook') {
        return (hook: 'onRequest', handler: never) =>
          target.addHook(hook, (wrappers[hook]?.(handler) ?? handler) as onRequestHookHandler)
      }
      if (name === 'decorateRequest') {
        const ours: Record<string, object> = {
          session: accessor(store),
          sessionStore: { getter (this: FastifyRequest) { return storeFor(this, store) } }
        }
        return (property: string, value: object) => target.decorateRequest(property, (ours[property] ?? value) as never)
      }
      if (name === 'decorate') {
        return (property: string, value: FastifyInstance['decryptSession']) =>
          target.decorate(property, (property === 'decryptSession' ? decryptWithPromise(value) : value) as never)
      }
      return typeof value === 'function' ? value.bind(target) : value
    }
  })
}

/** Returns the hook that reads a request's session. @param read - the hook of `@fastify/session` */
function createOnRequest (read: onRequestHookHandler, store: SuiteSessionStore): onRequestHookHandler {
  return function sessionOnRequest (request: RequestWithState, reply, done) {
    if (request.routeOptions.config?.session === false) return done()
    // @fastify/cookie was registered with another hook.
    if (!request.cookies) return done(new NoCookiesError())
    request[REPLY] = reply
    store.failRequest = error => failHook('session', reply, done, error)
    try {
      read.call(this, request, reply, error => {
        store.failRequest = undefined
        finishHook('session', reply, done, error)
      })
    } finally {
      store.failRequest = undefined
    }
  }
}

function accessor (store: SuiteSessionStore) {
  return {
    getter (this: RequestWithState) {
      recorderOf(this)?.readSession()
      return this[SESSION] ?? (isOfPassport(this) && this.routeOptions.config?.session === false ? NO_SESSION : null)
    },
    setter (this: RequestWithState, session: FastifyRequest['session'] | null) {
      if (store.accept(this, session, this[SESSION])) this[SESSION] = session
    }
  }
}

/**
 * The cookie of a session changes no response unless something reads the session. The callback calls the hooks of
 * others.
 */
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

/** Does the same for `onSend`: rest arguments in one function for both would cost each request more. */
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
 * The session of a route with `config.session: false` where `@fastify/passport` is registered: `secureSession()` calls
 * `request.session.get` on each route, so that null would make health probes fail.
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
