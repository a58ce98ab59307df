import type { LimitState } from './decision.js'
import { GenericCellRate } from './gcra.js'
import type { Limit, Policy } from './policy.js'
import { SlidingCounter } from './sliding-counter.js'
import { SlidingLog } from './sliding-log.js'

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

export function createCounter ({ algorithm, limits }: Policy): Counter {
  switch (algorithm) {
    case 'sliding-log': return new SlidingLog(Math.max(...limits.map(limit => limit.max)))
    case 'sliding-counter': return new SlidingCounter()
    case 'gcra': return new GenericCellRate()
  }
}
