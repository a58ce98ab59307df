import type { RedisGuard } from '../shared/guard.js'
import { decide, type Decision } from './decision.js'
import { StoreUnavailableError } from './errors.js'
import type { Policy } from './policy.js'
import type { RememberedRefusals } from './remembered-refusals.js'
import type { Mode, RateLimitStore, SharedRateLimitStore } from './store.js'

/** What to do while the shared store cannot be asked. */
export type OnStoreError = 'local' | 'open' | 'closed' | 'throw'

/** Decides on requests. It answers at once where it can, and by a promise where it has to ask. */
export interface Limiter {
  /** @returns undefined where the store failed and the request is to pass uncounted */
  apply (key: string, policy: Policy, cost: number, mode: Mode): Decision | undefined | Promise<Decision | undefined>
  refund (key: string, policy: Policy, cost: number, time: number): void | Promise<void>
  reset (key: string): void | Promise<void>
}

/** Decides by the memory of this process. */
export function createLocalLimiter (store: RateLimitStore): Limiter {
  return {
    apply (key, policy, cost, mode) {
      const verdict = store.apply(key, policy, cost, mode)
      return verdict instanceof Promise ? verdict.then(v => decide(policy.limits, v)) : decide(policy.limits, verdict)
    },
    refund: (key, policy, cost, time) => store.refund(key, policy, cost, time),
    reset: key => store.reset(key)
  }
}

export interface SharedLimiterOptions {
  store: SharedRateLimitStore
  guard: RedisGuard
  local: Limiter
  remembered: RememberedRefusals
  /** Whether resets of other instances are heard, without which no refusal can be remembered. */
  hearsResets: () => boolean
  onStoreError: OnStoreError
  /** Among how many instances a limit is divided while each decides by itself. */
  instances: number
  onError: (error: Error) => void
}

/** Decides by a shared store; where that fails, by the policy on failure. */
export function createSharedLimiter (options: SharedLimiterOptions): Limiter {
  const { store, guard, local, remembered, hearsResets, onStoreError, instances, onError } = options
  const sharePolicies = new WeakMap<Policy, Policy>()

  function ask (key: string, policy: Policy, cost: number, mode: Mode): Promise<Decision | undefined> {
    return guard.run(() => store.apply(key, policy, cost, mode)).then(
      verdict => {
        const decision = decide(policy.limits, verdict)
        if (!decision.allowed && mode === 'consume' && hearsResets()) remembered.remember(key, policy, cost, decision)
        return decision
      },
      (error: unknown) => {
        onError(error instanceof Error ? error : new Error(String(error)))
        if (onStoreError === 'open') return undefined
        if (onStoreError === 'throw') throw error
        if (onStoreError === 'closed') throw new StoreUnavailableError()
        return local.apply(key, shareOf(policy), cost, mode)
      })
  }

  function shareOf (policy: Policy): Policy {
    let share = sharePolicies.get(policy)
    if (share === undefined) {
      const limits = policy.limits.map(limit => ({ ...limit, max: partOf(limit.max), burst: partOf(limit.burst) }))
      share = { ...policy, limits }
      sharePolicies.set(policy, share)
    }
    return share
  }

  /** A limit that lets one through still lets one through. */
  function partOf (max: number): number {
    return max === 0 ? 0 : Math.max(1, Math.floor(max / instances))
  }

  return {
    apply (key, policy, cost, mode) {
      return (mode === 'charge' ? undefined : remembered.find(key, policy, cost)) ?? ask(key, policy, cost, mode)
    },
    async refund (key, policy, cost, time) {
      remembered.forget(key)
      await guard.run(() => store.refund(key, policy, cost, time)).catch(onError)
    },
    async reset (key) {
      remembered.forget(key)
      await local.reset(key)
      await guard.run(() => store.reset(key))
    }
  }
}
