import { LRUCache } from 'lru-cache'
import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import type { Decision } from '../decision.js'
import { countsRefusals, type Policy } from '../policy.js'

// A reset whose message got lost is noticed after this at the latest.
const MAX_CACHED_MS = 5000
const MAX_KEYS = 10_000

interface Refusal {
  readonly decision: Decision
  readonly policy: Policy
  readonly cost: number
  /** When it was asked for and heard, by the process's own monotonic clock. It was decided in between. */
  readonly askedAt: number
  readonly heardAt: number
}

/** When the store was asked, and after how many resets. */
export interface Asked {
  readonly at: number
  readonly resets: number
}

/**
 * Refusals of which this process knows how long they stay true, so that a flood of refused requests need not ask
 * the store. Nothing but a reset or a refund can end one early.
 */
export class RefusalCache {
  #refusals = new LRUCache<string, Refusal>({ max: MAX_KEYS })
  #resets = 0
  readonly #clock: Clock

  constructor (clock: Clock = systemClock) {
    this.#clock = clock
  }

  /** @returns the refusal as it reads now, or undefined where the store has to be asked */
  find (key: string, policy: Policy, cost: number): Decision | undefined {
    const refusal = this.#refusals.get(key)
    if (refusal === undefined) return undefined
    const { decision } = refusal
    const now = this.#clock.monotonic()
    // Held true for as short as it may be, and told as long as it may be.
    const end = Math.min(decision.banned ? decision.blockedFor : decision.retryAfter, MAX_CACHED_MS)
    if (now - refusal.askedAt >= end || cost !== refusal.cost || !isSamePolicy(policy, refusal.policy)) return undefined
    const age = now - refusal.heardAt
    return { ...decision, retryAfter: decision.retryAfter - age, resetAfter: Math.max(0, decision.resetAfter - age) }
  }

  /** To be called before the store is asked: its answer is as old as this at most. */
  begin (): Asked {
    return { at: this.#clock.monotonic(), resets: this.#resets }
  }

  /**
   * Remembers a refusal, unless the store has to count the ones that follow it, or something was reset since it was
   * asked: the refusal may be from before that.
   */
  remember (key: string, policy: Policy, cost: number, decision: Decision, { at, resets }: Asked): void {
    if (resets !== this.#resets || policy.countRejected || (countsRefusals(policy) && !decision.banned)) return
    this.#refusals.set(key, { decision, policy, cost, askedAt: at, heardAt: this.#clock.monotonic() })
  }

  forget (key: string): void {
    this.#resets++
    this.#refusals.delete(key)
  }

  clear (): void {
    this.#resets++
    this.#refusals.clear()
  }
}

/** A `max` that is a function may say another number each time. */
function isSamePolicy (a: Policy, b: Policy): boolean {
  return a === b || textOf(a) === textOf(b)
}

const texts = new WeakMap<Policy, string>()

function textOf (policy: Policy): string {
  let text = texts.get(policy)
  if (text === undefined) {
    text = JSON.stringify(policy)
    texts.set(policy, text)
  }
  return text
}
