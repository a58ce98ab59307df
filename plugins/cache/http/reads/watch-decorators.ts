import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { internalOf } from '../../../shared/http/fastify-internals.js'
import { FORWARDED_HOST } from './request-reads.js'
import { readsOf } from './watch-request.js'

type Constructor = { prototype: object }
type Accessor = Required<Pick<PropertyDescriptor, 'get' | 'set'>>

const COOKIES = Symbol('cache.cookies')
const QUERY = Symbol('cache.query')
const LIMIT = Symbol('cache.rateLimit')
const NONCE = Symbol('cache.nonce')
const IS_READ = Symbol('cache.isNonceRead')

interface Request extends FastifyRequest {
  [COOKIES]?: unknown
  [QUERY]?: unknown
  [LIMIT]?: unknown
}

interface Reply extends FastifyReply {
  [NONCE]?: unknown
  [IS_READ]?: boolean
}

/**
 * Watches the properties that packages have added to requests and replies.
 *
 * Fastify assigns them in the constructor of each context's class, so that accessors of the prototype take no time of a
 * request.
 *
 * @param watchesQuery - whether a route of the context has parameters that are not a part of the key
 */
export function watchDecorators (fastify: FastifyInstance, watchesQuery: boolean): void {
  const request = (internalOf(fastify, 'fastify.Request') as Constructor | undefined)?.prototype
  const reply = (internalOf(fastify, 'fastify.Reply') as Constructor | undefined)?.prototype
  // A version of Fastify that hides its classes: then cookies count as read as soon as they are parsed, so that less is
  // stored.
  if (request === undefined || reply === undefined) return
  watchGetters(request)
  if (fastify.hasRequestDecorator('cookies')) replace(request, 'cookies', cookies)
  if (fastify.hasRequestDecorator('rateLimit')) replace(request, 'rateLimit', rateLimit)
  if (watchesQuery) replace(request, 'query', query)
  if (fastify.hasReplyDecorator('cspNonce')) replace(reply, 'cspNonce', nonce)
  if (fastify.hasReplyDecorator('generateCsrf')) watchToken(reply)
}

/** Defines an accessor, unless the package has defined one itself. */
function replace (prototype: object, name: string, accessor: Accessor): void {
  const present = descriptorOf(prototype, name)
  if (present === undefined || 'value' in present) {
    Object.defineProperty(prototype, name, { ...accessor, configurable: true })
  }
}

function descriptorOf (prototype: object, name: string): PropertyDescriptor | undefined {
  return descriptorsOf(prototype, name)[0]
}

/** Returns the descriptors of a property on the prototype chain, the nearest first. */
function descriptorsOf (prototype: object, name: string): PropertyDescriptor[] {
  const descriptors: PropertyDescriptor[] = []
  for (let object: object | null = prototype; object !== null; object = Reflect.getPrototypeOf(object)) {
    const descriptor = Object.getOwnPropertyDescriptor(object, name)
    if (descriptor !== undefined) descriptors.push(descriptor)
  }
  return descriptors
}

/** The names under which getters are recorded. */
const GETTERS = { ip: 'request.ip', ips: 'request.ip', protocol: 'request.protocol' }
const watchedGetters = new WeakSet<() => unknown>()

/**
 * Watches getters that read headers and the socket: each counts as one read.
 *
 * @param target - a prototype, or a request: with `trustProxy` Fastify uses a prototype that is not accessible
 */
export function watchGetters (target: object): void {
  for (const [getter, name] of Object.entries(GETTERS)) watchGetter(target, getter, name)
  // With `trustProxy` Fastify defines it a second time, for `X-Forwarded-Host`.
  watchGetter(target, 'host', descriptorsOf(target, 'host').length > 1 ? FORWARDED_HOST : 'host')
}

function watchGetter (target: object, getter: string, name: string): void {
  const get = descriptorOf(target, getter)?.get
  if (get === undefined || watchedGetters.has(get)) return
  if (Object.getOwnPropertyDescriptor(target, getter)?.configurable === false) return
  const watched = function (this: FastifyRequest): unknown {
    const reads = readsOf(this)
    return reads === undefined || reads.reader === 'suite' ? get.call(this) : reads.readFor(name, () => get.call(this))
  }
  watchedGetters.add(watched)
  Object.defineProperty(target, getter, { get: watched, configurable: true })
}

const cookies = {
  get (this: Request): unknown {
    const parsed = this[COOKIES]
    return readsOf(this)?.watchCookies(parsed) ?? parsed
  },
  set (this: Request, parsed: unknown): void {
    this[COOKIES] = parsed
    if (parsed !== null) readsOf(this)?.parsedCookies()
  }
}

const query = {
  get (this: Request): unknown {
    const parsed = this[QUERY]
    return readsOf(this)?.watchQuery(parsed) ?? parsed
  },
  set (this: Request, parsed: unknown): void { this[QUERY] = parsed }
}

/** The remaining limit of a client. The hooks of the rate limit read it as well, which does not count. */
const rateLimit = {
  get (this: Request): unknown {
    const decision = this[LIMIT]
    const reads = decision === null || decision === undefined ? undefined : readsOf(this)
    if (reads?.reader === 'handler') reads.note('request.rateLimit', true)
    return decision
  },
  set (this: Request, decision: unknown): void { this[LIMIT] = decision }
}

const nonce = {
  get (this: Reply): unknown {
    const value = this[NONCE]
    const reads = value === null || value === undefined ? undefined : readsOf(this.request)
    // The package itself reads it once, for the header.
    if (reads?.reader === 'handler' || this[IS_READ]) reads?.note('reply.cspNonce', true)
    this[IS_READ] = true
    return value
  },
  set (this: Reply, value: unknown): void {
    this[NONCE] = value
    this[IS_READ] = false
  }
}

function watchToken (prototype: object): void {
  const generate: unknown = Reflect.get(prototype, 'generateCsrf')
  if (typeof generate !== 'function' || watchedTokens.has(generate)) return
  const watched = function (this: FastifyReply, ...given: unknown[]): unknown {
    readsOf(this.request)?.note('reply.generateCsrf()', true)
    return Reflect.apply(generate, this, given)
  }
  watchedTokens.add(watched)
  Object.defineProperty(prototype, 'generateCsrf', { value: watched, configurable: true, writable: true })
}

const watchedTokens = new WeakSet<object>()
