import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { Mode, Verdict } from '../decision.js'
import type { Policy } from '../policy.js'

/** Stores what each key has used. An id is safe as a part of a Redis key. All stores pass the same tests. */
export interface RateLimitStore {
  apply (id: string, policy: Policy, cost: number, mode: Mode): MaybePromise<Verdict>
  /** Returns units that were taken at `time` (of the verdict). It does nothing where they are no longer counted. */
  refund (id: string, policy: Policy, cost: number, time: number): void | Promise<void>
  /** Deletes what the key has used, its penalty and its ban. */
  reset (id: string): void | Promise<void>
}

/** A store in the memory of this process. */
export interface MemoryStore extends RateLimitStore {
  apply (id: string, policy: Policy, cost: number, mode: Mode): Verdict
}

/** A store outside of this process. */
export interface SharedRateLimitStore extends RateLimitStore {
  apply (id: string, policy: Policy, cost: number, mode: Mode): Promise<Verdict>
  refund (id: string, policy: Policy, cost: number, time: number): Promise<void>
  reset (id: string): Promise<void>
}
