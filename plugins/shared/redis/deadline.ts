import { systemClock, type Clock } from '../plugin/clock.js'
import { MAX_TIMER_MS } from '../plugin/duration.js'
import type { Milliseconds } from '../plugin/units.js'

/** The number of parts that a wait is counted in. */
const PARTS = 10

/** Observes a wait, and may extend it. */
export interface Watch {
  /** Called after each part of the wait. @param due - when that part should have ended, by the clock's `monotonic()` */
  look (due: number): void
  /** Called when the time is up. @returns how much longer to wait; 0 to end */
  goOn (): Milliseconds
}

/**
 * Waits for `promise`, at most for `ms`, and ignores its later result.
 *
 * Only time in which this process could have read a reply counts. While the event loop is blocked, the CPU throttled or
 * the machine paused, a timer of `ms` would fire before the reply is read, or before the command is sent. The wait
 * therefore has parts: each counts as its own length, however late its timer fires, and a poll phase (`setImmediate`)
 * follows the last one. So a stall of this process uses up at most a tenth of the deadline. A process that is always
 * busy waits for at most ten turns of its event loop.
 *
 * @param onTimeout - creates the error of the rejection
 * @param watch - may extend the wait
 */
export function withDeadline<T> (
  promise: Promise<T>, ms: Milliseconds, onTimeout: () => Error, clock: Clock = systemClock, watch?: Watch
): Promise<T> {
  return new Promise((resolve, reject) => {
    // Node.js takes a longer delay for one of 1 ms.
    const part = Math.min(Math.max(1, Math.ceil(ms / PARTS)), MAX_TIMER_MS)
    let left = ms
    let due = watch === undefined ? 0 : clock.monotonic() + part
    let isSettled = false
    const next = () => {
      left -= part
      if (watch !== undefined) {
        watch.look(due)
        due = clock.monotonic() + Math.min(part, Math.max(left, 0))
      }
      if (left >= part) timer.refresh()
      else if (left > 0) timer = clock.setTimeout(next, left)
      else setImmediate(end)
    }
    const end = () => {
      if (isSettled) return
      left = watch?.goOn() ?? 0
      if (left <= 0) return reject(onTimeout())
      due = clock.monotonic() + Math.min(part, left)
      timer = clock.setTimeout(next, Math.min(part, left))
    }
    let timer = clock.setTimeout(next, part)
    promise.then(
      value => { isSettled = true; clock.clearTimeout(timer); resolve(value) },
      error => { isSettled = true; clock.clearTimeout(timer); reject(error) }
    )
  })
}
