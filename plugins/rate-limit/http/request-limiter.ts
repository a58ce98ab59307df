import { format } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { isInternalRequest } from '../../shared/http/internal-requests.js'
import { readingAs, recorderOf } from '../../shared/http/read-recorder.js'
import { callListener } from '../../shared/plugin/safe-emitter.js'
import { isNumericId } from '../../shared/data/ids.js'
import { recover, whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { outcomeOf, tighterDecision, type Decision, type Mode } from '../decision.js'
import { DeniedError, invalidResult, RateLimitExceededError } from '../errors.js'
import type { RateLimitEmitter } from '../events.js'
import type { Limiter } from '../limiter/limiter.js'
import type { ResolvedRouteOptions } from '../options/route.js'
import type { ErrorResponseContext } from '../options/types.js'
import type { Policy } from '../policy.js'
import { settleByOutcome } from './count-by-outcome.js'
import { RateLimitState, type Charge } from './request-state.js'
import { setHeaders } from './response-headers.js'
import { retryAfterSeconds } from './retry-after.js'

const LIMITS = Symbol('rate-limit.limits')

declare module 'fastify' {
  interface FastifyRequest {
    [LIMITS]?: RequestLimits
  }
}

/** The state of a request that all its limiters share. */
interface RequestLimits {
  /** The limiters that have counted the request: each counts it once, however often it is called. */
  readonly counted: RequestLimiter[]
  /** Checks that began before their hook was called; undefined is the result if a function of the options failed. */
  early: Map<RequestLimiter, MaybePromise<LimitResult | undefined>> | undefined
  tightest: Decision | undefined
  readonly charges: Charge[]
}

type LimitResult =
  /** The key is on the allow list, or the caller is unlimited: neither limited nor counted. */
  | { kind: 'exempt', key: string }
  /** The key is on the deny list. */
  | { kind: 'denied', key: string }
  /** The store failed, and the options let requests pass then. */
  | { kind: 'unchecked', key: string }
  /** The store failed, and the options refuse requests then. */
  | { kind: 'failed', key: string, error: unknown }
  | { kind: 'decided', key: string, id: string, policy: Policy, cost: number, decision: Decision }

const KEY_ALLOWED = 'a string or a finite number, such as request.user.id, and a whole number above 2^53 as a string ' +
  'or a bigint; for a caller without one return request.ip'

/** Limits requests by one set of options: the plugin's, a route's, or those of `fastify.rateLimit(options)`. */
export class RequestLimiter {
  readonly options: ResolvedRouteOptions
  readonly #limiter: Limiter
  readonly #scope: string
  readonly #idOf: (key: string) => string
  readonly #events: RateLimitEmitter

  /** @param scope - the part of an id beside the key: limiters with the same scope share their counts */
  constructor (limiter: Limiter, options: ResolvedRouteOptions, scope: string, events: RateLimitEmitter) {
    this.#limiter = limiter
    this.options = options
    this.#scope = scope
    this.#idOf = limiter.idWithin(scope)
    this.#events = events
  }

  /**
   * Counts a request, sets its headers, and reports the decision: at once if neither the store nor a function of the
   * options returns a promise.
   *
   * @returns the error that refuses the request, or undefined
   * @throws the error of the store, or of a function of the options
   */
  limit (request: FastifyRequest, reply: FastifyReply): MaybePromise<unknown> {
    const limits = request[LIMITS] ?? startLimits(request)
    if (limits.counted.includes(this)) return undefined
    limits.counted.push(this)
    const result = limits.early === undefined
      ? this.check(request, 'consume')
      : whenReady(limits.early.get(this), early => early ?? this.check(request, 'consume'))
    return whenReady(result, known => this.#conclude(request, reply, limits, known))
  }

  #conclude (
    request: FastifyRequest, reply: FastifyReply, limits: RequestLimits, result: LimitResult
  ): MaybePromise<unknown> {
    const { options } = this
    if (result.kind === 'denied') return new DeniedError()
    if (result.kind === 'failed') throw result.error
    if (result.kind !== 'decided') return undefined

    const { key, id, policy, cost, decision } = result
    const charge = { limiter: this.#limiter, id, policy, cost, decision }
    limits.charges.push(charge)
    if (options.count !== undefined && decision.allowed) {
      settleByOutcome(options.count, request, reply, limits.charges, charge)
    }
    if (limits.tightest === undefined || tighterDecision(limits.tightest, decision) === decision) {
      limits.tightest = decision
      request.rateLimit = new RateLimitState(key, decision, limits.charges)
      setHeaders(reply, options.headers, policy, decision)
    }

    const outcome = outcomeOf(decision)
    if (this.#events.hasListeners(outcome)) {
      this.#events.emit(outcome, { request, key, scope: this.#scope, policy, decision, dryRun: options.dryRun })
    }
    if (decision.allowed || options.dryRun) {
      notify('onExceeding', options, request, key)
      return undefined
    }
    notify('onExceeded', options, request, key)
    if (decision.banned) notify('onBanReach', options, request, key)
    const { errorResponseBuilder } = options
    return whenReady(errorResponseBuilder?.(request, errorContext(decision)), (error: unknown) =>
      // Fastify takes any object as an error, and a falsy value as permission to go on.
      error || new RateLimitExceededError(waitInWords(decision), decision.banned))
  }

  /** Decides on a request by its key, the lists, the policy and the cost. */
  check (request: FastifyRequest, mode: Mode): MaybePromise<LimitResult> {
    // The response does not depend on what a limit reads of the request.
    if (recorderOf(request) === undefined) return this.#check(request, mode)
    return readingAs('suite', request, () => this.#check(request, mode))
  }

  // Values that are not promises are not awaited: what is read after an `await` is not recorded as read by the suite.
  #check (request: FastifyRequest, mode: Mode): MaybePromise<LimitResult> {
    // A refresh in the background repeats a client's request that was counted already.
    if (isInternalRequest(request)) return { kind: 'exempt', key: '' }
    return whenReady(this.options.keyGenerator(request), given => this.#checkKey(request, mode, given))
  }

  #checkKey (request: FastifyRequest, mode: Mode, given: unknown): MaybePromise<LimitResult> {
    // As text most objects are equal, and so are all missing ids: such callers would share one count.
    const isKey = typeof given === 'string' || isNumericId(given)
    if (!isKey) throw invalidResult('keyGenerator', request, given, KEY_ALLOWED)
    // Listeners and lists get the key as the key generator returned it; ids are made of its text.
    const key = given as string
    const { allowList, denyList } = this.options
    return whenReady(allowList?.(request, key), isAllowed => {
      if (isAllowed) return { kind: 'exempt', key }
      return whenReady(denyList?.(request, key), isDenied =>
        isDenied ? { kind: 'denied', key } : this.#checkLimits(request, mode, key))
    })
  }

  #checkLimits (request: FastifyRequest, mode: Mode, key: string): MaybePromise<LimitResult> {
    const { policyOf, cost: costOf } = this.options
    return whenReady(policyOf(request, key), policy => policy === undefined
      ? { kind: 'exempt', key }
      : whenReady(costOf(request), cost => this.#apply(key, policy, cost, mode)))
  }

  #apply (key: string, policy: Policy, cost: number, mode: Mode): MaybePromise<LimitResult> {
    const id = this.#idOf(key)
    const resultOf = (decision: Decision | undefined): LimitResult =>
      decision === undefined ? { kind: 'unchecked', key } : { kind: 'decided', key, id, policy, cost, decision }
    return recover<LimitResult>(
      () => whenReady(this.#limiter.apply(id, policy, cost, mode), resultOf),
      error => ({ kind: 'failed', key, error }))
  }

  /**
   * Begins to check a request before its hook is called. If a function of the options fails this early, because another
   * hook has not run yet, {@link limit} checks the request again.
   */
  checkEarly (request: FastifyRequest): void {
    const limits = request[LIMITS] ?? startLimits(request)
    limits.early ??= new Map()
    if (limits.early.has(this)) return
    limits.early.set(this, recover<LimitResult | undefined>(() => this.check(request, 'consume'), () => undefined))
  }
}

function startLimits (request: FastifyRequest): RequestLimits {
  const limits: RequestLimits = { counted: [], early: undefined, tightest: undefined, charges: [] }
  request[LIMITS] = limits
  return limits
}

type Callback = 'onExceeding' | 'onExceeded' | 'onBanReach'

function notify (event: Callback, options: ResolvedRouteOptions, request: FastifyRequest, key: string): void {
  const listener = options[event]
  if (listener !== undefined) callListener({ plugin: 'rate-limit', event }, request.log, listener, request, key)
}

function errorContext (decision: Decision): ErrorResponseContext {
  const { limit, banned, retryAfter } = decision
  const ttl = Math.ceil(Number.isFinite(retryAfter) ? retryAfter : limit.window)
  return { statusCode: banned ? 403 : 429, ban: banned, max: limit.max, ttl, after: waitInWords(decision) }
}

function waitInWords (decision: Decision): string {
  return format(retryAfterSeconds(decision) * 1000, true)
}
