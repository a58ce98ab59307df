import type { Clock } from '../../shared/plugin/clock.js'
import { withDeadline } from '../../shared/redis/deadline.js'
import { TimeoutError } from '../../shared/redis/guard.js'
import { traced } from '../../shared/plugin/tracing.js'
import { decide, type Decision } from '../decision.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { Policy } from '../policy.js'
import type { RefusalCache } from './refusal-cache.js'
import { idWithin } from './scope.js'
import { createFallback, type FailureOptions } from './fallback.js'
import type { Mode, RateLimitStore, SharedRateLimitStore } from '../store/store.js'

/** Of a decision, what tells where its cost lies. */
type ChargeRef = Pick<Decision, 'time' | 'takenFrom'>

/** Decides on requests. It answers at once where it can, and by a promise where it has to ask. */
export interface Limiter {
  /** Makes the ids of keys, by what is counted for beside them. */
  readonly idWithin: (scope: string) => (key: string) => string
  /** @returns undefined where the store failed and the request is to pass uncounted */
  apply (key: string, policy: Policy, cost: number, mode: Mode): MaybePromise<Decision | undefined>
  /** Gives back what a decision took. */
  refund (key: string, policy: Policy, cost: number, decision: ChargeRef): void | Promise<void>
  reset (key: string): void | Promise<void>
}

/** Decides by the memory of this process. */
export function createLocalLimiter (store: RateLimitStore): Limiter {
  return {
    idWithin,
    apply: (key, policy, cost, mode) => whenReady(store.apply(key, policy, cost, mode), verdict => decide(policy.limits, verdict, 'process')),
    refund: (key, policy, cost, { time }) => store.refund(key, policy, cost, time),
    reset: key => store.reset(key)
  }
}

export interface SharedLimiterOptions extends FailureOptions {
  store: SharedRateLimitStore
  remembered: RefusalCache
  /** Whether resets of other instances are heard, without which no refusal can be remembered. */
  hearsResets: () => boolean
}

/** Decides by a shared store; where that fails, by the policy on failure. */
export function createSharedLimiter (options: SharedLimiterOptions): Limiter {
  const { store, local, remembered, hearsResets, onError } = options
  const substitute = createFallback(options)

  function ask (key: string, policy: Policy, cost: number, mode: Mode): Promise<Decision | undefined> {
    const asked = remembered.begin()
    const ofStore = () => store.apply(key, policy, cost, mode).then(
      verdict => {
        const decision = decide(policy.limits, verdict, 'store')
        if (!decision.allowed && mode === 'consume' && hearsResets()) remembered.remember(key, policy, cost, decision, asked)
        return decision
      },
      (error: unknown) => substitute.decide(error, key, policy, cost, mode))
    return traced('rate-limit decide', ofStore, decision => ({ 'rate_limit.allowed': decision?.allowed ?? true }))
  }

  return {
    idWithin,
    apply (key, policy, cost, mode) {
      return (mode === 'charge' ? undefined : remembered.find(key, policy, cost)) ?? ask(key, policy, cost, mode)
    },
    async refund (key, policy, cost, taken) {
      if (taken.takenFrom === 'process') await local.refund(key, substitute.shareOf(policy), cost, taken)
      if (taken.takenFrom !== 'store') return
      remembered.forget(key)
      await store.refund(key, policy, cost, taken.time).catch(onError)
    },
    async reset (key) {
      remembered.forget(key)
      await local.reset(key)
      await store.reset(key)
    }
  }
}

export interface CustomLimiterOptions extends FailureOptions {
  store: RateLimitStore
  /** Milliseconds that it may take. */
  timeout: number
  clock: Clock
}

/** Decides by a store of the user's own. */
export function createCustomLimiter (options: CustomLimiterOptions): Limiter {
  const { store, timeout, clock } = options
  const local = createLocalLimiter(store)
  const substitute = createFallback(options)
  return {
    ...local,
    apply: (key, policy, cost, mode) =>
      withDeadline(Promise.resolve(local.apply(key, policy, cost, mode)), timeout, () => new TimeoutError(timeout), clock)
        .catch((error: unknown) => substitute.decide(error, key, policy, cost, mode))
  }
}
