import { randomUUID } from 'node:crypto'
import type { Decision } from '../decision.js'
import { requireCost } from '../errors.js'
import type { Limiter } from '../limiter/limiter.js'
import type { Limit, Policy } from '../policy.js'

/** One decision on a request, with what is needed to charge or refund it. */
export interface Charge {
  readonly limiter: Limiter
  readonly id: string
  readonly policy: Policy
  readonly cost: number
  readonly decision: Decision
}

/** Corrects charges to what they cost in the end, once. */
export async function settleAll (charges: Charge[], actual: number): Promise<void> {
  const taken = charges.splice(0).filter(({ decision }) => decision.allowed)
  await Promise.all(taken.map(({ limiter, id, policy, cost, decision }) => {
    const units = actual - cost
    return units === 0 ? undefined : limiter.settle(id, policy, units, decision, randomUUID())
  }))
}

/** `request.rateLimit`: the tightest decision on this request, with methods that charge and refund it. */
export class RateLimitState {
  /** The key that the request counts for, as the key generator returned it. */
  readonly key: string
  readonly #decision: Decision
  readonly #charges: Charge[]

  /** @param charges - of all limiters that the request passes, including later ones */
  constructor (key: string, decision: Decision, charges: Charge[]) {
    this.key = key
    this.#decision = decision
    this.#charges = charges
  }

  /** Whether the limits let the request pass. With `dryRun` it passes in any case. */
  get allowed (): boolean { return this.#decision.allowed }
  get banned (): boolean { return this.#decision.banned }
  /** The tightest of the limits. */
  get limit (): Limit { return this.#decision.limit }
  get remaining (): number { return this.#decision.remaining }
  /** Milliseconds until the oldest unit leaves the window. */
  get resetAfter (): number { return this.#decision.resetAfter }
  /** Milliseconds until a request of this cost passes; 0 where it does. */
  get retryAfter (): number { return this.#decision.retryAfter }

  /**
   * Charges a cost that is known only later, even after the response. It is taken in full, whatever remains, so that
   * the next requests wait for it.
   *
   * @param cost - a whole number ≥ 0
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`
   */
  async charge (cost: number): Promise<void> {
    requireCost(cost)
    if (cost === 0) return
    await Promise.all(this.#charges.map(({ limiter, id, policy }) => limiter.apply(id, policy, cost, 'charge')))
  }

  /**
   * Corrects the request's cost once it is known, even after the response: what it took beyond `actual` is given back,
   * and what it lacks is charged, whatever remains. The first call counts. What Redis does not take is sent again.
   *
   * @param actual - a whole number ≥ 0
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`
   */
  async settle (actual: number): Promise<void> {
    requireCost(actual, 'actual')
    await settleAll(this.#charges, actual)
  }

  /** Refunds the request's own cost at all limiters that it passed, once, so that a handler can count by outcome. */
  async refund (): Promise<void> {
    const taken = this.#charges.splice(0).filter(({ decision }) => decision.allowed)
    const refunds = taken.map(({ limiter, id, policy, cost, decision }) => limiter.refund(id, policy, cost, decision))
    await Promise.all(refunds)
  }
}
