import t, { type Test } from 'tap'
import { CircuitBreaker, type CircuitStatus } from '../../plugins/shared/redis/circuit-breaker.js'
import { systemClock, type Clock, type Timer } from '../../plugins/shared/plugin/clock.js'
import { withDeadline } from '../../plugins/shared/redis/deadline.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'

const PROBE_INTERVAL = 10
const STABLE_FOR = 100

interface TestCircuit { circuit: CircuitBreaker, changes: CircuitStatus[], clock: TestClock, fail: () => void }

function createCircuit (t: Test, probe: () => Promise<boolean>, isStall = () => false): TestCircuit {
  const changes: CircuitStatus[] = []
  const clock = createTestClock()
  const circuit = new CircuitBreaker({ threshold: 3, probeInterval: PROBE_INTERVAL, flapWindow: 1000, stableFor: STABLE_FOR, probe, isStall, clock, onChange: status => changes.push(status) })
  t.teardown(() => circuit.stop())
  return { circuit, changes, clock, fail () { for (let i = 0; i < 3; i++) circuit.failure(new Error('away')) } }
}

t.test('a run of failures opens the circuit once, and a success in between restarts the run', async t => {
  const { circuit, changes } = createCircuit(t, () => new Promise(() => {}))
  circuit.failure(new Error('1'))
  circuit.failure(new Error('2'))
  circuit.success()
  circuit.failure(new Error('3'))
  circuit.failure(new Error('4'))
  t.equal(circuit.state, 'closed')
  circuit.failure(new Error('5'))
  circuit.failure(new Error('6'))
  t.equal(circuit.state, 'open')
  t.match(changes, [{ state: 'open', opened: 1, lastError: { message: '5' } }])
  t.equal(changes.length, 1)
})

t.test('an open circuit probes at its interval, and closes with the first probe that succeeds', async t => {
  let back = false
  let probes = 0
  const { circuit, changes, clock, fail } = createCircuit(t, async () => { probes++; if (!back) throw new Error('still away'); return true })
  fail()
  await clock.advance(3 * PROBE_INTERVAL)
  t.equal(probes, 3)
  t.equal(circuit.state, 'open')
  t.equal(circuit.status.lastError?.message, 'still away')
  back = true
  await clock.advance(PROBE_INTERVAL)
  t.equal(circuit.state, 'closed')
  t.match(changes, [{ state: 'open' }, { state: 'closed', opened: 1, failures: 0 }])
  await clock.advance('1h')
  t.equal(probes, 4, 'a closed circuit does not probe')
})

t.test('one probe at a time waits for a server that hangs, and its late reply closes the circuit', async t => {
  let probes = 0
  let answer = (): void => {}
  const { circuit, clock, fail } = createCircuit(t, () => { probes++; return new Promise<boolean>(resolve => { answer = () => resolve(true) }) })
  fail()
  await clock.advance('1h')
  circuit.probeNow()
  t.equal(probes, 1)
  t.equal(circuit.state, 'open')
  answer()
  await clock.advance(0)
  t.equal(circuit.state, 'closed')
})

t.test('a stopped circuit probes no more', async t => {
  let probes = 0
  const { circuit, clock, fail } = createCircuit(t, async () => { probes++; throw new Error('away') })
  fail()
  circuit.stop()
  await clock.advance('1h')
  circuit.probeNow()
  t.same([probes, clock.pendingTimers], [0, 0])
})

t.test('a circuit that opens again within the flap window closes when the server has stayed for a while', async t => {
  const { circuit, clock, fail } = createCircuit(t, async () => true)
  fail()
  await clock.advance(PROBE_INTERVAL)
  t.equal(circuit.state, 'closed', 'the first time by the first probe')
  fail()
  for (let i = 0; i < 10; i++) {
    await clock.advance(STABLE_FOR - PROBE_INTERVAL)
    circuit.disturbed()
  }
  t.equal(circuit.state, 'open', 'the server was lost again and again')
  await clock.advance(STABLE_FOR)
  t.equal(circuit.state, 'open', 'it counts from the next probe')
  await clock.advance(PROBE_INTERVAL)
  t.equal(circuit.state, 'closed')
})

const onTimeout = () => new Error('too late')

/** The clock of a process whose event loop is blocked: each timer fires at `delayOf(ms)` milliseconds in place of `ms`. */
function blocked (clock: TestClock, delayOf: (ms: number) => number): Clock {
  return {
    ...clock,
    setTimeout (callback, ms) {
      let pending = clock.setTimeout(callback, delayOf(ms))
      const timer: Timer = {
        unref: () => timer,
        refresh () {
          clock.clearTimeout(pending)
          pending = clock.setTimeout(callback, delayOf(ms))
          return timer
        }
      }
      return timer
    },
    clearTimeout () {}
  }
}

