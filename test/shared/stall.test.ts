import t from 'tap'
import type { Clock, Timer } from '../../plugins/shared/plugin/clock.js'
import type { RedisGuard } from '../../plugins/shared/redis/guard.js'
import { createLateRedis, type LateRedis } from '../helpers/redis/late-redis.js'

const PATIENT = { isPatient: true }
const TIMEOUT = 'FST_REDIS_SUITE_REDIS_TIMEOUT'
const CIRCUIT_OPEN = 'FST_REDIS_SUITE_REDIS_CIRCUIT_OPEN'

interface Outcome { at: number, took: number, result: string }

/** Asks `count` times, one every `interval` milliseconds of the clock. */
async function askEvery ({ client, clock }: LateRedis, guard: RedisGuard, count: number, interval = 50, before = (_i: number): void => {}): Promise<Outcome[]> {
  const asked: Array<Promise<Outcome>> = []
  for (let i = 0; i < count; i++) {
    before(i)
    const at = clock.now()
    asked.push(guard.run(() => client.ping()).then(String, (error: { code?: string, message: string }) => error.code ?? error.message)
      .then(result => ({ at, took: clock.now() - at, result })))
    await clock.advance(interval)
  }
  const done = new AbortController()
  const all = Promise.all(asked).finally(() => done.abort())
  while (!done.signal.aborted) await clock.advance(interval)
  return await all
}

const results = (outcomes: Outcome[]) => [...new Set(outcomes.map(({ result }) => result))].sort()

t.test('while replies come 400 ms late but keep coming, no circuit opens, and what fails closed is served late', async t => {
  const redis = await createLateRedis(t)
  const guard = redis.guard(PATIENT)
  // So slowly that there is always a reply on its way.
  const outcomes = await askEvery(redis, guard, 100, 50, i => redis.setDelay(Math.min(400, 1 + i * 20)))
  t.same(results(outcomes), ['PONG'])
  t.equal(Math.max(...outcomes.map(({ took }) => took)), 400)
  t.match(guard.circuit, { opened: 0 })
})

t.test('what fails open takes its fallback at its deadline while Redis is late, and at once when that is known', async t => {
  const redis = await createLateRedis(t)
  const outcomes = await askEvery(redis, redis.guard(), 40, 50, () => redis.setDelay(400))
  t.same(results(outcomes), [CIRCUIT_OPEN, TIMEOUT])
  t.ok(outcomes.every(({ took, result }) => took <= (result === TIMEOUT ? 150 : 0)))
  t.equal(outcomes.filter(({ result }) => result === TIMEOUT).length < 10, true)
  t.same(redis.states(), ['late'])
})

t.test('when all replies stop for 400 ms, no circuit opens, and only the first operations fail', async t => {
  const redis = await createLateRedis(t)
  const guard = redis.guard(PATIENT)
  await askEvery(redis, guard, 5)
  const began = redis.clock.now()
  redis.setDelay(400)
  const outcomes = await askEvery(redis, guard, 100)
  t.match(guard.circuit, { opened: 0 })
  const refused = outcomes.filter(({ result }) => result !== 'PONG')
  t.same(results(refused), [TIMEOUT])
  t.ok(refused.every(({ at, took }) => at < began + 400 - 150 && took === 150), `${refused.length} of 100`)
  redis.setDelay(1)
  await redis.clock.advance(1000)
  t.equal(guard.circuit.state, 'closed')
})

t.test('a Redis that hangs costs what fails closed 150 ms and no more, the circuit is open within a second, and then nothing is added', async t => {
  const redis = await createLateRedis(t)
  const guard = redis.guard(PATIENT)
  await askEvery(redis, guard, 5)
  redis.setDelay(Infinity)
  const began = redis.clock.now()
  const outcomes = await askEvery(redis, guard, 40)
  t.same(results(outcomes), [CIRCUIT_OPEN, TIMEOUT])
  t.equal(Math.max(...outcomes.map(({ took }) => took)), 150)
  t.match(guard.circuit, { state: 'open', opened: 1 })
  t.same(outcomes.filter(({ at }) => at >= began + 1000).map(({ took }) => took).filter(took => took > 0), [])
})

t.test('what fails closed waits no longer than 1.65 s, however long replies to others keep coming', async t => {
  const redis = await createLateRedis(t)
  const guard = redis.guard(PATIENT)
  const never = guard.run(() => new Promise(() => {})).catch((error: { code: string }) => error.code)
  const began = redis.clock.now()
  let took = 0
  never.finally(() => { took = redis.clock.now() - began }).catch(() => {})
  await askEvery(redis, guard, 60)
  t.equal(await never, TIMEOUT)
  t.ok(took >= 1650 && took < 1700, `${took} ms`)
})

