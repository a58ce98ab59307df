import { randomUUID } from 'node:crypto'
import type { Clock, Timer } from '../../shared/plugin/clock.js'
import type { Duration } from '../../shared/plugin/duration.js'
import { duration, oneOf } from '../../shared/plugin/option-kinds.js'
import type { OptionTable, Resolved } from '../../shared/plugin/option-table.js'
import type { Decision } from '../decision.js'
import { requireCost } from '../errors.js'
import type { Limiter } from '../limiter/limiter.js'
import type { Policy } from '../policy.js'

export interface HoldOptions {
  /** How long the cost may be unknown. @default '5 minutes' */
  ttl?: Duration | undefined
  /** The cost of a hold that is not settled within `ttl`: the estimate, or nothing. @default 'charge' */
  onExpire?: 'charge' | 'release' | undefined
}

export const HOLD_OPTIONS = {
  ttl: duration('5 minutes', { min: 1, max: 24 * 3600 * 1000 }),
  onExpire: oneOf('charge', ['charge', 'release'])
} satisfies OptionTable<HoldOptions>

/** A cost that was taken by an estimate. */
export interface Hold {
  /** Whether the limits allowed the estimate. If not, nothing was taken. */
  readonly allowed: boolean
  readonly decision: Decision
  /**
   * Corrects the estimate: what is left of it is given back, and what it lacks is charged, whatever remains, so that
   * the next requests wait for it. Only the first call of `settle` and `cancel` counts, and none after `ttl`.
   *
   * @param actual - a whole number ≥ 0
   * @returns whether it counted
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`
   */
  settle (actual: number): Promise<boolean>
  /** Gives the whole estimate back. @returns whether it counted */
  cancel (): Promise<boolean>
}

interface Taken {
  limiter: Limiter
  clock: Clock
  id: string
  policy: Policy
  estimate: number
  decision: Decision
  options: Resolved<typeof HOLD_OPTIONS>
}

/** Creates the hold of an estimate that was taken. */
export function createHold ({ limiter, clock, id, policy, estimate, decision, options }: Taken): Hold {
  const { ttl, onExpire } = options
  let isOpen = decision.allowed
  let timer: Timer | undefined
  async function close (actual: number): Promise<boolean> {
    if (!isOpen) return false
    isOpen = false
    clock.clearTimeout(timer)
    const units = actual - estimate
    if (units !== 0) await limiter.settle(id, policy, units, decision, randomUUID())
    return true
  }
  if (isOpen) {
    timer = clock.setTimeout(() => {
      close(onExpire === 'release' ? 0 : estimate).catch(() => {})
    }, ttl).unref()
  }
  return {
    allowed: decision.allowed,
    decision,
    async settle (actual) {
      requireCost(actual, 'actual')
      return await close(actual)
    },
    cancel: () => close(0)
  }
}
