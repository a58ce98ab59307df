import type { SessionStore as FastifySessionStore } from '@fastify/session'
import type { FastifyInstance, FastifyRequest, Session } from 'fastify'
import { reasonOf, toError } from '../shared/plugin/errors.js'
import { failHook } from '../shared/http/hook-callback.js'
import { handled, isPromise, recover } from '../shared/plugin/maybe-promise.js'
import { RESERVED, takeSnapshot } from './session-diff.js'
import { REPLY, requestOf, stateOf, type RequestWithState } from './session-state.js'

// An app may pass callbacks to a session, to its store or to `decryptSession`. The store calls them when it has
// replied, and nothing else would catch their errors: the process would exit. Here such an error is the request's
// response.

type Callback = (...args: unknown[]) => unknown
type Method = (this: Session, ...args: unknown[]) => unknown

/** The methods of a session that take a callback. */
const METHODS: readonly string[] = ['save', 'destroy', 'reload', 'regenerate']

let prototypeOfSessions: object | undefined
let prototypeWithCallbacks: object | null = null

/**
 * Wraps the callbacks of a session's methods. An assignment of a reserved name has no effect: an app may assign a
 * request's body to the session. All sessions share one prototype, as properties of their own would cost more.
 */
export function protectCallbacks (session: Session): void {
  const prototype: object = Object.getPrototypeOf(session)
  if (!Object.hasOwn(prototype, 'regenerate') || prototype === prototypeWithCallbacks) return
  if (prototype !== prototypeOfSessions) {
    prototypeOfSessions = prototype
    prototypeWithCallbacks = Object.create(prototype, Object.fromEntries([...RESERVED].flatMap(name => {
      const get = getterOf(prototype, name)
      return get === undefined ? [] : [[name, { get, set: ignore, configurable: true }]]
    })))
  }
  Object.setPrototypeOf(session, prototypeWithCallbacks)
}

/** Returns undefined for a name that a session does not have, and for `__proto__`. */
function getterOf (prototype: object, name: string): (() => unknown) | undefined {
  const get = Object.getOwnPropertyDescriptor(prototype, name)?.get
  if (get !== undefined || name === '__proto__') return get
  const value: unknown = Reflect.get(prototype, name)
  if (typeof value !== 'function') return undefined
  const method = METHODS.includes(name)
    ? wrapMethod(value as Method)
    : name === 'isModified' ? comparingContents(value as Method) : value
  return () => method
}

function ignore (): void {}

function wrapMethod (method: Method): Method {
  return function (...args) {
    const request = requestOf(this)
    if (request === undefined) return method.apply(this, args)
    const result = method.apply(
      this, args.map(arg => typeof arg === 'function' ? wrapCallback(arg as Callback, request) : withoutReserved(arg))
    )
    return isPromise(result) ? handled(result) : result
  }
}

/**
 * Returns `isModified` by what was read. `@fastify/session` compares digests, and gets a session without its contents,
 * so that by its digest each one would be modified.
 *
 * The prototype has it, as all of this plugin's accessors: an accessor of a session's own gives the session a hidden
 * class, which keeps session and request alive until the old generation is collected. That cost 40 % of a read's CPU.
 */
function comparingContents (method: Method): Method {
  return function () {
    const { known } = stateOf(this)
    if (known === undefined) return method.apply(this)
    const { set, delete: gone } = known.changesTo(takeSnapshot(this))
    return [...Object.keys(set), ...gone].some(name => name !== 'cookie')
  }
}

/** Filters the names that `regenerate` keeps: it assigns them to a session without this prototype. */
function withoutReserved (arg: unknown): unknown {
  return Array.isArray(arg) ? arg.filter((name: string) => !RESERVED.has(name)) : arg
}

function wrapCallback (callback: Callback, request: FastifyRequest): Callback {
  return (...args) => { recover(() => callback(...args), error => fail(error, request)) }
}

function fail (error: unknown, request: FastifyRequest): void {
  // `decryptSession` for a websocket may get another object as the request.
  request.log?.error({ plugin: 'session', reason: reasonOf(error) }, 'session: a callback failed')
  const reply = (request as RequestWithState)[REPLY]
  if (reply && !reply.sent) failHook('session', reply, () => reply.send(toError(error)), error)
}

type Done = (error?: unknown) => void
type DoneWithSession = (error: unknown, session?: Session | null) => void

/** `request.sessionStore`. Without a callback its methods return promises. */
interface RequestStore {
  get (sessionId: string, callback?: DoneWithSession): Promise<Session | null> | void
  set (sessionId: string, session: Session, callback?: Done): Promise<void> | void
  destroy (sessionId: string, callback?: Done): Promise<void> | void
}

export function storeFor (request: FastifyRequest, store: FastifySessionStore): RequestStore {
  return {
    get: (sessionId, callback) => callOrPromise<Session | null>(callback, request, done => store.get(sessionId, done)),
    set: (sessionId, session, callback) =>
      callOrPromise<void>(callback, request, done => store.set(sessionId, session, error => done(error))),
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

function callOrPromise<T> (
  callback: DoneWithSession | undefined, request: FastifyRequest, method: (done: DoneWithSession) => void
): Promise<T> | void {
  if (typeof callback === 'function') return method(wrapCallback(callback as never, request))
  return handled(
    new Promise((resolve, reject) => method((error, result) => error ? reject(error) : resolve(result as T)))
  )
}