t.test('the queue of an overloaded Redis does not grow without end, and some operations are served', async t => {
  const redis = await createLateRedis(t)
  const { clock } = redis
  let freeAt = 0
  let longest = 0
  redis.setDelay(() => {
    freeAt = Math.max(freeAt, clock.now()) + 120
    longest = Math.max(longest, freeAt - clock.now())
    return freeAt - clock.now()
  })
  // One each 50 ms, for a minute.
  const outcomes = await askEvery(redis, redis.guard(PATIENT), 1200)
  t.ok(longest < 10_000, `the queue: ${longest} ms`)
  const served = outcomes.slice(600).filter(({ result }) => result === 'PONG').length
  t.ok(served > 50, `${served} of 600`)
  t.ok(Math.max(...outcomes.map(({ took }) => took)) <= 1650)
})

t.test('what is repeated, as the client gave it up, waits no longer in all than what is not', async t => {
  const redis = await createLateRedis(t)
  const guard = redis.guard(PATIENT)
  const began = redis.clock.now()
  let took = 0
  let asked = 0
  // As the client's commandTimeout does.
  const givesUp = () => new Promise((_resolve, reject) => { asked++; redis.clock.setTimeout(() => reject(new Error('Command timed out')), 1000) })
  const never = guard.run(givesUp).catch((error: { code: string }) => { took = redis.clock.now() - began; return error.code })
  await askEvery(redis, guard, 80)
  t.equal(await never, TIMEOUT)
  t.equal(asked, 2)
  t.ok(took >= 1500 && took <= 1700, `${took} ms`)
})

/** The clock of a process that is short of CPU: each timer fires late. */
function late (clock: Clock, by: number): Clock {
  return {
    ...clock,
    setTimeout (callback, ms) {
      let pending = clock.setTimeout(callback, ms + by)
      const timer: Timer = {
        unref: () => timer,
        refresh () {
          clock.clearTimeout(pending)
          pending = clock.setTimeout(callback, ms + by)
          return timer
        }
      }
      return Object.assign(timer, { pending: () => pending })
    },
    clearTimeout (timer) { clock.clearTimeout((timer as { pending?: () => Timer } | undefined)?.pending?.()) }
  }
}

t.test('a process that is short of CPU does not take a silence of Redis for an outage, as Redis may be short of it too', async t => {
  const redis = await createLateRedis(t)
  const guard = redis.guard(PATIENT, late(redis.clock, 30))
  redis.setDelay(900)
  const outcomes = await askEvery(redis, guard, 20, 200)
  t.same(results(outcomes), ['PONG'])
  t.match(guard.circuit, { opened: 0 })
})

t.test('timers that fire 1 ms late, as those of an idle process do, do not make it a busy one: a Redis that hangs is found as soon', async t => {
  const redis = await createLateRedis(t)
  const guard = redis.guard(PATIENT, late(redis.clock, 1))
  redis.setDelay(Infinity)
  const outcomes = await askEvery(redis, guard, 200, 5)
  t.same(results(outcomes), [CIRCUIT_OPEN, TIMEOUT])
  const slowest = Math.max(...outcomes.map(({ took }) => took))
  t.ok(slowest <= 170, `${slowest} ms`)
  t.match(guard.circuit, { state: 'open', opened: 1 })
})

t.test('an operation that commandTimeout ended is repeated if it fails closed and may be repeated', async t => {
  const redis = await createLateRedis(t)
  const endsTwice = () => {
    let asked = 0
    return async () => { if (++asked <= 2) throw new Error('Command timed out'); return asked }
  }
  t.equal(await redis.guard(PATIENT).run(endsTwice()), 3)
  await t.rejects(redis.guard(PATIENT).runOnce(endsTwice()), { message: 'Command timed out' })
  await t.rejects(redis.guard().run(endsTwice()), { message: 'Command timed out' })
  await t.rejects(redis.guard(PATIENT).run(async () => { throw new Error('Command timed out') }), { message: 'Command timed out' })
})

t.test('what fails closed waits for the first probe of a circuit that has just opened', async t => {
  const redis = await createLateRedis(t)
  const guard = redis.guard(PATIENT)
  const lost = async () => { throw new Error('Connection is closed.') }
  for (let i = 0; i < 5; i++) await guard.run(lost).catch(() => {})
  t.equal(guard.circuit.state, 'open')
  await t.rejects(redis.guard().run(() => redis.client.ping()), { code: CIRCUIT_OPEN })
  const asked = guard.run(() => redis.client.ping())
  // As on a reconnection.
  redis.client.emit('ready')
  await redis.clock.advance(20)
  t.equal(await asked, 'PONG')
})
