import type { Counter } from './counter.js'
import type { Limit } from './policy.js'

// What the fractions of a unit may be off by.
const ROUNDING = 1e-6

interface Windows {
  /** The number of the current window since the epoch. */
  index: number
  current: number
  previous: number
}

/**
 * Two counters a limit: the current fixed window and the one before, of which as much counts as the sliding
 * window still covers of it. Constant memory; an estimate, as if the previous window's units had come evenly.
 */
export class SlidingCounter implements Counter {
  #windows: Windows[] = []

  wait (index: number, limit: Limit, cost: number, now: number): number {
    const { max, window } = limit
    if (cost > max) return Infinity
    const { previous, current } = this.#at(index, limit, now)
    const elapsed = now % window
    if (cost === 0 || previous * (1 - elapsed / window) + current + cost <= max + ROUNDING) return 0
    // In this window, when enough of the previous one has slid out; else in the next, when enough of this one has.
    const untilHere = previous === 0 ? Infinity : window * (1 - (max - cost - current) / previous)
    if (untilHere <= window) return untilHere - elapsed
    return window - elapsed + Math.max(0, window * (1 - (max - cost) / current))
  }

  take (limits: readonly Limit[], cost: number, now: number): void {
    for (const [index, limit] of limits.entries()) {
      const windows = this.#at(index, limit, now)
      this.#windows[index] = { ...windows, current: windows.current + cost }
    }
  }

  giveBack (limits: readonly Limit[], cost: number, time: number, now: number): void {
    for (const [index, limit] of limits.entries()) {
      const windows = this.#at(index, limit, now)
      const age = windows.index - Math.floor(time / limit.window)
      if (age === 0) windows.current = Math.max(0, windows.current - cost)
      if (age === 1) windows.previous = Math.max(0, windows.previous - cost)
      this.#windows[index] = windows
    }
  }

  used (index: number, limit: Limit, now: number): { used: number, resetAfter: number } {
    const { previous, current } = this.#at(index, limit, now)
    const elapsed = now % limit.window
    return {
      used: Math.ceil(previous * (1 - elapsed / limit.window) + current),
      resetAfter: previous > 0 || current === 0 ? limit.window - elapsed : 2 * limit.window - elapsed
    }
  }

  #at (index: number, { window }: Limit, now: number): Windows {
    const number = Math.floor(now / window)
    const known = this.#windows[index]
    if (number === known?.index) return { ...known }
    return { index: number, current: 0, previous: number - 1 === known?.index ? known.current : 0 }
  }
}
