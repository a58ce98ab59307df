import { parseDuration, type Duration } from '../shared/plugin/duration.js'
import { invalidArgumentError } from '../shared/plugin/errors.js'
import type { Clock, Timer } from '../shared/plugin/clock.js'
import type { Milliseconds } from '../shared/plugin/units.js'

/** The largest delay of a Node.js timer. A longer one fires after 1 ms, as in Node.js. */
const MAX_DELAY_MS = 2 ** 31 - 1
/** How many turns of the event loop follow each timer, so that the code that it started can set its own timers. */
const TURNS = 4

/** @param ms - by how much the time has just advanced */
export type StepListener = (ms: Milliseconds) => unknown

export interface TestClock extends Clock {
  /**
   * Advances the time. Timers that become due fire in order, each at its own time, and so do timers that they set
   * meanwhile.
   *
   * @param duration - milliseconds, or a string such as `'1h'`
   * @throws `FST_REDIS_SUITE_TESTING_INVALID_OPTION` (rejects)
   */
  advance (duration: Duration): Promise<void>
  /** The number of pending timers. */
  readonly pendingTimers: number
  /**
   * Calls `listener` after each step of {@link advance}, before the timers of that time fire, and awaits its result.
   * The listener must not
   * await `advance`, which would wait for it.
   *
   * @returns a function that removes it
   */
  onStep (listener: StepListener): () => void
}

/** @param start - the first time, in milliseconds since the epoch */
export function testClock (start: number): TestClock {
  const timers = new Set<TestTimer>()
  const listeners = new Set<StepListener>()
  let elapsed = 0
  let advancing: Promise<void> = Promise.resolve()

  const set = (callback: () => void, ms: number, repeats: boolean): TestTimer =>
    new TestTimer(timers, () => elapsed, callback, delayOf(ms), repeats).refresh()
  const clear = (timer: Timer | undefined): void => { timers.delete(timer as TestTimer) }
  /** Returns the next timer due until `end`. Timers of one time fire in the order in which they were set. */
  const nextUntil = (end: number): TestTimer | undefined => {
    let next: TestTimer | undefined
    for (const timer of timers) if (timer.dueAt <= end && (next === undefined || timer.dueAt < next.dueAt)) next = timer
    return next
  }
  const moveTo = async (time: number): Promise<void> => {
    const step = time - elapsed
    if (step <= 0) return
    elapsed = time
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
      if (ms === undefined) {
        throw invalidArgumentError('testing', 'duration', duration, "milliseconds or a string such as '1h'")
      }
      // Concurrent calls run one after the other.
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
    // After the timers that are due at the same time.
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
