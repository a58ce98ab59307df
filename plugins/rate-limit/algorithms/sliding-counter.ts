import type { Counter } from './counter.js'
import type { Limit } from '../policy.js'

// What the fractions of a unit may be off by.
const ROUNDING = 1e-6

// Of how many lengths of window a key is counted by.
const MOST_WINDOWS = 16

interface Windows {
  /** The number of the current window since the epoch. */
  index: number
  current: number
  previous: number
  /** Since when it is counted by: what was taken before was not taken from it. */
  since: number
}

/**
 * Two counters for each length of window: the current fixed window and the one before, of which as much counts as the
 * sliding window still covers of it. Constant memory; an estimate, as if the previous window's units had come evenly.
 */
export class SlidingCounter implements Counter {
  /** By their length. */
  #windows = new Map<number, Windows>()

  wait (_index: number, { max, window }: Limit, cost: number, now: number): number {
    if (cost > max) return Infinity
    const { previous, current } = this.#at(window, now)
    const elapsed = now % window
    if (cost === 0 || previous * (1 - elapsed / window) + current + cost <= max + ROUNDING) return 0
    // In this window, when enough of the previous one has slid out; else in the next, when enough of this one has.
    const untilHere = previous === 0 ? Infinity : window * (1 - (max - cost - current) / previous)
    if (untilHere <= window) return untilHere - elapsed
    return window - elapsed + Math.max(0, window * (1 - (max - cost) / current))
  }

  /** Counts by all lengths that were asked for, so that policies of several windows share the count. */
  take (limits: readonly Limit[], cost: number, now: number): void {
    for (const { window } of limits) {
      const windows = this.#at(window, now)
      this.#windows.delete(window)
      this.#windows.set(window, windows)
    }
    for (const window of this.#windows.keys()) {
      if (this.#windows.size > MOST_WINDOWS) this.#windows.delete(window)
      else this.#change(window, now, windows => { windows.current += cost })
    }
  }

  giveBack (_limits: readonly Limit[], cost: number, time: number, now: number): void {
    for (const window of this.#windows.keys()) {
      this.#change(window, now, windows => {
        const age = time < windows.since ? Infinity : windows.index - Math.floor(time / window)
        if (age === 0) windows.current = Math.max(0, windows.current - cost)
        if (age === 1) windows.previous = Math.max(0, windows.previous - cost)
      })
    }
  }

  used (_index: number, { window }: Limit, now: number): { used: number, resetAfter: number } {
    const { previous, current } = this.#at(window, now)
    const elapsed = now % window
    return {
      used: Math.ceil(previous * (1 - elapsed / window) + current),
      resetAfter: previous > 0 || current === 0 ? window - elapsed : 2 * window - elapsed
    }
  }

  #at (window: number, now: number): Windows {
    const index = Math.floor(now / window)
    const known = this.#windows.get(window)
    if (index === known?.index) return { ...known }
    return index - 1 === known?.index ? { index, current: 0, previous: known.current, since: known.since } : { index, current: 0, previous: 0, since: now }
  }

  #change (window: number, now: number, change: (windows: Windows) => void): void {
    const windows = this.#at(window, now)
    change(windows)
    this.#windows.set(window, windows)
  }
}
