import Fastify from 'fastify'
import { rateLimit } from 'fastify-redis-suite'
import { createTestClock, type Clock, type TestClock, type TestClockOptions, type Timer } from 'fastify-redis-suite/testing'
import { expectAssignable, expectError, expectNotAssignable, expectType } from 'tsd'

const app = Fastify()
const clock = createTestClock()

expectType<TestClock>(clock)
expectType<TestClock>(createTestClock({ now: 1_700_000_000_000 }))
expectType<TestClock>(createTestClock({ now: undefined }))
expectError(createTestClock({ now: '2026-01-01' }))
expectNotAssignable<TestClockOptions>({ start: 0 })

// A plugin takes it, and takes none as well: the app under test passes on what it gets.
app.register(rateLimit, { max: 1, timeWindow: '1h', clock })
app.register(rateLimit, { clock: undefined as Clock | undefined })
expectError(app.register(rateLimit, { clock: Date }))
expectAssignable<Clock>(clock)
// A clock of production cannot be advanced.
expectError((clock as Clock).advance('1h'))

expectType<Promise<void>>(clock.advance('1h'))
expectType<Promise<void>>(clock.advance(500))
expectError(clock.advance(new Date()))
expectType<number>(clock.now())
expectType<number>(clock.pendingTimers)
expectError(clock.pendingTimers = 0)
expectType<() => void>(clock.onStep(ms => { expectType<number>(ms) }))
expectType<Timer>(clock.setTimeout(() => {}, 100))
