import type { Verdict } from '../decision.js'
import type { Policy } from '../policy.js'

/**
 * - `consume`: takes the cost from all limits, or from none where one refuses it
 * - `peek`: takes nothing, and tells what `consume` would have said
 * - `charge`: takes the cost whatever the limits say
 */
export type Mode = 'consume' | 'peek' | 'charge'

/** Keeps what each key has used; a key is safe as a part of a Redis key. All stores pass the same tests. */
export interface RateLimitStore {
  apply (key: string, policy: Policy, cost: number, mode: Mode): Verdict | Promise<Verdict>
  /** Gives back what was taken at `time` (of the verdict). Nothing happens where it is not there any more. */
  refund (key: string, policy: Policy, cost: number, time: number): void | Promise<void>
  /** Forgets the key: what it used, its penalty, its ban. */
  reset (key: string): void | Promise<void>
}

/** A store that lies outside of this process. */
export interface SharedRateLimitStore extends RateLimitStore {
  apply (key: string, policy: Policy, cost: number, mode: Mode): Promise<Verdict>
  refund (key: string, policy: Policy, cost: number, time: number): Promise<void>
  reset (key: string): Promise<void>
}
