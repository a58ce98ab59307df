import { toError } from '../../shared/plugin/errors.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { Decision } from '../decision.js'
import { StoreUnavailableError, UnsupportedByStoreError } from '../errors.js'
import type { OnStoreError } from '../options/types.js'
import type { Policy } from '../policy.js'
import type { Mode } from '../store/store.js'
import type { Limiter } from './limiter.js'

export interface FailureOptions {
  onStoreError: OnStoreError
  /** Decides by this process alone. */
  local: Limiter
  /** Among how many instances a limit is divided while each decides by itself. */
  instances: number
  onError: (error: Error) => void
}

/** Stands in for a store that failed. */
export interface Fallback {
  /** @returns undefined where the request is to pass uncounted */
  decide (error: unknown, key: string, policy: Policy, cost: number, mode: Mode): MaybePromise<Decision | undefined>
  /** What this process allows by itself. */
  shareOf (policy: Policy): Policy
}

export function createFallback ({ onStoreError, local, instances, onError }: FailureOptions): Fallback {
  const shares = new WeakMap<Policy, Policy>()

  function shareOf (policy: Policy): Policy {
    let share = shares.get(policy)
    if (share === undefined) {
      const limits = policy.limits.map(limit => ({ ...limit, max: partOf(limit.max), burst: partOf(limit.burst) }))
      share = { ...policy, limits }
      shares.set(policy, share)
    }
    return share
  }

  /** A limit that lets one through still lets one through. */
  function partOf (max: number): number {
    return max === 0 ? 0 : Math.max(1, Math.floor(max / instances))
  }

  return {
    shareOf,
    decide (error, key, policy, cost, mode) {
      // No outage, but a mistake.
      if (error instanceof UnsupportedByStoreError) throw error
      onError(toError(error))
      if (onStoreError === 'open') return undefined
      if (onStoreError === 'throw') throw error
      if (onStoreError === 'closed') throw new StoreUnavailableError()
      return local.apply(key, shareOf(policy), cost, mode)
    }
  }
}
