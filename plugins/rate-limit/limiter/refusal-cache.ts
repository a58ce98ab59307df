import { LRUCache } from 'lru-cache'
import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import type { Decision } from '../decision.js'
import { countsRefusals, type Policy } from '../policy.js'

// A reset whose message was lost takes effect after this at the latest.
const MAX_CACHED_MS = 5000
const MAX_KEYS = 10_000

interface Refusal {
  readonly decision: Decision
  readonly policy: Policy
  readonly cost: number
  /** When the store was asked and when it replied, by the clock's `monotonic()`. It decided in between. */
  readonly askedAt: Milliseconds
  readonly repliedAt: Milliseconds
}

/** When the store was asked, and the number of resets until then. */
interface AskedAt {
  readonly at: Milliseconds
  readonly resets: number
}

/**
 * Caches refusals for as long as they stay true, so that a flood of refused requests does not reach the store. Only a
 * reset or a refund can end a refusal early.
 */
export class RefusalCache {
  readonly #refusals = new LRUCache<string, Refusal>({ max: MAX_KEYS })
  #resets = 0
  readonly #clock: Clock

  constructor (clock: Clock = systemClock) {
    this.#clock = clock
  }

  /** @returns the refusal as of now, or undefined where the store has to decide */
  get (id: string, policy: Policy, cost: number): Decision | undefined {
    const refusal = this.#refusals.get(id)
    if (refusal === undefined) return undefined
    const { decision } = refusal
    const now = this.#clock.monotonic()
    // The earliest possible end counts here, and the latest possible one is what the client is given.
    const end = Math.min(decision.banned ? decision.blockedFor : decision.retryAfter, MAX_CACHED_MS)
    if (now - refusal.askedAt >= end || cost !== refusal.cost || !isSamePolicy(policy, refusal.policy)) return undefined
    const age = now - refusal.repliedAt
    return { ...decision, retryAfter: decision.retryAfter - age, resetAfter: Math.max(0, decision.resetAfter - age) }
  }

  /** Call it before the store is asked. */
  begin (): AskedAt {
    return { at: this.#clock.monotonic(), resets: this.#resets }
  }

  /**
   * Caches a refusal, unless the store has to count the following ones too, or a key was reset since the store was
   * asked: the refusal may be older than the reset.
   */
  set (id: string, policy: Policy, cost: number, decision: Decision, { at, resets }: AskedAt): void {
    if (resets !== this.#resets || policy.countRejected || (countsRefusals(policy) && !decision.banned)) return
    this.#refusals.set(id, { decision, policy, cost, askedAt: at, repliedAt: this.#clock.monotonic() })
  }

  delete (id: string): void {
    this.#resets++
    this.#refusals.delete(id)
  }

  clear (): void {
    this.#resets++
    this.#refusals.clear()
  }
}

/** Compares two objects by their text, as routes of one group have equal policies. */
function isSamePolicy (a: Policy, b: Policy): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b)
}
