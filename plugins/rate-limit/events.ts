import { EventEmitter } from 'node:events'
import type { FastifyRequest } from 'fastify'
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

interface EventMap {
  allowed: [RateLimitEvent]
  refused: [RateLimitEvent]
  banned: [RateLimitEvent]
  storeError: [Error]
}

/** `allowed`, `refused`, `banned` (a refusal for too many refusals) and `storeError` (the store could not be asked). */
export class RateLimitEvents extends EventEmitter<EventMap> {
  /** @param describe - makes the event, for which there may be no listener */
  decided ({ allowed, banned }: Decision, describe: () => RateLimitEvent): void {
    const name = allowed ? 'allowed' : banned ? 'banned' : 'refused'
    if (this.listenerCount(name) > 0) this.emit(name, describe())
  }
}
