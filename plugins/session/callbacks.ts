import type { FastifyReply, FastifyRequest, Session } from 'fastify'
import { reasonOf, toError } from '../shared/plugin/errors.js'
import { failHook } from '../shared/http/hook-callback.js'
import { handled, isPromise, recover } from '../shared/plugin/maybe-promise.js'
import { RESERVED } from './session-diff.js'
import { requestOf } from './session-state.js'

// The store calls the callbacks that an app passes to a session, to its store or to `decryptSession`: nothing else would catch what they
// throw or reject, and the process would exit. Here the request is answered with that error.

type Callback = (...args: unknown[]) => unknown
type Method = (this: Session, ...args: unknown[]) => unknown

/** The methods of a session that call a callback when the store has replied. */
const METHODS: readonly string[] = ['save', 'destroy', 'reload', 'regenerate']

/** The property of a request that holds the reply while it is open. */
export const REPLY = Symbol('session.reply')

type Holder = FastifyRequest & { [REPLY]?: FastifyReply | null }

/** From now on an error of a callback is the request's response. */
export function openReply (request: FastifyRequest, reply: FastifyReply): void {
  (request as Holder)[REPLY] = reply
}

/** The response is being sent: an error of a callback is logged only. */
export function closeReply (request: FastifyRequest): void {
  (request as Holder)[REPLY] = null
}

let prototypeOfSessions: object | undefined
let prototypeWithCallbacks: object | null = null

/**
 * Has the methods of a session call their callbacks so, and an assignment of a reserved name have no effect: an app may assign a request's
 * body to the session. All sessions share one prototype: properties of their own would cost more.
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

/** @returns undefined for what a session does not have, and for `__proto__` */
function getterOf (prototype: object, name: string): (() => unknown) | undefined {
  const get = Object.getOwnPropertyDescriptor(prototype, name)?.get
  if (get !== undefined || name === '__proto__') return get
  const value: unknown = Reflect.get(prototype, name)
  if (typeof value !== 'function') return undefined
  const method = METHODS.includes(name) ? wrapMethod(value as Method) : value
  return () => method
}

function ignore (): void {}

function wrapMethod (method: Method): Method {
  return function (...args) {
    const request = requestOf(this)
    if (request === undefined) return method.apply(this, args)
    const result = method.apply(this, args.map(arg => typeof arg === 'function' ? wrapCallback(arg as Callback, request) : withoutReserved(arg)))
    return isPromise(result) ? handled(result) : result
  }
}

/** The names of what `regenerate` keeps: it would assign them to a session that has not got this prototype yet. */
function withoutReserved (arg: unknown): unknown {
  return Array.isArray(arg) ? arg.filter((name: string) => !RESERVED.has(name)) : arg
}

export function wrapCallback (callback: Callback, request: FastifyRequest): Callback {
  return (...args) => { recover(() => callback(...args), error => fail(error, request)) }
}

function fail (error: unknown, request: FastifyRequest): void {
  // What is decrypted for a websocket may be given another object for a request.
  request.log?.error({ plugin: 'session', reason: reasonOf(error) }, 'session: a callback failed')
  const reply = (request as Holder)[REPLY]
  if (reply && !reply.sent) failHook('session', reply, () => reply.send(toError(error)), error)
}
