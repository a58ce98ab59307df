import { systemClock, type Clock } from './clock.js'

/** A wait is counted in as many parts. */
const PARTS = 10

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
 */
export function withDeadline<T> (promise: Promise<T>, ms: number, onTimeout: () => Error, clock: Clock = systemClock): Promise<T> {
  return new Promise((resolve, reject) => {
    const part = Math.max(1, Math.ceil(ms / PARTS))
    let left = ms
    const next = () => {
      left -= part
      if (left >= part) timer.refresh()
      else if (left > 0) timer = clock.setTimeout(next, left)
      else setImmediate(() => reject(onTimeout()))
    }
    let timer = clock.setTimeout(next, part)
    promise.then(
      value => { clock.clearTimeout(timer); resolve(value) },
      error => { clock.clearTimeout(timer); reject(error) }
    )
  })
}
