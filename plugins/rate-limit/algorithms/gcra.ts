import type { Counter } from './counter.js'
import type { Limit } from '../policy.js'

/**
 * The generic cell rate algorithm (ITU-T I.371): a bucket of `burst` units (`max` by default) that drains
 * evenly, one unit each `window / max`. One time a limit: when the bucket will be empty.
 */
export class GenericCellRate implements Counter {
  #emptyAt: number[] = []

  wait (index: number, { max, window, burst }: Limit, cost: number, now: number): number {
    if (cost > Math.min(max, burst)) return Infinity
    if (cost === 0) return 0
    const unit = window / max
    const over = Math.max(this.#emptyAt[index] ?? 0, now) + cost * unit - (now + burst * unit)
    // Times are sums of rounded fractions: less than a thousandth of a unit is not over.
    return over < unit / 1000 ? 0 : over
  }

  take (limits: readonly Limit[], cost: number, now: number): void {
    for (const [index, { max, window }] of limits.entries()) {
      if (max > 0) this.#emptyAt[index] = Math.max(this.#emptyAt[index] ?? 0, now) + cost * window / max
    }
  }

  /** What may have drained since is not given back: it would let more than the burst through. */
  giveBack (limits: readonly Limit[], cost: number, time: number, now: number): void {
    for (const [index, { max, window }] of limits.entries()) {
      const emptyAt = this.#emptyAt[index]
      if (emptyAt !== undefined && max > 0) this.#emptyAt[index] = emptyAt - Math.max(0, cost * window / max - (now - time))
    }
  }

  used (index: number, { max, window }: Limit, now: number): { used: number, resetAfter: number } {
    const drain = Math.max(0, (this.#emptyAt[index] ?? 0) - now)
    return { used: Math.ceil(drain * max / window - 0.001), resetAfter: drain === 0 ? window : drain }
  }
}
