import type { FastifyRequest } from 'fastify'
import type { AnyRequest } from '../../shared/http/any-request.js'
import type { RequestLimiter } from '../http/request-limiter.js'

/** The result of a {@link ManualLimiter}. As in `@fastify/rate-limit`, `isAllowed` means "on the allow list". */
export type ManualResult =
  | { isAllowed: true, key: string }
  | {
    isAllowed: false
    key: string
    max: number
    /** Milliseconds. */
    timeWindow: number
    remaining: number
    /** Milliseconds until the oldest unit leaves the window. */
    ttl: number
    ttlInSeconds: number
    isExceeded: boolean
    isBanned: boolean
  }

/** Decides on a request. With `increment: false` it takes nothing. */
export type ManualLimiter =
  (request: AnyRequest, options?: { increment?: boolean | undefined } | undefined) => Promise<ManualResult>

/** Creates a limiter for handlers: it decides, and neither responds nor sets headers. */
export function createManualLimiter (limiter: RequestLimiter): ManualLimiter {
  return async (given, options) => {
    const request = given as FastifyRequest
    // As in `@fastify/rate-limit`, only `false` takes nothing.
    const increment = options?.increment !== false
    const result = await limiter.check(request, increment ? 'consume' : 'peek')
    const { key } = result
    if (result.kind === 'exempt') return { isAllowed: true, key }
    if (result.kind === 'failed') throw result.error
    if (result.kind !== 'decided') {
      const denied = result.kind === 'denied'
      const policy = await limiter.options.policyOf(request, key)
      const { max = 0, window: timeWindow = 0 } = policy?.limits[0] ?? {}
      const state = { remaining: denied ? 0 : max, ttl: 0, ttlInSeconds: 0, isExceeded: denied, isBanned: denied }
      return { isAllowed: false, key, max, timeWindow, ...state }
    }
    const { decision } = result
    const isUnused = decision.remaining === decision.limit.max
    const wait = decision.allowed ? decision.resetAfter : Math.min(decision.retryAfter, Number.MAX_SAFE_INTEGER)
    const ttl = isUnused && !increment ? 0 : Math.ceil(wait)
    return {
      isAllowed: false,
      key,
      max: decision.limit.max,
      timeWindow: decision.limit.window,
      remaining: decision.remaining,
      ttl,
      ttlInSeconds: Math.ceil(ttl / 1000),
      isExceeded: !decision.allowed,
      isBanned: decision.banned
    }
  }
}
