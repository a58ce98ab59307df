import type { LimitState } from '../decision.js'
import type { Limit } from '../policy.js'

/**
 * Counts the units of one key by one algorithm, in the memory of this process. Times are milliseconds, and `now` never
 * decreases from call to call.
 *
 * Beside each algorithm is the same in Lua, the middle part of the scripts of `store/scripts.ts`, with times in
 * microseconds of Redis's own clock. It defines:
 *
 * - `load()`: reads `KEYS[1]`. It may raise `now`, so that a clock that is set back stands still.
 * - `wait(i, limit)`: µs until `cost` units pass the limit; -1: never
 * - `take()`: takes `cost` units from all limits, and sets the TTL
 * - `used(i, limit)`: units used, µs until the oldest of them leaves the window
 * - `refund(time)`: refunds `cost` units that were taken at that time
 */
export interface Counter {
  /** Returns the milliseconds until `cost` units pass the limit with this index; 0: now, `Infinity`: never. */
  wait (index: number, limit: Limit, cost: number, now: number): number
  /** Takes units from all limits. */
  take (limits: readonly Limit[], cost: number, now: number): void
  /** Refunds units that were taken at `time`. */
  refund (limits: readonly Limit[], cost: number, time: number, now: number): void
  used (index: number, limit: Limit, now: number): Omit<LimitState, 'retryAfter'>
}