const HOUR = 3_600_000

/** The milliseconds of the clock after which the promise settles. */
async function settlesAfter (clock: TestClock, promise: Promise<unknown>): Promise<number> {
  const settled = new AbortController()
  promise.finally(() => { settled.abort() }).catch(() => {})
  const start = clock.now()
  while (!settled.signal.aborted) await clock.advance(1)
  return clock.now() - start
}

for (const ms of [1, 7, 75, 149, 150]) {
  t.test(`a promise that stays pending is rejected after exactly ${ms} ms in an idle process`, async t => {
    const clock = createTestClock()
    const waiting = withDeadline(new Promise(() => {}), ms, onTimeout, clock)
    t.equal(await settlesAfter(clock, waiting), ms)
    await t.rejects(waiting, { message: 'too late' })
    t.equal(clock.pendingTimers, 0)
  })
}

t.test('a deadline of 0 ends with the next timer', async t => {
  const clock = createTestClock()
  const waiting = withDeadline(new Promise(() => {}), 0, onTimeout, clock)
  t.equal(await settlesAfter(clock, waiting), 1)
  await t.rejects(waiting, { message: 'too late' })
  t.equal(clock.pendingTimers, 0)
})

t.test('a deadline above the longest timer of Node.js, which would end after 1 ms, is waited for', async t => {
  const delays: number[] = []
  const clock: Clock = {
    ...systemClock,
    setTimeout: (callback, ms) => {
      delays.push(ms)
      return systemClock.setTimeout(callback, ms)
    }
  }
  const late = new Promise(resolve => { setTimeout(resolve, 30, 'value') })
  t.equal(await withDeadline(late, Number.MAX_SAFE_INTEGER, onTimeout, clock), 'value')
  t.same(delays, [2 ** 31 - 1])
})

t.test('a promise that settles in time passes its value or its error on, and leaves no timer', async t => {
  const clock = createTestClock()
  const after = (ms: number, settle: () => void) => clock.setTimeout(settle, ms)
  t.equal(await Promise.all([withDeadline(new Promise(resolve => after(99, () => resolve('value'))), 100, onTimeout, clock), clock.advance(99)]).then(([value]) => value), 'value')
  const rejected = withDeadline(new Promise((_resolve, reject) => after(99, () => reject(new Error('of its own')))), 100, onTimeout, clock)
  await Promise.all([t.rejects(rejected, { message: 'of its own' }), clock.advance(99)])
  t.equal(clock.pendingTimers, 0)
})

t.test('a stall of the process, however long, uses up a tenth of the deadline', async t => {
  const clock = createTestClock()
  const once = () => {
    let stall = HOUR
    return blocked(clock, ms => {
      const delay = Math.max(ms, stall)
      stall = 0
      return delay
    })
  }
  const answer = withDeadline(new Promise(resolve => clock.setTimeout(() => resolve('answer'), HOUR + 134)), 150, onTimeout, once())
  const late = withDeadline(new Promise(() => {}), 150, onTimeout, once())
  answer.catch(() => {})
  late.catch(() => {})
  await clock.advance(HOUR + 135)
  t.equal(await answer, 'answer')
  await t.rejects(late, { message: 'too late' })
})

t.test('a process whose event loop is blocked again and again has ten turns to read a reply', async t => {
  const clock = createTestClock()
  // Each turn takes 40 ms, as in a stampede.
  const everyTurn = blocked(clock, ms => Math.max(ms, 40))
  const reply = withDeadline(new Promise(resolve => clock.setTimeout(() => resolve('reply'), 9 * 40)), 150, onTimeout, everyTurn)
  const late = withDeadline(new Promise(() => {}), 150, onTimeout, everyTurn)
  reply.catch(() => {})
  late.catch(() => {})
  await clock.advance(10 * 40)
  t.equal(await reply, 'reply')
  await t.rejects(late, { message: 'too late' })
})

t.test('a reply that can be read when the last part of the deadline ends is read first', async t => {
  const clock = createTestClock()
  const answer = withDeadline(new Promise(resolve => clock.setTimeout(() => setImmediate(() => resolve('answer')), 100)), 100, onTimeout, clock)
  answer.catch(() => {})
  await clock.advance(100)
  t.equal(await answer, 'answer')
})
