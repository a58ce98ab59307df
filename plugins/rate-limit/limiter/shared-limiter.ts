import type { MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { traced } from '../../shared/plugin/tracing.js'
import { decide, type Decision, type Mode } from '../decision.js'
import type { Policy } from '../policy.js'
import type { SharedRateLimitStore } from '../store/store.js'
import { Fallback, type FallbackOptions } from './fallback.js'
import { idWithin, type ChargeRef, type Limiter } from './limiter.js'
import type { RefusalCache } from './refusal-cache.js'

export interface SharedLimiterOptions extends FallbackOptions {
  store: SharedRateLimitStore
  refusals: RefusalCache
  /** Whether this instance receives the resets of the others: without them no refusal is cached. */
  receivesResets: () => boolean
}

/** Decides by the shared store, and by the fallback while that fails. */
export class SharedLimiter implements Limiter {
  readonly #options: SharedLimiterOptions
  readonly #fallback: Fallback

  constructor (options: SharedLimiterOptions) {
    this.#options = options
    this.#fallback = new Fallback(options)
  }

  readonly idWithin = idWithin

  apply (id: string, policy: Policy, cost: number, mode: Mode): MaybePromise<Decision | undefined> {
    const cached = mode === 'charge' ? undefined : this.#options.refusals.get(id, policy, cost)
    return cached ?? traced('rate-limit decide', () => this.#ask(id, policy, cost, mode), attributesOf)
  }

  async #ask (id: string, policy: Policy, cost: number, mode: Mode): Promise<Decision | undefined> {
    const { store, refusals, receivesResets } = this.#options
    const start = refusals.begin()
    let verdict
    try {
      verdict = await store.apply(id, policy, cost, mode)
    } catch (error) {
      return await this.#fallback.decide(error, id, policy, cost, mode)
    }
    const decision = decide(policy.limits, verdict, 'store')
    if (!decision.allowed && mode === 'consume' && receivesResets()) refusals.set(id, policy, cost, decision, start)
    return decision
  }

  async refund (id: string, policy: Policy, cost: number, charge: ChargeRef): Promise<void> {
    const { store, refusals, onError } = this.#options
    if (charge.takenFrom === 'process') this.#fallback.refund(id, policy, cost, charge)
    if (charge.takenFrom !== 'store') return
    refusals.delete(id)
    await store.refund(id, policy, cost, charge.time).catch(onError)
  }

  async reset (id: string): Promise<void> {
    this.#options.refusals.delete(id)
    this.#fallback.reset(id)
    await this.#options.store.reset(id)
  }
}

function attributesOf (decision: Decision | undefined): { 'rate_limit.allowed': boolean } {
  return { 'rate_limit.allowed': decision?.allowed ?? true }
}
