import { safeId } from '../../shared/plugin/keys.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { decide, type Decision, type Mode } from '../decision.js'
import type { Policy } from '../policy.js'
import type { LocalRateLimitStore } from '../store/store.js'

/** The part of a decision that says where its cost is. */
type ChargeRef = Pick<Decision, 'time' | 'takenFrom'>

/** Decides on keys by their ids: at once where it decides by memory, else by a promise. */
export interface Limiter {
  /** Returns the function that makes the ids of keys within a scope. */
  idWithin (scope: string): (key: string) => string
  /** @returns undefined where the store failed and the request passes uncounted */
  apply (id: string, policy: Policy, cost: number, mode: Mode): MaybePromise<Decision | undefined>
  /** Refunds what a decision took. */
  refund (id: string, policy: Policy, cost: number, charge: ChargeRef): void | Promise<void>
  /**
   * Corrects what a decision took, once for each token: charges units, or refunds them where they are below 0. What the
   * store does not take is sent again.
   */
  settle (id: string, policy: Policy, units: number, charge: ChargeRef, token: string): void | Promise<void>
  reset (id: string): void | Promise<void>
}

/**
 * Returns the function that makes the ids of keys within a scope, safe as a part of a Redis key. No key reaches another
 * scope, whatever it contains: neither half can contain the `~` between them.
 */
export function idWithin (scope: string): (key: string) => string {
  const prefix = `${safeId(scope)}~`
  return key => prefix + safeId(`${key}`)
}

/** Decides by the memory of this process. */
export function createLocalLimiter (store: LocalRateLimitStore): Limiter {
  return {
    idWithin,
    apply: (id, policy, cost, mode) => decide(policy.limits, store.apply(id, policy, cost, mode), 'process'),
    refund: (id, policy, cost, { time }) => store.refund(id, policy, cost, time),
    settle (id, policy, units, { time }) {
      if (units > 0) store.apply(id, policy, units, 'charge')
      else store.refund(id, policy, -units, time)
    },
    reset: id => store.reset(id)
  }
}
