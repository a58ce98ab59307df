import type { FastifyRequest } from 'fastify'
import type { SafeEmitter } from '../shared/plugin/safe-emitter.js'
import type { Decision } from './decision.js'
import type { Policy } from './policy.js'

/** What a listener is told of a decision. */
export interface RateLimitEvent {
  /** Undefined where the decision was asked for by `fastify.rateLimiter`. */
  readonly request: FastifyRequest | undefined
  readonly key: string
  /** What is counted for beside the key: a route, a group, a named policy, all routes of a plugin. */
  readonly scope: string
  readonly policy: Policy
  readonly decision: Decision
  /** Whether it was only a trial: the request went on. */
  readonly dryRun: boolean
}

export interface RateLimitEvents {
  allowed: RateLimitEvent
  refused: RateLimitEvent
  /** A refusal for too many refusals. */
  banned: RateLimitEvent
  /** The store could not be asked. */
  error: { error: Error }
}

/** The names of {@link RateLimitEvents}. */
export const RATE_LIMIT_EVENTS = ['allowed', 'refused', 'banned', 'error'] as const

export type RateLimitListener<E extends keyof RateLimitEvents> = (event: RateLimitEvents[E]) => unknown

export type Events = SafeEmitter<RateLimitEvents>

/** @param describe - makes the event, for which there may be no listener */
export function tellDecision (events: Events, { allowed, banned }: Decision, describe: () => RateLimitEvent): void {
  const name = allowed ? 'allowed' : banned ? 'banned' : 'refused'
  if (events.hears(name)) events.emit(name, describe())
}
