import { resolveOptions } from '../shared/plugin/option-table.js'
import { ProductionError } from './errors.js'
import { TEST_CLOCK_OPTIONS, type TestClockOptions } from './options.js'
import { testClock, type TestClock } from './test-clock.js'

export type { Duration } from '../shared/plugin/duration.js'
export type { Clock, Timer } from '../shared/plugin/clock.js'
export type { TestClockOptions } from './options.js'
export type { StepListener, TestClock } from './test-clock.js'

/**
 * Creates a clock whose time advances only when a test advances it. Set it as the option `clock` of plugins: a test of
 * limits, TTLs and time-outs then passes an hour without waiting.
 *
 * The memory stores use only this clock. With Redis the plugins' timers and the scripts use it; keys expire by the
 * server's own clock.
 *
 * @throws `FST_REDIS_SUITE_TESTING_PRODUCTION` if `NODE_ENV` is `production`; `FST_REDIS_SUITE_TESTING_INVALID_OPTION`
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
  return testClock(resolveOptions('testing', TEST_CLOCK_OPTIONS, options).now ?? Date.now())
}
