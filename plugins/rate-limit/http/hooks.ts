import { format } from '@lukeed/ms'
import type { FastifyReply, FastifyRequest, onRequestHookHandler, RequestPayload, RouteOptions } from 'fastify'
import type { AnyReply, AnyRequest } from '../../shared/http/any-request.js'
import { callListener } from '../../shared/plugin/call-listener.js'
import { failHook, finishHook } from '../../shared/http/hook-callback.js'
import { tighterDecision, type Decision } from '../decision.js'
import { DeniedError, RateLimitExceededError } from '../errors.js'
import { tellDecision, type Events } from '../events.js'
import { setHeaders, waitInSeconds } from './headers.js'
import type { Limiter } from '../limiter/limiter.js'
import { handled, isPromise, whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { RateLimitHook } from '../options/types.js'
import { createCheckRequest, type CheckResult } from './check-request.js'
import { RateLimitState, type Charge } from './request-state.js'
import type { ResolvedRouteOptions } from '../options/route.js'

// What a request has been charged to already, so that a limiter that stands twice on its way counts once.
const CHARGED = Symbol('rate-limit.charged')
// What was asked before its hook's turn.
const BEGUN = Symbol('rate-limit.begun')
// Of a route: its limiters that ask early.
const EARLY = Symbol('rate-limit.early')

interface Begun { by: ResolvedRouteOptions, outcome: MaybePromise<CheckResult> }

declare module 'fastify' {
  interface FastifyRequest {
    [CHARGED]?: { by: ResolvedRouteOptions[], tightest: Decision | undefined, charges: Charge[] }
    [BEGUN]?: Begun[]
  }
  interface FastifyContextConfig {
    [EARLY]?: Array<(request: FastifyRequest) => void>
  }
}

/** Limits a request where it is awaited. The promise rejects with the refusal, or with the error of a function among the options. */
export type AwaitedHook = (request: AnyRequest, reply: AnyReply) => Promise<void>

/** Can be any of the hooks of `RateLimitHook`, or be awaited in an async hook or a handler. */
export type UniversalHook = CallbackHook & PayloadHook & AwaitedHook

type Done = (error?: Error) => void
type CallbackHook = (request: AnyRequest, reply: AnyReply, done: Done) => void
type PayloadHook = (request: AnyRequest, reply: AnyReply, payload: RequestPayload, done: Done) => void

/** Where a limiter stands, and what asks it before. */
export interface HookPair { hook: UniversalHook, begin: (request: FastifyRequest) => void }

/** @param scope - what is counted for beside the key: limiters that share it share the count */
export function createHook (limiter: Limiter, options: ResolvedRouteOptions, scope: string, events: Events): UniversalHook {
  return createHookPair(limiter, options, scope, events).hook
}

/** As {@link createHook}. */
export function createHookPair (limiter: Limiter, options: ResolvedRouteOptions, scope: string, events: Events): HookPair {
  const check = createCheckRequest(limiter, options, limiter.idWithin(scope))

  function begin (request: FastifyRequest): void {
    const begun = request[BEGUN] ??= []
    if (begun.some(({ by }) => by === options)) return
    const outcome = check(request, 'consume')
    // The hook hears of what fails, if the request comes so far.
    if (isPromise(outcome)) outcome.catch(() => {})
    begun.push({ by: options, outcome })
  }

  /** @returns what to answer with, or undefined where the request goes on */
  function settle (request: FastifyRequest, reply: FastifyReply, outcome: CheckResult): MaybePromise<Error | undefined> {
    if (outcome.kind === 'exempt' || outcome.kind === 'unchecked') return undefined
    if (outcome.kind === 'denied') return new DeniedError()

    const { key, id, policy, decision, cost } = outcome
    const charges = request[CHARGED]?.charges ?? []
    charges.push({ limiter, id, policy, cost, decision })
    if (isTightest(request, decision)) {
      request.rateLimit = new RateLimitState(key, decision, charges)
      setHeaders(reply, options.headers, policy, decision)
    }
    tellDecision(events, decision, () => ({ request, key, scope, policy, decision, dryRun: options.dryRun }))
    if (!decision.allowed && !options.dryRun) return refuse(options, request, key, decision)
    notify('onExceeding', options, request, key)
    return undefined
  }

  function limit (request: FastifyRequest, reply: FastifyReply): MaybePromise<Error | undefined> {
    if (!chargeOnce(request, options)) return undefined
    const begun = request[BEGUN]?.find(({ by }) => by === options)
    return whenReady(begun?.outcome ?? check(request, 'consume'), outcome => settle(request, reply, outcome))
  }

  async function limitAwaited (request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const error = await limit(request, reply)
    if (error !== undefined) throw error
  }

  // A hook with a callback, as it answers at once where it can. The callback is the last argument: preParsing has one more.
  function hook (request: FastifyRequest, reply: FastifyReply, ...rest: unknown[]): Promise<void> | undefined {
    const done = rest.at(-1) as ((error?: Error) => void) | undefined
    // Without a callback nothing but a promise can tell its caller of a refusal.
    if (typeof done !== 'function') return handled(limitAwaited(request, reply))
    let answer: MaybePromise<Error | undefined>
    try {
      answer = limit(request, reply)
    } catch (error) {
      failHook('rate-limit', reply, done, error)
      return undefined
    }
    if (isPromise(answer)) answer.then(error => finishHook('rate-limit', reply, done, error), error => failHook('rate-limit', reply, done, error))
    else done(answer)
    return undefined
  }
  return { hook: hook as UniversalHook, begin }
}

/** Asks what the request's route asks early, and waits for nothing: that is for the hooks of the route. */
export const askEarly: onRequestHookHandler = (request, _reply, done) => {
  for (const begin of request.routeOptions.config[EARLY] ?? []) {
    try {
      begin(request)
    } catch {
      // A function of the user's own that needs what is not there yet: it is called again in its place.
    }
  }
  done()
}

/** Has {@link askEarly} ask for requests of a route. */
export function markEarly (route: RouteOptions, begin: HookPair['begin']): void {
  route.config = { ...route.config, [EARLY]: [...route.config?.[EARLY] ?? [], begin] }
}

function refuse (options: ResolvedRouteOptions, request: FastifyRequest, key: string, decision: Decision): MaybePromise<Error> {
  const { limit, banned, retryAfter } = decision
  notify('onExceeded', options, request, key)
  if (banned) notify('onBanReach', options, request, key)
  const after = format(waitInSeconds(decision) * 1000, true)
  const standard = () => new RateLimitExceededError(after, banned)
  if (options.errorResponseBuilder === undefined) return standard()
  const ttl = Math.ceil(Number.isFinite(retryAfter) ? retryAfter : limit.window)
  const built = options.errorResponseBuilder(request, { statusCode: banned ? 403 : 429, ban: banned, max: limit.max, ttl, after })
  // Fastify takes any object as an error, and a falsy value as leave to go on.
  return whenReady(built as MaybePromise<Error | undefined>, error => error || standard())
}

type Callback = 'onExceeding' | 'onExceeded' | 'onBanReach'

const NAMES = {
  onExceeding: { plugin: 'rate-limit', event: 'onExceeding' },
  onExceeded: { plugin: 'rate-limit', event: 'onExceeded' },
  onBanReach: { plugin: 'rate-limit', event: 'onBanReach' }
} as const

function notify (name: Callback, { [name]: callback }: ResolvedRouteOptions, request: FastifyRequest, key: string): void {
  if (callback !== undefined) callListener(NAMES[name], request.log, callback, request, key)
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
  Object.assign(route, { [name]: present === undefined ? [hook] : [present, hook].flat() })
}
