import type { FastifyRequest } from 'fastify'
import { describe, pluginError, routeOf } from '../shared/plugin/errors.js'

/** Redis is unavailable, and `onStoreError: 'closed'` refuses requests then. */
export const StoreUnavailableError = pluginError('rate-limit', 'STORE_UNAVAILABLE',
  'the limit cannot be checked now', 503)
const InvalidValueError = pluginError('rate-limit', 'INVALID_VALUE', '%s %s; allowed: %s')

/** Returns the error of a function among the options that returned an invalid value. */
export function invalidResult (option: string, request: FastifyRequest, given: unknown, allowed: string): Error {
  return new InvalidValueError(`route ${routeOf(request)}: the function "${option}" returned`, describe(given), allowed)
}

/** Returns the error of an invalid argument of a call. */
export function invalidValue (argument: string, given: unknown, allowed: string): Error {
  return new InvalidValueError(`argument "${argument}" is`, describe(given), allowed)
}

export const COST_ALLOWED = 'a whole number from 0'

export function isCost (cost: unknown): cost is number {
  return Number.isSafeInteger(cost) && Number(cost) >= 0
}

/** @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE` for an argument that is not a cost */
export function requireCost (cost: unknown, argument = 'cost'): void {
  if (!isCost(cost)) throw invalidValue(argument, cost, COST_ALLOWED)
}

/** A custom store does not support the operation. */
export const UnsupportedByStoreError = pluginError('rate-limit', 'UNSUPPORTED_BY_STORE',
  'the store given by the option "store" cannot %s')
/** `createRateLimit(options)` or `rateLimit(options)` was called after the app was ready. */
export const TooLateError = pluginError('rate-limit', 'TOO_LATE',
  'a limiter must be created before the app is ready: one that each request creates would count from zero each time')

/**
 * Refuses a request over the limit. Like that of `@fastify/rate-limit` it has no code. It has no stack trace either: a
 * flood of refusals must cost little, and each trace would show the same place.
 */
export class RateLimitExceededError extends Error {
  override readonly name = 'RateLimitExceededError'
  readonly statusCode: number

  /** @param after - the time to wait in words: '1 minute' */
  constructor (after: string, banned: boolean) {
    const { stackTraceLimit } = Error
    Error.stackTraceLimit = 0
    super(`Rate limit exceeded, retry in ${after}`)
    Error.stackTraceLimit = stackTraceLimit
    this.statusCode = banned ? 403 : 429
  }
}

/** Refuses a request whose key is on the deny list. */
export const DeniedError = pluginError('rate-limit', 'DENIED', 'access denied', 403)
