import { format } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { isInternalRequest } from '../../shared/http/internal-requests.js'
import { readingAs, recorderOf } from '../../shared/http/read-recorder.js'
import { callListener } from '../../shared/plugin/safe-emitter.js'
import { isNumericId } from '../../shared/data/ids.js'
import { isPromise } from '../../shared/plugin/maybe-promise.js'
import { outcomeOf, tighterDecision, type Decision, type Mode } from '../decision.js'
import { DeniedError, invalidResult, RateLimitExceededError } from '../errors.js'
import type { RateLimitEmitter } from '../events.js'
import type { Limiter } from '../limiter/limiter.js'
import type { ResolvedRouteOptions } from '../options/route.js'
import type { ErrorResponseContext } from '../options/types.js'
import type { Policy } from '../policy.js'
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
  early: Map<RequestLimiter, Promise<LimitResult | undefined>> | undefined
  tightest: Decision | undefined
  readonly charges: Charge[]
}

type LimitResult =
  /** The key is on the allow list: neither limited nor counted. */
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
   * Counts a request, sets its headers, and reports the decision.
   *
   * @returns the error that refuses the request, or undefined
   * @throws the error of the store, or of a function of the options
   */
  async limit (request: FastifyRequest, reply: FastifyReply): Promise<unknown> {
    const { options } = this
    const limits = request[LIMITS] ?? startLimits(request)
    if (limits.counted.includes(this)) return undefined
    limits.counted.push(this)

    let result = limits.early && await limits.early.get(this)
    result ??= await this.check(request, 'consume')
    if (result.kind === 'denied') return new DeniedError()
    if (result.kind === 'failed') throw result.error
    if (result.kind !== 'decided') return undefined

    const { key, id, policy, cost, decision } = result
    limits.charges.push({ limiter: this.#limiter, id, policy, cost, decision })
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
    const error: unknown = errorResponseBuilder && await errorResponseBuilder(request, errorContext(decision))
    // Fastify takes any object as an error, and a falsy value as permission to go on.
    return error || new RateLimitExceededError(waitInWords(decision), decision.banned)
  }

  /** Decides on a request by its key, the lists, the policy and the cost. */
  check (request: FastifyRequest, mode: Mode): Promise<LimitResult> {
    // The response does not depend on what a limit reads of the request.
    if (recorderOf(request) === undefined) return this.#check(request, mode)
    return readingAs('suite', request, () => this.#check(request, mode))
  }

  // Values that are not promises are not awaited: what is read after an `await` is not recorded as read by the suite.
  async #check (request: FastifyRequest, mode: Mode): Promise<LimitResult> {
    const { keyGenerator, allowList, denyList, policyOf, cost: costOf } = this.options
    // A refresh in the background repeats a client's request that was counted already.
    if (isInternalRequest(request)) return { kind: 'exempt', key: '' }

    let given = keyGenerator(request)
    if (isPromise(given)) given = await given
    // As text most objects are equal, and so are all missing ids: such callers would share one count.
    const isKey = typeof given === 'string' || isNumericId(given)
    if (!isKey) throw invalidResult('keyGenerator', request, given, KEY_ALLOWED)
    // Listeners and lists get the key as the key generator returned it; ids are made of its text.
    const key = given as string

    let allowed = allowList?.(request, key)
    if (isPromise(allowed)) allowed = await allowed
    if (allowed) return { kind: 'exempt', key }
    let denied = denyList?.(request, key)
    if (isPromise(denied)) denied = await denied
    if (denied) return { kind: 'denied', key }

    let policy = policyOf(request, key)
    if (isPromise(policy)) policy = await policy
    let cost = costOf(request)
    if (isPromise(cost)) cost = await cost

    const id = this.#idOf(key)
    try {
      let decision = this.#limiter.apply(id, policy, cost, mode)
      if (isPromise(decision)) decision = await decision
      return decision === undefined ? { kind: 'unchecked', key } : { kind: 'decided', key, id, policy, cost, decision }
    } catch (error) {
      return { kind: 'failed', key, error }
    }
  }

  /**
   * Begins to check a request before its hook is called. If a function of the options fails this early, because another
   * hook has not run yet, {@link limit} checks the request again.
   */
  checkEarly (request: FastifyRequest): void {
    const limits = request[LIMITS] ?? startLimits(request)
    limits.early ??= new Map()
    if (!limits.early.has(this)) limits.early.set(this, this.check(request, 'consume').catch(() => undefined))
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
