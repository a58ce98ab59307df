import { toError } from '../../shared/plugin/errors.js'
import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
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
export class Fallback {
  readonly #options: FallbackOptions
  readonly #shares = new WeakMap<Policy, Policy>()

  constructor (options: FallbackOptions) {
    this.#options = options
  }

  /** @returns undefined where the request passes uncounted */
  decide (error: unknown, id: string, policy: Policy, cost: number, mode: Mode): MaybePromise<Decision | undefined> {
    // The call is wrong, and the store has not failed.
    if (error instanceof UnsupportedByStoreError) throw error
    const { onStoreError, local, onError } = this.#options
    onError(toError(error))
    switch (onStoreError) {
      case 'open': return undefined
      case 'throw': throw error
      case 'closed': throw new StoreUnavailableError()
      case 'local': return local.apply(id, this.shareOf(policy), cost, mode)
    }
  }

  /** Returns the limits of this process alone: a limit that allows anything still allows one unit. */
  shareOf (policy: Policy): Policy {
    let share = this.#shares.get(policy)
    if (share === undefined) {
      const part = (max: number): number => max === 0 ? 0 : Math.max(1, Math.floor(max / this.#options.instances))
      share = { ...policy, limits: policy.limits.map(limit => ({ ...limit, max: part(limit.max), burst: part(limit.burst) })) }
      this.#shares.set(policy, share)
    }
    return share
  }
}
