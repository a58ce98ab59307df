import type { Mode, Verdict } from '../decision.js'
import type { Policy } from '../policy.js'

/** A later correction of what a decision took. */
interface Settlement {
  /** Units to charge beyond what was taken; below 0: units to refund. */
  readonly units: number
  /** When the decision took its cost, by the store's clock. */
  readonly time: number
  /** Identifies the correction: it takes effect once, however often it is sent. */
  readonly token: string
}

/** Stores what each key has used outside of this process. An id is safe as a part of a Redis key. */
export interface SharedRateLimitStore {
  apply (id: string, policy: Policy, cost: number, mode: Mode): Promise<Verdict>
  /** Refunds units that were taken at `time` (of the verdict). It does nothing where they are no longer counted. */
  refund (id: string, policy: Policy, cost: number, time: number): Promise<void>
  /** Corrects what a decision took, once. */
  settle (id: string, policy: Policy, settlement: Settlement): Promise<void>
  /** Deletes what the key has used, its penalty and its ban. */
  reset (id: string): Promise<void>
}

/** The same in the memory of this process, at once. Both kinds of stores pass the same tests. */
export interface LocalRateLimitStore {
  apply (id: string, policy: Policy, cost: number, mode: Mode): Verdict
  refund (id: string, policy: Policy, cost: number, time: number): void
  reset (id: string): void
}
