import { toError, withoutCommand } from '../../shared/plugin/errors.js'
import type { Decision, Mode } from '../decision.js'
import { StoreUnavailableError, UnsupportedByStoreError } from '../errors.js'
import type { OnStoreError } from '../options/types.js'
import type { Policy } from '../policy.js'
import type { Limiter } from './limiter.js'

export interface FallbackOptions {
  onStoreError: OnStoreError
  /** Decides by the memory of this process. */
  local: Limiter
  /** Among how many instances a limit is divided while each of them decides by itself. */
  instances: number
  onError: (error: Error) => void
}

/** Decides while the store fails, as `onStoreError` says. */
export function createFallback ({ onStoreError, local, instances, onError }: FallbackOptions) {
  const shares = new WeakMap<Policy, Policy>()
  // A limit that allows anything still allows one unit.
  const part = (max: number): number => max === 0 ? 0 : Math.max(1, Math.floor(max / instances))

  /** Returns the limits of this process alone. */
  function shareOf (policy: Policy): Policy {
    let share = shares.get(policy)
    if (share === undefined) {
      const limits = policy.limits.map(limit => ({ ...limit, max: part(limit.max), burst: part(limit.burst) }))
      share = { ...policy, limits }
      shares.set(policy, share)
    }
    return share
  }

  /** @returns undefined where the request passes uncounted */
  async function decide (
    error: unknown, id: string, policy: Policy, cost: number, mode: Mode
  ): Promise<Decision | undefined> {
    // The call is wrong, and the store has not failed.
    if (error instanceof UnsupportedByStoreError) throw error
    onError(toError(error))
    switch (onStoreError) {
      case 'open': return undefined
      case 'throw': throw error
      case 'closed': throw new StoreUnavailableError({ cause: withoutCommand(error) })
      case 'local': return await local.apply(id, shareOf(policy), cost, mode)
    }
  }

  return { shareOf, decide }
}
