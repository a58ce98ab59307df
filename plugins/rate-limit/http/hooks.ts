import type { FastifyReply, FastifyRequest, onRequestHookHandler, RequestPayload, RouteOptions } from 'fastify'
import type { AnyReply, AnyRequest } from '../../shared/http/any-request.js'
import { failHook, finishHook } from '../../shared/http/hook-callback.js'
import { handled, isPromise, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { RequestLimiter } from './request-limiter.js'

const EARLY = Symbol('rate-limit.early')

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route's limiters with the option `early`. */
    [EARLY]?: RequestLimiter[]
  }
}

/** Limits a request where it is awaited. The promise rejects with the refusal, or with the error of an option. */
type AwaitedHook = (request: AnyRequest, reply: AnyReply) => Promise<void>
type Done = (error?: Error) => void
type CallbackHook = (request: AnyRequest, reply: AnyReply, done: Done) => void
type PayloadHook = (request: AnyRequest, reply: AnyReply, payload: RequestPayload, done: Done) => void

/** A hook of any name of `RateLimitHook`, or a function to be awaited in an async hook or a handler. */
export type UniversalHook = CallbackHook & PayloadHook & AwaitedHook

export function createHook (limiter: RequestLimiter): UniversalHook {
  function hook (
    request: FastifyRequest, reply: FastifyReply, third?: unknown, fourth?: unknown
  ): Promise<void> | undefined {
    // The callback is the last argument: preParsing has one more.
    const done = fourth ?? third
    if (typeof done !== 'function') return handled(limitAwaited(limiter, request, reply))
    limitWithCallback(limiter, request, reply, done as Done)
    return undefined
  }
  return hook as UniversalHook
}

async function limitAwaited (limiter: RequestLimiter, request: FastifyRequest, reply: FastifyReply): Promise<void> {
  const error = await limiter.limit(request, reply)
  if (error !== undefined) throw error
}

function limitWithCallback (limiter: RequestLimiter, request: FastifyRequest, reply: FastifyReply, done: Done): void {
  let limited: MaybePromise<unknown>
  try {
    limited = limiter.limit(request, reply)
  } catch (error) {
    return failHook('rate-limit', reply, done, error)
  }
  // A promise would take a twentieth of the request.
  if (!isPromise(limited)) return finishHook('rate-limit', reply, done, limited)
  limited.then(
    error => finishHook('rate-limit', reply, done, error),
    (error: unknown) => failHook('rate-limit', reply, done, error))
}

/** Adds the limiter's hook to a route, behind the hooks that the route has already. */
export function limitRoute (route: RouteOptions, limiter: RequestLimiter): void {
  const { hook, early } = limiter.options
  const present: unknown = route[hook]
  Object.assign(route, { [hook]: [present ?? [], createHook(limiter)].flat() })
  if (early) route.config = { ...route.config, [EARLY]: [...route.config?.[EARLY] ?? [], limiter] }
}

/** Begins the checks of the route's early limiters, and waits for none of them: their hooks do. */
export const checkEarly: onRequestHookHandler = (request, _reply, done) => {
  for (const limiter of request.routeOptions.config[EARLY] ?? []) limiter.checkEarly(request)
  done()
}
