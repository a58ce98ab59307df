import { parseDuration } from '../shared/plugin/duration.js'
import { readOptions } from '../shared/plugin/option-reader.js'
import { ProductionError } from './errors.js'
import { testClock, type TestClock } from './test-clock.js'

export type { Clock, Timer } from '../shared/plugin/clock.js'
export type { StepListener, TestClock } from './test-clock.js'

export interface TestClockOptions {
  /** The time at which the clock stands first, in milliseconds since the epoch. @default the system's time */
  now?: number | undefined
}

/**
 * Creates a clock that stands still until it is advanced. Handed to plugins as their option `clock`, it lets a test of limits, TTLs and
 * time-outs pass an hour without waiting for it.
 *
 * With the memory stores everything lives by this clock. With Redis the plugins' timers and the time in scripts do; TTLs of keys stay the
 * server's own.
 *
 * @throws `FST_REDIS_SUITE_TESTING_PRODUCTION` where `NODE_ENV` is `production`; `FST_REDIS_SUITE_TESTING_INVALID_OPTION`
 *
 * @example
 * const clock = createTestClock()
 * await app.register(rateLimit, { max: 1, timeWindow: '1h', clock })
 * await app.inject('/') // 200
 * await app.inject('/') // 429
 * await clock.advance('1h')
 * await app.inject('/') // 200
 */
export function createTestClock (options: TestClockOptions = {}): TestClock {
  if (process.env['NODE_ENV'] === 'production') throw new ProductionError()
  const read = readOptions('testing', options)
  read.onlyKnown(['now'])
  const now = options.now === undefined ? Date.now() : parseDuration(options.now)
  return now === undefined || typeof options.now === 'string' ? read.fail('now', 'milliseconds since the epoch') : testClock(now)
}
