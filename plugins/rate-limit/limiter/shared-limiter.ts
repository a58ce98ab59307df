import type { Clock } from '../../shared/plugin/clock.js'
import { toError } from '../../shared/plugin/errors.js'
import type { RetryItem, RetryQueue } from '../../shared/plugin/retry-queue.js'
import { isTracing, traced } from '../../shared/plugin/tracing.js'
import { decide, type Decision, type Mode } from '../decision.js'
import { correctionTime, type Policy } from '../policy.js'
import type { SharedRateLimitStore } from '../store/store.js'
import { createFallback, type FallbackOptions } from './fallback.js'
import { idWithin, type Limiter } from './limiter.js'
import type { RefusalCache } from './refusal-cache.js'

interface SharedLimiterOptions extends FallbackOptions {
  store: SharedRateLimitStore
  refusals: RefusalCache
  /** Whether this instance receives the resets of the others: without them no refusal is cached. */
  receivesResets: () => boolean
  /** Sends again what the store did not take. */
  retries: RetryQueue<PendingSettlement>
  clock: Clock
}

/** A correction that the store did not take. */
export interface PendingSettlement extends RetryItem {
  readonly send: () => Promise<void>
}

/** Decides by the shared store, and by the fallback while that fails. */
export function createSharedLimiter (options: SharedLimiterOptions): Limiter {
  const { store, refusals, receivesResets, local, onError, retries, clock } = options
  const fallback = createFallback(options)

  async function decideByStore (id: string, policy: Policy, cost: number, mode: Mode): Promise<Decision | undefined> {
    const start = refusals.begin()
    let verdict
    try {
      verdict = await store.apply(id, policy, cost, mode)
    } catch (error) {
      return await fallback.decide(error, id, policy, cost, mode)
    }
    const decision = decide(policy.limits, verdict, 'store')
    if (!decision.allowed && mode === 'consume' && receivesResets()) refusals.set(id, policy, cost, decision, start)
    return decision
  }

  return {
    idWithin,
    apply (id, policy, cost, mode) {
      const cached = mode === 'charge' ? undefined : refusals.get(id, policy, cost)
      if (cached !== undefined) return cached
      if (!isTracing()) return decideByStore(id, policy, cost, mode)
      const resultOf = (decision?: Decision) => ({ 'rate_limit.allowed': decision?.allowed ?? true })
      return traced('rate-limit decide', () => decideByStore(id, policy, cost, mode), resultOf)
    },
    async refund (id, policy, cost, charge) {
      if (charge.takenFrom === 'process') await local.refund(id, fallback.shareOf(policy), cost, charge)
      if (charge.takenFrom !== 'store') return
      refusals.delete(id)
      await store.refund(id, policy, cost, charge.time).catch(onError)
    },
    async settle (id, policy, units, charge, token) {
      if (charge.takenFrom === 'process') await local.settle(id, fallback.shareOf(policy), units, charge, token)
      if (charge.takenFrom !== 'store') return
      if (units < 0) refusals.delete(id)
      const send = () => store.settle(id, policy, { units, time: charge.time, token })
      await send().catch((error: unknown) => {
        onError(toError(error))
        retries.add({ send, deadline: clock.monotonic() + correctionTime(policy) })
      })
    },
    async reset (id) {
      refusals.delete(id)
      await local.reset(id)
      await store.reset(id)
    }
  }
}
