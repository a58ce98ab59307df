import type { Limit, LimitState } from './decision.js'

/**
 * The times of the last units, exact to the clock's tick, for the memory store. `scripts.ts` holds the same
 * algorithm for Redis.
 *
 * A request of cost `c` passes a limit of `max` if the unit that lies `max - c` before the newest has left the
 * window: one comparison, however many units there are. One log serves limits of several windows.
 */
export class SlidingLog {
  // A ring: unit number n (from 1) lies at (n - 1) % capacity, as far as it is one of the last `capacity` units.
  #times: Float64Array
  #total = 0
  #newest = 0

  constructor (capacity: number) {
    this.#times = new Float64Array(Math.min(capacity, 16))
  }

  /** @param clock - milliseconds; a clock that is set back is taken as standing still */
  consume (limits: readonly Limit[], cost: number, clock: number): LimitState[] {
    const now = this.#newest = Math.max(clock, this.#newest)
    const waits = limits.map(limit => this.#wait(limit, cost, now))
    const allowed = waits.every(wait => wait === 0)
    if (allowed) this.#push(cost, now, Math.max(...limits.map(limit => limit.max)))
    return limits.map((limit, index) => this.#state(limit, waits[index] ?? 0, now))
  }

  /** Milliseconds until `cost` units pass the limit. */
  #wait ({ max, window }: Limit, cost: number, now: number): number {
    if (cost > max) return Infinity
    const unit = this.#total - max + cost
    return unit < 1 ? 0 : Math.max(0, this.#timeOf(unit) + window - now)
  }

  #state (limit: Limit, retryAfter: number, now: number): LimitState {
    const first = this.#firstInWindow(limit, now)
    const used = this.#total - first + 1
    return { used, resetAfter: used === 0 ? limit.window : this.#timeOf(first) + limit.window - now, retryAfter }
  }

  /** The number of the oldest unit in the window, by bisection: times never decrease. */
  #firstInWindow ({ window }: Limit, now: number): number {
    let low = Math.max(1, this.#total - this.#times.length + 1)
    let high = this.#total + 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#timeOf(middle) + window > now) high = middle
      else low = middle + 1
    }
    return low
  }

  #timeOf (unit: number): number {
    return this.#times[(unit - 1) % this.#times.length] ?? 0
  }

  #push (cost: number, now: number, capacity: number): void {
    if (this.#times.length < capacity && this.#total + cost > this.#times.length) this.#grow(cost, capacity)
    for (let i = 0; i < cost; i++) this.#times[this.#total++ % this.#times.length] = now
  }

  #grow (cost: number, capacity: number): void {
    const kept = Math.min(this.#total, this.#times.length)
    const grown = new Float64Array(Math.min(capacity, Math.max(2 * this.#times.length, kept + cost)))
    for (let i = 0; i < kept; i++) grown[i] = this.#timeOf(this.#total - kept + 1 + i)
    this.#times = grown
    this.#total = kept
  }
}
