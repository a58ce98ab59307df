import type { FastifyRequest } from 'fastify'
import type { AnyRequest } from '../../shared/http/any-request.js'
import type { Limiter } from '../limiter/limiter.js'
import { createCheckRequest } from '../http/check-request.js'
import type { ResolvedRouteOptions } from '../options/route.js'

/** What `fastify.createRateLimit()` says of a request; as in `@fastify/rate-limit`, `isAllowed` means "on the allow list". */
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

/** @param increment - `false`: only look. @default true */
export type ManualLimiter = (request: AnyRequest, options?: { increment?: boolean | undefined } | undefined) => Promise<ManualResult>

/** A limiter for a handler to ask; it neither answers nor sets headers. */
export function createManualLimiter (limiter: Limiter, options: ResolvedRouteOptions, scope: string): ManualLimiter {
  const check = createCheckRequest(limiter, options, limiter.idWithin(scope))
  return async (given, asked) => {
    const request = given as FastifyRequest
    // As in `@fastify/rate-limit`, nothing but `false` means only to look.
    const increment = asked?.increment !== false
    const outcome = await check(request, increment ? 'consume' : 'peek')
    const { key } = outcome
    if (outcome.kind === 'exempt') return { isAllowed: true, key }
    if (outcome.kind !== 'decided') {
      const denied = outcome.kind === 'denied'
      const { limits: [limit] } = await options.policyOf(request, key)
      const { max = 0, window: timeWindow = 0 } = limit ?? {}
      return { isAllowed: false, key, max, timeWindow, remaining: denied ? 0 : max, ttl: 0, ttlInSeconds: 0, isExceeded: denied, isBanned: denied }
    }
    const { decision } = outcome
    const nothingUsed = decision.remaining === decision.limit.max
    const ttl = nothingUsed && !increment ? 0 : Math.ceil(decision.allowed ? decision.resetAfter : Math.min(decision.retryAfter, Number.MAX_SAFE_INTEGER))
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
