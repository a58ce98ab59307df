import { format } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest, onRequestHookHandler, preParsingHookHandler, RouteOptions } from 'fastify'
import { tighterDecision, type Decision } from './decision.js'
import { DeniedError, RateLimitExceededError } from './errors.js'
import type { RateLimitEvents } from './events.js'
import { setHeaders, waitInSeconds } from './headers.js'
import type { Limiter } from './limiter.js'
import { isPromise, whenReady, type MaybePromise } from './maybe-promise.js'
import type { RateLimitHook } from './options.js'
import { createRequestLimiter, type Outcome } from './request-limiter.js'
import { RateLimitState, type Charge } from './request-state.js'
import type { ResolvedRouteOptions } from './resolve-options.js'

// What a request has been charged to already, so that a limiter that stands twice on its way counts once.
const CHARGED = Symbol('rate-limit.charged')

declare module 'fastify' {
  interface FastifyRequest {
    [CHARGED]?: { by: ResolvedRouteOptions[], tightest: Decision | undefined, charges: Charge[] }
  }
}

/** It may stand in any of the hooks of `RateLimitHook`. */
export type UniversalHook = onRequestHookHandler & preParsingHookHandler

/** @param scope - what is counted for beside the key: limiters that share it share the count */
export function createHook (limiter: Limiter, options: ResolvedRouteOptions, scope: string, events: RateLimitEvents): UniversalHook {
  const check = createRequestLimiter(limiter, options, limiter.idWithin(scope))

  /** @returns what to answer with, or undefined where the request goes on */
  function settle (request: FastifyRequest, reply: FastifyReply, outcome: Outcome): MaybePromise<Error | undefined> {
    if (outcome.kind === 'exempt' || outcome.kind === 'unchecked') return undefined
    if (outcome.kind === 'denied') return new DeniedError()

    const { key, id, policy, decision, cost } = outcome
    const charges = request[CHARGED]?.charges ?? []
    charges.push({ limiter, id, policy, cost, decision })
    if (isTightest(request, decision)) {
      request.rateLimit = new RateLimitState(key, decision, charges)
      setHeaders(reply, options.headers, policy, decision)
    }
    events.decided(decision, () => ({ request, key, scope, policy, decision, dryRun: options.dryRun }))
    if (!decision.allowed && !options.dryRun) return refuse(options, request, key, decision)
    options.onExceeding?.(request, key)
    return undefined
  }

  function limit (request: FastifyRequest, reply: FastifyReply): MaybePromise<Error | undefined> {
    if (!chargeOnce(request, options)) return undefined
    return whenReady(check(request, 'consume'), outcome => settle(request, reply, outcome))
  }

  // A hook with a callback, as it answers at once where it can. The callback is the last argument: preParsing has one more.
  return function rateLimit (request: FastifyRequest, reply: FastifyReply, ...rest: unknown[]): void {
    const done = rest.at(-1) as (error?: Error) => void
    let answer: MaybePromise<Error | undefined>
    try {
      answer = limit(request, reply)
    } catch (error) {
      return done(asError(error))
    }
    if (isPromise(answer)) answer.then(done, error => done(asError(error)))
    else done(answer)
  }
}

/** Nothing at all would let the request go on. */
function asError (error: unknown): Error {
  return (error ?? new Error('rejected without a reason')) as Error
}

function refuse (options: ResolvedRouteOptions, request: FastifyRequest, key: string, decision: Decision): MaybePromise<Error> {
  const { limit, banned, retryAfter } = decision
  options.onExceeded?.(request, key)
  if (banned) options.onBanReach?.(request, key)
  const after = format(waitInSeconds(decision) * 1000, true)
  const standard = () => new RateLimitExceededError(after, banned)
  if (options.errorResponseBuilder === undefined) return standard()
  const ttl = Math.ceil(Number.isFinite(retryAfter) ? retryAfter : limit.window)
  const built = options.errorResponseBuilder(request, { statusCode: banned ? 403 : 429, ban: banned, max: limit.max, ttl, after })
  // Fastify takes any object as an error, and nothing as leave to go on.
  return whenReady(built as MaybePromise<Error | undefined>, error => error ?? standard())
}

function chargeOnce (request: FastifyRequest, options: ResolvedRouteOptions): boolean {
  const charged = request[CHARGED]
  if (charged === undefined) {
    request[CHARGED] = { by: [options], tightest: undefined, charges: [] }
    return true
  }
  if (charged.by.includes(options)) return false
  charged.by.push(options)
  return true
}

/** Where several limiters stand on a request's way, it is told of the tightest. */
function isTightest (request: FastifyRequest, decision: Decision): boolean {
  const charged = request[CHARGED]
  if (charged === undefined || (charged.tightest !== undefined && tighterDecision(charged.tightest, decision) !== decision)) return false
  charged.tightest = decision
  return true
}

/** Appends to the hooks that the route has already, so that those keep their place. */
export function addHook (route: RouteOptions, name: RateLimitHook, hook: UniversalHook): void {
  const present: unknown = route[name]
  // A list with a way of its own to append keeps something last, as the cache does: it is not to answer before the limit was asked.
  if (Array.isArray(present) && Object.hasOwn(present, 'push')) present.push(hook)
  else Object.assign(route, { [name]: present === undefined ? [hook] : [present, hook].flat() })
}
