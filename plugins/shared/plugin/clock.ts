/** What a clock's `setTimeout` and `setInterval` return. Node.js's own timers are such. */
export interface Timer {
  /** Lets the process exit while the timer is pending. */
  unref (): this
  /** Starts the timer again from now, with its duration. */
  refresh (): this
}

/**
 * The time that a plugin lives by. Everything in `plugins/` that reads a clock or sets a timer does it through a `Clock`, so that
 * tests advance time instead of waiting for it.
 *
 * @see `createTestClock` of `fastify-redis-suite/testing`
 */
export interface Clock {
  /** Milliseconds since the epoch. The system's clock may be set back: use {@link monotonic} for durations. */
  now (): number
  /** Milliseconds since an arbitrary moment; never goes back. */
  monotonic (): number
  setTimeout (callback: () => void, ms: number): Timer
  clearTimeout (timer: Timer | undefined): void
  setInterval (callback: () => void, ms: number): Timer
  clearInterval (timer: Timer | undefined): void
  /** What a script uses in place of Redis's `TIME`, in microseconds since the epoch; empty for `TIME` itself. */
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

/** A date that fell behind `monotonic()` by more was set back. By less, a process that is not scheduled between two calls is the cause. */
const SET_BACK = 10_000

/**
 * Milliseconds since the epoch for a store in this process. A system clock that is set back keeps no entry for longer: such a step is measured by
 * `monotonic()`. One that goes forward is believed, as it does after a suspension of the machine, which `monotonic()` does not count.
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
    time += step < 0 || elapsed - step > SET_BACK ? elapsed : step
    return Math.floor(time)
  }
}

export interface SleepOptions {
  /** Ends the sleep early: the promise rejects with the signal's reason. */
  signal?: AbortSignal | undefined
  /** `false` lets the process exit meanwhile. @default true */
  ref?: boolean
}

/** Resolves after `ms` milliseconds of the clock. */
export function sleep (clock: Clock, ms: number, { signal, ref = true }: SleepOptions = {}): Promise<void> {
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

  constructor (clock: Clock, timeout: number, options?: SleepOptions) {
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
  return typeof value === 'object' && value !== null && METHODS.every(name => typeof Reflect.get(value, name) === 'function')
}
