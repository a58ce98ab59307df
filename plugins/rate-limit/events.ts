import type { FastifyRequest } from 'fastify'
import type { SafeEmitter } from '../shared/plugin/safe-emitter.js'
import type { Decision } from './decision.js'
import type { Policy } from './policy.js'

/** A decision, as listeners receive it. */
export interface RateLimitEvent {
  /** Undefined for a decision of `fastify.rateLimiter`. */
  readonly request: FastifyRequest | undefined
  readonly key: string
  /** The part of the count beside the key: a route, a group, a named policy, or all routes of a plugin. */
  readonly scope: string
  readonly policy: Policy
  readonly decision: Decision
  /** Whether the request went on although it may have been refused. */
  readonly dryRun: boolean
}

export interface RateLimitEvents {
  allowed: RateLimitEvent
  refused: RateLimitEvent
  /** A refusal of a key that was refused too often. */
  banned: RateLimitEvent
  /** The store failed. */
  error: { error: Error }
}

/** The names of {@link RateLimitEvents}. */
export const RATE_LIMIT_EVENTS = ['allowed', 'refused', 'banned', 'error'] as const

export type RateLimitListener<E extends keyof RateLimitEvents> = (event: RateLimitEvents[E]) => unknown

export type RateLimitEmitter = SafeEmitter<RateLimitEvents>
