import t from 'tap'
import { StoreClock } from '../../plugins/cache/store-clock.js'
import { createTestClock } from '../../plugins/testing/index.js'

const AHEAD = 1000

/** A store with a clock that is ahead, whose answers take so many milliseconds each, all of it on the way there. */
function answeringAfter (...delays: number[]) {
  const local = createTestClock()
  let asked = 0
  const clock = new StoreClock(local, async () => {
    await local.advance(delays[asked++] ?? 0)
    return local.now() + AHEAD
  })
  /** Waits for the attempts that run in the background. */
  const settled = async () => { for (let turn = 0; turn < 100; turn++) await new Promise(resolve => setImmediate(resolve)) }
  return { clock, local, settled, asked: () => asked, error: () => clock.now() - local.now() - AHEAD }
}

t.test('a late answer is replaced by prompter ones, until one is prompt', async t => {
  const { clock, settled, asked, error } = answeringAfter(80, 60, 0)
  await clock.set()
  t.equal(error(), 40, 'the error is half of the delay at first')
  t.equal(clock.isSet, true)
  await settled()
  t.equal(error(), 0)
  t.equal(asked(), 3)
})

t.test('where all answers are late the store is asked five times, and the promptest answer counts', async t => {
  const { clock, settled, asked, error } = answeringAfter(200, 30, 120, 120, 120, 0)
  await clock.set()
  await settled()
  t.equal(asked(), 5)
  t.equal(error(), 15)
})

t.test('the store is asked again after a minute', async t => {
  const { clock, local } = answeringAfter()
  await clock.set()
  await local.advance('1m')
  t.equal(clock.isSet, true)
  await local.advance(1)
  t.equal(clock.isSet, false)
})

t.test('without an answer the clock is not set', async t => {
  const clock = new StoreClock(createTestClock(), async () => undefined)
  await clock.set()
  t.equal(clock.isSet, false)
})
