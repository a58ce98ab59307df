import type { SessionStore as FastifySessionStore } from '@fastify/session'
import type { FastifyInstance, FastifyRequest, Session } from 'fastify'
import { handled } from '../shared/plugin/maybe-promise.js'
import { wrapCallback } from './callbacks.js'

type Done = (error?: unknown) => void
type DoneWithSession = (error: unknown, session?: Session | null) => void

/** `request.sessionStore`. Without a callback its methods return promises. */
export interface RequestStore {
  get (sessionId: string, callback?: DoneWithSession): Promise<Session | null> | void
  set (sessionId: string, session: Session, callback?: Done): Promise<void> | void
  destroy (sessionId: string, callback?: Done): Promise<void> | void
}

export function storeFor (request: FastifyRequest, store: FastifySessionStore): RequestStore {
  return {
    get: (sessionId, callback) => callOrPromise<Session | null>(callback, request, done => store.get(sessionId, done)),
    set: (sessionId, session, callback) => callOrPromise<void>(callback, request, done => store.set(sessionId, session, error => done(error))),
    destroy: (sessionId, callback) => callOrPromise<void>(callback, request, done => store.destroy(sessionId, done))
  }
}

/** `fastify.decryptSession`. Without a callback it returns a promise. */
export function decryptWithPromise (decrypt: FastifyInstance['decryptSession']): unknown {
  return (cookie: string, request: FastifyRequest, ...rest: unknown[]) => {
    const callback = rest.find(arg => typeof arg === 'function') as Done | undefined
    const options = rest.find(arg => typeof arg === 'object' && arg !== null) ?? {}
    return callOrPromise<void>(callback, request, done => decrypt(cookie, request, options, done))
  }
}

function callOrPromise<T> (callback: DoneWithSession | undefined, request: FastifyRequest, method: (done: DoneWithSession) => void): Promise<T> | void {
  if (typeof callback === 'function') return method(wrapCallback(callback as never, request))
  return handled(new Promise((resolve, reject) => method((error, result) => error ? reject(error) : resolve(result as T))))
}
