import type { FastifyRequest } from 'fastify'
import { describe, pluginError, routeOf } from '../shared/plugin/errors.js'

/** Redis cannot be asked, and the policy is to refuse then. */
export const StoreUnavailableError = pluginError('rate-limit', 'STORE_UNAVAILABLE', 'the limit cannot be checked now', 503)
const InvalidValueError = pluginError('rate-limit', 'INVALID_VALUE', '%s %s; allowed: %s')

/** Returns the error of a function among the options that returned a value which cannot be used for the request. */
export function invalidResult (option: string, request: FastifyRequest, given: unknown, allowed: string): Error {
  return new InvalidValueError(`route ${routeOf(request)}: the function "${option}" returned`, describe(given), allowed)
}

/** Returns the error of an argument of a call that is of no use for a decision. */
export function invalidValue (argument: string, given: unknown, allowed: string): Error {
  return new InvalidValueError(`argument "${argument}" is`, describe(given), allowed)
}

export const COST_ALLOWED = 'a whole number from 0'

/** Whether a cost is neither negative nor a fraction nor `NaN`. */
export function isCost (cost: unknown): cost is number {
  return Number.isSafeInteger(cost) && Number(cost) >= 0
}

/** @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE` for an argument that is no cost */
export function requireCost (cost: unknown): void {
  if (!isCost(cost)) throw invalidValue('cost', cost, COST_ALLOWED)
}

/** A store of the user's own cannot do what was asked. */
export const UnsupportedByStoreError = pluginError('rate-limit', 'UNSUPPORTED_BY_STORE', 'the store given by the option "store" cannot %s')
/** `createRateLimit(options)` or `rateLimit(options)` was called while the app runs. */
export const TooLateError = pluginError('rate-limit', 'TOO_LATE', 'a limiter is made once, before the app is ready: one made for each request would never limit')

/**
 * The answer to a request over the limit: as `@fastify/rate-limit` has it, so without a code. Made without a stack
 * trace, as a flood of refusals must cost little and a trace would always show the same place.
 */
export class RateLimitExceededError extends Error {
  override readonly name = 'RateLimitExceededError'
  readonly statusCode: number

  /** @param after - when to come back, in words: '1 minute' */
  constructor (after: string, banned: boolean) {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    super(`Rate limit exceeded, retry in ${after}`)
    Error.stackTraceLimit = stackTraceLimit
    this.statusCode = banned ? 403 : 429
  }
}

/** The answer to a request on the deny list. */
export const DeniedError = pluginError('rate-limit', 'DENIED', 'access denied', 403)
