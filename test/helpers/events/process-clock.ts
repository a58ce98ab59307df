import type { Clock, Timer } from '../../../plugins/shared/plugin/clock.js'
import type { TestClock } from '../../../plugins/testing/index.js'

/** The clock of a process that can stall, blocked or stopped, while time passes. */
export interface ProcessClock extends Clock {
  /** From now on no timer fires. */
  stall (): void
  /** Fires the timers that became due meanwhile, each of them once. */
  resume (): void
}

export function createProcessClock (clock: TestClock): ProcessClock {
  const due = new Set<ProcessTimer>()
  let isStalled = false

  const set = (start: (callback: () => void) => Timer, callback: () => void): ProcessTimer => {
    const timer = new ProcessTimer(callback)
    timer.inner = start(() => {
      if (isStalled) due.add(timer)
      else timer.callback()
    })
    return timer
  }
  const clear = (timer: Timer | undefined): void => {
    if (!(timer instanceof ProcessTimer)) return
    due.delete(timer)
    clock.clearTimeout(timer.inner)
  }

  return {
    now: clock.now,
    monotonic: clock.monotonic,
    redisTime: clock.redisTime,
    setTimeout: (callback, ms) => set(call => clock.setTimeout(call, ms), callback),
    setInterval: (callback, ms) => set(call => clock.setInterval(call, ms), callback),
    clearTimeout: clear,
    clearInterval: clear,
    stall () { isStalled = true },
    resume () {
      isStalled = false
      for (const timer of due) {
        if (due.delete(timer)) timer.callback()
      }
    }
  }
}

class ProcessTimer implements Timer {
  readonly callback: () => void
  inner: Timer | undefined

  constructor (callback: () => void) {
    this.callback = callback
  }

  unref (): this {
    return this
  }

  refresh (): this {
    this.inner?.refresh()
    return this
  }
}
