import type { Clock, Timer } from '../../../plugins/shared/plugin/clock.js'

export interface StallableClock extends Clock {
  /** From now on no timer fires, as in a process that does not run. */
  stall (): void
  /** Fires the timers that became due meanwhile. */
  resume (): void
  /** The durations of all timers that were set. */
  readonly delays: ReadonlySet<number>
}

/** Creates a clock that shares the time of `clock`, and can stop the timers of one instance. */
export function stallableClock (clock: Clock): StallableClock {
  const missed = new Map<Timer, () => void>()
  const delays = new Set<number>()
  let isStalled = false
  const set = (start: Clock['setTimeout'], callback: () => void, ms: number): Timer => {
    delays.add(ms)
    const timer = start(() => {
      if (isStalled) missed.set(timer, callback)
      else callback()
    }, ms)
    return timer
  }
  const clear = (stop: Clock['clearTimeout'], timer: Timer | undefined) => {
    if (timer !== undefined) missed.delete(timer)
    stop(timer)
  }
  return {
    now: clock.now,
    monotonic: clock.monotonic,
    redisTime: clock.redisTime,
    setTimeout: (callback, ms) => set(clock.setTimeout, callback, ms),
    clearTimeout: timer => clear(clock.clearTimeout, timer),
    setInterval: (callback, ms) => set(clock.setInterval, callback, ms),
    clearInterval: timer => clear(clock.clearInterval, timer),
    delays,
    stall () { isStalled = true },
    resume () {
      isStalled = false
      for (const [timer, callback] of missed) if (missed.delete(timer)) callback()
    }
  }
}
