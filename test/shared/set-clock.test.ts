// A step of the system clock must not change how long anything lasts.
import t, { type Test } from 'tap'
import { createMemoryWriteBehindStore } from '../../plugins/cache/data/write-behind/memory-store.js'
import { MemoryCacheStore } from '../../plugins/cache/store/memory-store.js'
import { StoreClock } from '../../plugins/cache/tiers/store-clock.js'
import { createMemoryStore as createLimitStore } from '../../plugins/rate-limit/store/memory-store.js'
import { createMemoryStore as createSessionStore } from '../../plugins/session/store/memory-store.js'
import { CircuitBreaker } from '../../plugins/shared/redis/circuit-breaker.js'
import { steadyTime, type Clock } from '../../plugins/shared/plugin/clock.js'
import { createTestClock } from '../../plugins/testing/index.js'

const HOUR = 3_600_000
const JUMPS: Array<[string, number]> = [['back by an hour', -HOUR], ['forward by an hour', HOUR]]

/** A clock whose date, and only that, can be set. */
function settableClock () {
  const test = createTestClock()
  let offset = 0
  const clock: Clock = { ...test, now: () => test.now() + offset }
  return { clock, advance: test.advance, set: (ms: number) => { offset += ms } }
}

function forEachJump (promise: string, test: (t: Test, jump: number) => Promise<unknown>): void {
  for (const [name, jump] of JUMPS) t.test(`${promise} if the clock is set ${name}`, async t => await test(t, jump))
}

forEachJump('a circuit has been troubled for as long as it has', async (t, jump) => {
  const { clock, advance, set } = settableClock()
  const circuit = new CircuitBreaker({
    threshold: 1, probeInterval: 10, flapWindow: 10_000, stableFor: 1000, probe: async () => true, isStall: () => false, onChange () {}, clock
  })
  t.equal(circuit.troubledAt, -Infinity)
  circuit.failure(new Error('away'))
  t.equal(circuit.troubledAt, Infinity)
  set(jump)
  await advance(10)
  t.equal(circuit.state, 'closed')
  t.equal(clock.monotonic() - circuit.troubledAt, 0)
  set(jump)
  await advance(1500)
  t.equal(clock.monotonic() - circuit.troubledAt, 1500)
  circuit.failure(new Error('away again'))
  set(-jump)
  await advance(900)
  t.equal(circuit.state, 'open', 'it flaps')
  await advance(200)
  t.equal(circuit.state, 'closed')
  circuit.refusal()
  set(jump)
  await advance(700)
  t.equal(clock.monotonic() - circuit.troubledAt, 700)
})

forEachJump('the store\'s clock goes on, and is asked for again at once,', async (t, jump) => {
  const { clock, advance, set } = settableClock()
  let asked = 0
  const began = clock.monotonic()
  const store = new StoreClock(clock, async () => { asked++; return 5_000_000 + clock.monotonic() - began })
  await store.set()
  set(jump)
  t.equal(clock.monotonic() + store.offset, 5_000_000)
  t.equal(store.isSet, false)
  await store.set()
  await advance(100)
  t.same([clock.monotonic() + store.offset, store.isSet, asked], [5_000_100, true, 2])
})

t.test('an entry of the memory cache lives for its ttl if the clock is set back by an hour', async t => {
  const { clock, advance, set } = settableClock()
  const store = new MemoryCacheStore(1_000_000, clock)
  const now = (await store.tags([])).now
  t.equal((await store.lease('work', 'a').acquire([], 1000)).kind, 'acquired')
  set(-HOUR)
  t.equal((await store.tags([])).now - now, 0)
  await advance(999)
  t.equal((await store.lease('work', 'b').acquire([], 1000)).kind, 'held')
  await advance(1)
  t.equal((await store.lease('work', 'b').acquire([], 1000)).kind, 'acquired')
  t.equal((await store.tags([])).now - now, 1000)
})

t.test('a session in memory expires in time if the clock is set back by an hour', async t => {
  const { clock, advance, set } = settableClock()
  const store = createSessionStore(10, { idleTimeout: 60_000, absoluteTimeout: 600_000 }, clock)
  await store.write('handle', { set: { a: '1' }, isSealed: false, delete: [], create: true, from: '', text: '{}' })
  const life = await store.lifeOf('handle')
  set(-HOUR)
  t.equal(await store.lifeOf('handle'), life, 'a watch learns the same time that it has left')
  await advance(60_000)
  t.ok(await store.read('handle'))
  await advance(10_000)
  t.equal(await store.read('handle'), undefined)
})

t.test('a limit in memory counts for its window if the clock is set back by an hour', async t => {
  for (const algorithm of ['sliding-log', 'sliding-counter', 'gcra'] as const) {
    const { clock, advance, set } = settableClock()
    const store = createLimitStore(10, clock)
    const policy = {
      algorithm, limits: [{ name: 'limit', max: 1, window: 1000, burst: 1 }], countRejected: false, penalty: undefined, ban: -1, banDuration: 0
    }
    const passes = async () => (await store.apply('key', policy, 1, 'consume')).states[0]?.retryAfter === 0
    t.equal(await passes(), true, algorithm)
    set(-HOUR)
    t.equal(await passes(), false, algorithm)
    await advance(2000)
    t.equal(await passes(), true, algorithm)
  }
})

t.test('the age of the oldest write in the backlog is right if the clock is set back by an hour', async t => {
  const { clock, set } = settableClock()
  const store = createMemoryWriteBehindStore({ partitions: 1, maxBacklog: 1, maxDeadLetters: 1 }, clock)
  const before = clock.now()
  set(-HOUR)
  const { now } = await store.state(0)
  t.equal(now, before)
})

t.test('the time of memory stores', async t => {
  const { clock, advance, set } = settableClock()
  const time = steadyTime(clock)
  const began = time()
  await t.test('goes on if the clock is set back', async t => {
    await advance(100)
    set(-HOUR)
    await advance(5)
    t.equal(time() - began, 105)
  })
  await t.test('goes on if the clock is set back by less than the time since the last read', async t => {
    const before = time()
    await advance(HOUR)
    set(-HOUR / 2)
    t.equal(time() - before, HOUR)
  })
  await t.test('follows the clock forward, as after a suspension of the machine', async t => {
    const before = time()
    set(HOUR)
    t.equal(time() - before, HOUR)
  })
  await t.test('is that of a clock with a simulated date', async t => {
    const before = time()
    await advance(900)
    set(-900)
    t.equal(time() - before, 0)
    set(1000)
    t.equal(time() - before, 1000)
  })
})
