import { systemClock, type Clock } from '../plugin/clock.js'

/** A wait is counted in as many parts. */
const PARTS = 10

/** Looks on while something is waited for. */
export interface Watch {
  /** Called after each part of the wait. @param due - when that should have ended, by the clock's `monotonic()` */
  look (due: number): void
  /** Called when the time is up. @returns for how many milliseconds more to wait; 0: no longer */
  goOn (): number
}

/**
 * Waits for `promise`, but no longer than `ms`; what comes of it later is ignored.
 *
 * The time that counts is the time in which this process could have read an answer. Where the event loop stands still (a turn with
 * much to do, a container that is out of its share of the CPU, a machine that is paused), a timer of `ms` would fire before
 * the answer is read, or before the question is even sent. So it waits by parts, each of which counts as no more than it is
 * long, however late it fires; and after the last one the poll phase comes first once more (`setImmediate`). A stall of this process
 * uses up a tenth of the deadline at most, so that a busy process does not mistake its own delay for the server's; an idle one
 * waits for `ms`. A process that is busy all the time waits for ten of its turns at most, where these are longer.
 *
 * @param onTimeout - makes the error of the rejection
 * @param watch - may extend the wait
 */
export function withDeadline<T> (promise: Promise<T>, ms: number, onTimeout: () => Error, clock: Clock = systemClock, watch?: Watch): Promise<T> {
  return new Promise((resolve, reject) => {
    const part = Math.max(1, Math.ceil(ms / PARTS))
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
