import t from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { sleep, systemClock } from '../../plugins/shared/plugin/clock.js'

const code = (what: string) => ({ code: `FST_REDIS_SUITE_TESTING_${what}` })

t.test('the time changes only by advance(), and by exactly its duration', async t => {
  const clock = createTestClock({ now: 1_000_000 })
  t.equal(clock.now(), 1_000_000)
  t.equal(clock.monotonic(), 0)
  t.equal(clock.redisTime(), '1000000000')
  await clock.advance('1h')
  await clock.advance(5)
  t.equal(clock.now(), 1_000_000 + 3_600_005)
  t.equal(clock.monotonic(), 3_600_005)
  t.equal(clock.redisTime(), '4600005000')
})

t.test('by default the clock begins at the system\'s time', async t => {
  const before = Date.now()
  const now = createTestClock().now()
  t.equal(Math.min(Math.max(now, before), Date.now()), now)
})

t.test('timers fire in order, each at its own time, and so do timers that they set', async t => {
  const clock = createTestClock({ now: 0 })
  const fired: string[] = []
  const note = (what: string) => () => { fired.push(`${what} ${clock.now()}`) }
  clock.setTimeout(note('c'), 30)
  clock.setTimeout(note('a'), 10)
  clock.setTimeout(() => { note('b')(); clock.setTimeout(note('nested'), 5) }, 10)
  const stopped = clock.setTimeout(note('never'), 10)
  clock.clearTimeout(stopped)
  clock.setTimeout(note('later'), 100)
  await clock.advance(50)
  t.same(fired, ['a 10', 'b 10', 'nested 15', 'c 30'])
  t.equal(clock.pendingTimers, 1)
})

t.test('an interval fires until it is cleared, also by its own callback', async t => {
  const clock = createTestClock()
  let count = 0
  const interval = clock.setInterval(() => { if (++count === 3) clock.clearInterval(interval) }, 10)
  await clock.advance(25)
  t.equal(count, 2)
  await clock.advance(1000)
  t.equal(count, 3)
  t.equal(clock.pendingTimers, 0)
})

t.test('a refreshed timer starts again from now, even if it has fired', async t => {
  const clock = createTestClock({ now: 0 })
  const fired: number[] = []
  const timer = clock.setTimeout(() => { fired.push(clock.now()) }, 10)
  await clock.advance(6)
  timer.refresh()
  await clock.advance(10)
  timer.refresh()
  await clock.advance(10)
  t.same(fired, [16, 26])
})

t.test('code that awaits a timer runs before later timers fire', async t => {
  const clock = createTestClock({ now: 0 })
  const order: string[] = []
  const chain = async () => {
    for (const step of [1, 2, 3]) {
      await sleep(clock, 10)
      order.push(`step ${step} at ${clock.now()}`)
    }
  }
  const done = chain()
  clock.setTimeout(() => { order.push('timer at 25') }, 25)
  await clock.advance(30)
  await done
  t.same(order, ['step 1 at 10', 'step 2 at 20', 'timer at 25', 'step 3 at 30'])
})

t.test('a sleep ends early by its signal, and leaves no timer', async t => {
  const clock = createTestClock()
  const end = new AbortController()
  const slept = sleep(clock, 1000, { signal: end.signal })
  end.abort(new Error('enough'))
  await t.rejects(slept, { message: 'enough' })
  await t.rejects(sleep(clock, 1000, { signal: end.signal }), { message: 'enough' })
  t.equal(clock.pendingTimers, 0)
  await sleep(systemClock, 1)
})

t.test('a listener is called at each step before the timers of that time fire, until it is removed', async t => {
  const clock = createTestClock({ now: 0 })
  const log: string[] = []
  const stop = clock.onStep(async ms => {
    await new Promise(resolve => setImmediate(resolve))
    log.push(`+${ms}`)
  })
  clock.setTimeout(() => { log.push('fired') }, 10)
  await clock.advance(15)
  stop()
  await clock.advance(15)
  t.same(log, ['+10', 'fired', '+5'])
})

t.test('concurrent calls advance the clock one after the other; a callback that throws rejects only its own call', async t => {
  const clock = createTestClock({ now: 0 })
  clock.setTimeout(() => { throw new Error('thrown') }, 5)
  const first = clock.advance(10)
  const second = clock.advance(10)
  await t.rejects(first, { message: 'thrown' })
  await second
  t.equal(clock.now(), 15)
})

t.test('a delay below a millisecond, or above the maximum of a timer, is one millisecond, as in Node.js', async t => {
  const clock = createTestClock()
  let fired = 0
  for (const ms of [0, -1, NaN, 2 ** 31, Infinity]) clock.setTimeout(() => { fired++ }, ms)
  await clock.advance(1)
  t.equal(fired, 5)
})

t.test('createTestClock() fails in production, and refuses invalid times', async t => {
  const before = process.env['NODE_ENV']
  process.env['NODE_ENV'] = 'production'
  t.teardown(() => { if (before === undefined) delete process.env['NODE_ENV']; else process.env['NODE_ENV'] = before })
  t.throws(() => createTestClock(), code('PRODUCTION'))
  process.env['NODE_ENV'] = 'test'
  t.throws(() => createTestClock({ now: 'today' as never }), code('INVALID_OPTION'))
  t.throws(() => createTestClock({ now: NaN }), code('INVALID_OPTION'))
  t.throws(() => createTestClock({ start: 5 } as never), code('INVALID_OPTION'))
  t.throws(() => createTestClock().onStep('step' as never), code('INVALID_OPTION'))
  await t.rejects(createTestClock().advance('soon'), code('INVALID_OPTION'))
  await t.rejects(createTestClock().advance(-1), code('INVALID_OPTION'))
})
