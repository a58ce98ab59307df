import { parseDuration, type Duration } from '../shared/plugin/duration.js'
import { invalidArgumentError } from '../shared/plugin/errors.js'
import type { Clock, Timer } from '../shared/plugin/clock.js'

/** The largest delay of a timer of Node.js: a longer one fires after 1 ms there, and so it does here. */
const MAX_DELAY_MS = 2 ** 31 - 1
/** After a timer fired, promises and immediates get this many turns of the event loop, so that what it started can set timers of its own. */
const TURNS = 4

/** @param ms - by how many milliseconds the time has just moved on */
export type StepListener = (ms: number) => unknown

export interface TestClock extends Clock {
  /**
   * Moves the time on. Timers that become due fire in order, each at its own moment, and what they start may set others that
   * become due as well.
   *
   * @param duration - milliseconds, or a string such as `'1h'`
   * @throws `FST_REDIS_SUITE_TESTING_INVALID_OPTION` (rejects)
   */
  advance (duration: Duration): Promise<void>
  /** How many timers wait to fire. */
  readonly pendingTimers: number
  /**
   * Calls `listener` after each step of {@link advance}, before the timers of that moment fire, and waits for what it returns. The listener
   * must not wait for `advance` itself, which waits for it.
   *
   * @returns a function that removes it
   */
  onStep (listener: StepListener): () => void
}

/** The time stands still, at `start` (milliseconds since the epoch), until it is advanced. */
export function testClock (start: number): TestClock {
  const timers = new Set<TestTimer>()
  const listeners = new Set<StepListener>()
  let elapsed = 0
  let advancing: Promise<void> = Promise.resolve()

  const set = (callback: () => void, ms: number, repeats: boolean): TestTimer =>
    new TestTimer(timers, () => elapsed, callback, delayOf(ms), repeats).refresh()
  const clear = (timer: Timer | undefined): void => { timers.delete(timer as TestTimer) }
  /** The next timer that fires until then; of several at one moment the one that was set first, as a set keeps the order. */
  const nextUntil = (end: number): TestTimer | undefined => {
    let next: TestTimer | undefined
    for (const timer of timers) if (timer.dueAt <= end && (next === undefined || timer.dueAt < next.dueAt)) next = timer
    return next
  }
  const moveTo = async (moment: number): Promise<void> => {
    const step = moment - elapsed
    if (step <= 0) return
    elapsed = moment
    for (const listener of listeners) await listener(step)
  }
  const fire = (timer: TestTimer): void => {
    if (timer.repeats) timer.refresh()
    else timers.delete(timer)
    timer.callback()
  }
  const advance = async (ms: number): Promise<void> => {
    const end = elapsed + ms
    await turns()
    for (let timer = nextUntil(end); timer !== undefined; timer = nextUntil(end)) {
      await moveTo(timer.dueAt)
      if (timers.has(timer)) fire(timer)
      await turns()
    }
    await moveTo(end)
    await turns()
  }

  return {
    now: () => start + elapsed,
    monotonic: () => elapsed,
    setTimeout: (callback, ms) => set(callback, ms, false),
    clearTimeout: clear,
    setInterval: (callback, ms) => set(callback, ms, true),
    clearInterval: clear,
    redisTime: () => String(Math.round((start + elapsed) * 1000)),
    get pendingTimers () { return timers.size },
    onStep (listener) {
      if (typeof listener !== 'function') throw invalidArgumentError('testing', 'listener', listener, 'a function')
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    },
    async advance (duration) {
      const ms = parseDuration(duration)
      if (ms === undefined) throw invalidArgumentError('testing', 'duration', duration, "milliseconds or a string such as '1h'")
      // One call after the other.
      const advanced = advancing.then(() => advance(ms))
      advancing = advanced.catch(() => {})
      await advanced
    }
  }
}

class TestTimer implements Timer {
  readonly callback: () => void
  readonly repeats: boolean
  dueAt = 0
  readonly #waiting: Set<TestTimer>
  readonly #elapsed: () => number
  readonly #delay: number

  constructor (waiting: Set<TestTimer>, elapsed: () => number, callback: () => void, delay: number, repeats: boolean) {
    this.#waiting = waiting
    this.#elapsed = elapsed
    this.callback = callback
    this.#delay = delay
    this.repeats = repeats
  }

  unref (): this {
    return this
  }

  refresh (): this {
    this.dueAt = this.#elapsed() + this.#delay
    // Behind those that are due at the same moment.
    this.#waiting.delete(this)
    this.#waiting.add(this)
    return this
  }
}

function delayOf (ms: number): number {
  return ms >= 1 && ms <= MAX_DELAY_MS ? Math.trunc(ms) : 1
}

async function turns (): Promise<void> {
  for (let turn = 0; turn < TURNS; turn++) await new Promise(resolve => setImmediate(resolve))
}
