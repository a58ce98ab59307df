import type { Counter } from './counter.js'
import type { Limit } from '../policy.js'

/**
 * The times of the last units: exact.
 *
 * A request of cost `c` passes a limit of `max` if the unit that lies `max - c` before the newest has left the
 * window: one comparison, however many units there are. One log serves limits of several windows.
 */
export class SlidingLog implements Counter {
  // A ring: unit number n (from 1) lies at (n - 1) % length, as far as it is one of the last `length` units.
  #times: Float64Array
  #total = 0
  // The largest max that was asked for: who asks by a smaller one does not drop what it needs.
  #capacity: number

  constructor (capacity: number) {
    this.#capacity = Math.max(capacity, 1)
    this.#times = new Float64Array(Math.min(Math.max(capacity, 1), 16))
  }

  wait (_index: number, { max, window }: Limit, cost: number, now: number): number {
    if (cost > max) return Infinity
    const unit = this.#total - max + cost
    return unit < this.#oldest() || cost === 0 ? 0 : Math.max(0, this.#timeOf(unit) + window - now)
  }

  take (limits: readonly Limit[], cost: number, now: number): void {
    let capacity = this.#capacity
    for (const { max } of limits) capacity = Math.max(capacity, max)
    this.#capacity = capacity
    const units = Math.min(cost, capacity)
    if (this.#times.length < capacity && this.#total + units > this.#times.length) this.#grow(units, capacity)
    for (let i = 0; i < units; i++) this.#times[this.#total++ % this.#times.length] = now
  }

  giveBack (_limits: readonly Limit[], cost: number, time: number): void {
    const kept = Array.from({ length: this.#total - this.#oldest() + 1 }, (_, i) => this.#timeOf(this.#oldest() + i))
    const at = kept.indexOf(time)
    if (at === -1) return
    kept.splice(at, Math.min(cost, kept.lastIndexOf(time) - at + 1))
    this.#times.set(kept)
    this.#total = kept.length
  }

  used (_index: number, limit: Limit, now: number): { used: number, resetAfter: number } {
    const first = this.#firstInWindow(limit, now)
    const used = this.#total - first + 1
    return { used, resetAfter: used === 0 ? limit.window : this.#timeOf(first) + limit.window - now }
  }

  /** The number of the oldest unit in the window, by bisection: times never decrease. */
  #firstInWindow ({ window }: Limit, now: number): number {
    let low = this.#oldest()
    let high = this.#total + 1
    if (low < high && this.#timeOf(low) + window > now) return low
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#timeOf(middle) + window > now) high = middle
      else low = middle + 1
    }
    return low
  }

  #oldest (): number {
    return Math.max(1, this.#total - this.#times.length + 1)
  }

  #timeOf (unit: number): number {
    return this.#times[(unit - 1) % this.#times.length] ?? 0
  }

  #grow (units: number, capacity: number): void {
    const kept = this.#total - this.#oldest() + 1
    const grown = new Float64Array(Math.min(capacity, Math.max(2 * this.#times.length, kept + units)))
    for (let i = 0; i < kept; i++) grown[i] = this.#timeOf(this.#total - kept + 1 + i)
    this.#times = grown
    this.#total = kept
  }
}
