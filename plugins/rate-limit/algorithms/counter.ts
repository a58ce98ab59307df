import type { LimitState } from '../decision.js'
import type { Limit } from '../policy.js'

/**
 * What one key has used, by one algorithm, in this process. Times are milliseconds, and `now` never decreases
 * from call to call. `scripts.ts` holds the same algorithms for Redis.
 */
export interface Counter {
  /** Milliseconds until `cost` units pass the limit with this index; 0: now. */
  wait (index: number, limit: Limit, cost: number, now: number): number
  /** Takes units from all limits. */
  take (limits: readonly Limit[], cost: number, now: number): void
  /** Gives back units that were taken at `time`. */
  giveBack (limits: readonly Limit[], cost: number, time: number, now: number): void
  used (index: number, limit: Limit, now: number): Omit<LimitState, 'retryAfter'>
}
