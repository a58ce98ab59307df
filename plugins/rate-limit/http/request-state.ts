import { requireCost } from '../errors.js'
import type { Decision } from '../decision.js'
import type { Limiter } from '../limiter/limiter.js'
import type { Limit, Policy } from '../policy.js'

/** Where a decision was made, so that it can be charged more or given back. */
export interface Charge {
  readonly limiter: Limiter
  /** The key as the store knows it. */
  readonly id: string
  readonly policy: Policy
  readonly cost: number
  readonly decision: Decision
}

/** `request.rateLimit`: what was decided on this request, and what it may still be charged. */
export class RateLimitState {
  /** Whose limit it is, as the key generator said. */
  readonly key: string
  readonly #decision: Decision
  readonly #charges: Charge[]

  /** @param charges - of all limiters on the request's way, also of those that come later */
  constructor (key: string, decision: Decision, charges: Charge[]) {
    this.key = key
    this.#decision = decision
    this.#charges = charges
  }

  /** Whether the limits let the request pass: with `dryRun` it passes all the same. */
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
   * Charges what turned out only later, also after the answer: it is taken whatever is left, and the next requests
   * wait for it.
   *
   * @param cost - a whole number from 0
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`
   */
  async charge (cost: number): Promise<void> {
    requireCost(cost)
    if (cost > 0) await Promise.all(this.#charges.map(({ limiter, id, policy }) => limiter.apply(id, policy, cost, 'charge')))
  }

  /** Gives back what this request was charged at first, by all limiters on its way, once: for counting by outcome. */
  async refund (): Promise<void> {
    const taken = this.#charges.splice(0).filter(({ decision }) => decision.allowed)
    await Promise.all(taken.map(({ limiter, id, policy, cost, decision }) => limiter.refund(id, policy, cost, decision)))
  }
}
