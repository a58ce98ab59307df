import { pluginError } from '../shared/errors.js'

/** Redis cannot be asked, and the policy is to refuse then. */
export const StoreUnavailableError = pluginError('rate-limit', 'STORE_UNAVAILABLE', 'the limit cannot be checked now', 503)
/** A function that was to give a number for this request gave something else. */
export const InvalidValueError = pluginError('rate-limit', 'INVALID_VALUE', '"%s" gave %s; allowed: %s')

/** @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE` for a cost that is negative, a fraction, `NaN`, or no number */
export function requireCost (cost: unknown): void {
  if (!Number.isSafeInteger(cost) || Number(cost) < 0) throw new InvalidValueError('cost', String(cost), 'a whole number from 0')
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
