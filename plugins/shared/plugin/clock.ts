import type { Milliseconds } from './units.js'

/** A timer of a clock. Node.js's own timers implement it. */
export interface Timer {
  /** Lets the process exit while the timer is pending. */
  unref (): this
  /** Starts the timer again from now, with its duration. */
  refresh (): this
}

/**
 * The source of time of a plugin. All code in `plugins/` reads the time and sets timers through a `Clock`, so that
 * tests advance the time instead of waiting.
 *
 * @see `createTestClock` of `fastify-redis-suite/testing`
 */
export interface Clock {
  /** Milliseconds since the epoch. The system's clock may be set back: use {@link monotonic} for durations. */
  now (): number
  /** Milliseconds since an arbitrary time; never goes back. */
  monotonic (): number
  setTimeout (callback: () => void, ms: Milliseconds): Timer
  clearTimeout (timer: Timer | undefined): void
  setInterval (callback: () => void, ms: Milliseconds): Timer
  clearInterval (timer: Timer | undefined): void
  /** The time that scripts use, in microseconds since the epoch; empty for Redis's own `TIME`. */
  redisTime (): string
}

/** The clock and the timers of the system, and Redis's own `TIME`. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  setTimeout: (callback, ms) => setTimeout(callback, ms),
  clearTimeout: timer => clearTimeout(timer as NodeJS.Timeout | undefined),
  setInterval: (callback, ms) => setInterval(callback, ms),
  clearInterval: timer => clearInterval(timer as NodeJS.Timeout | undefined),
  redisTime: () => ''
}

/** A longer lag of `now()` behind `monotonic()` means that the clock was set back, and was no pause of the process. */
const SET_BACK_MS = 10_000

/**
 * Returns a function for the time of a memory store, in milliseconds since the epoch. A system clock that is set back
 * extends no entry: the step is measured by `monotonic()` instead. A step forward counts, as after a suspension of the
 * machine, which `monotonic()` leaves out.
 */
export function steadyTime (clock: Clock): () => number {
  let date = clock.now()
  let monotonic = clock.monotonic()
  let time = date
  return () => {
    const step = clock.now() - date
    const elapsed = clock.monotonic() - monotonic
    date += step
    monotonic += elapsed
    time += step < 0 || elapsed - step > SET_BACK_MS ? elapsed : step
    return Math.floor(time)
  }
}

interface SleepOptions {
  /** Ends the sleep early: its promise rejects with the signal's reason. */
  signal?: AbortSignal | undefined
  /** Whether the sleep keeps the process alive. @default true */
  ref?: boolean
}

/** Resolves after `ms` of the clock. */
export function sleep (clock: Clock, ms: Milliseconds, { signal, ref = true }: SleepOptions = {}): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason)
    const abort = () => {
      clock.clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = clock.setTimeout(() => {
      signal?.removeEventListener('abort', abort)
      resolve()
    }, ms)
    if (!ref) timer.unref()
    signal?.addEventListener('abort', abort, { once: true })
  })
}

const FIRST_POLL_MS = 8
const MAX_POLL_MS = 100
const POLL_GROWTH = 1.5

/**
 * Spaces the attempts of a caller that polls: the pauses grow from 8 ms to 100 ms, until `timeout` is over.
 *
 * @example
 * const poller = new Poller(clock, 5000)
 * do {
 *   if (await isDone()) return true
 * } while (await poller.wait())
 * return false
 */
export class Poller {
  readonly #clock: Clock
  readonly #deadline: number
  readonly #options: SleepOptions | undefined
  #pause = FIRST_POLL_MS

  constructor (clock: Clock, timeout: Milliseconds, options?: SleepOptions) {
    this.#clock = clock
    this.#deadline = clock.monotonic() + timeout
    this.#options = options
  }

  /**
   * Waits until the next attempt is due. The last attempt is due when `timeout` ends.
   *
   * @returns false at once, when `timeout` is over
   */
  async wait (): Promise<boolean> {
    const left = this.#deadline - this.#clock.monotonic()
    if (left <= 0) return false
    await sleep(this.#clock, Math.min(this.#pause, left), this.#options)
    this.#pause = Math.min(this.#pause * POLL_GROWTH, MAX_POLL_MS)
    return true
  }
}

const METHODS: ReadonlyArray<keyof Clock> =
  ['now', 'monotonic', 'setTimeout', 'clearTimeout', 'setInterval', 'clearInterval', 'redisTime']

export function isClock (value: unknown): value is Clock {
  return typeof value === 'object' && value !== null &&
    METHODS.every(name => typeof Reflect.get(value, name) === 'function')
}
