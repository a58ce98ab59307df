// Semaphores: at most `permits` callers at once, on all instances together.
import t, { type Test } from 'tap'
import type { Semaphore, SemaphoreOptions } from '../../plugins/lock/index.js'
import { advanceUntil, advanceWhile, createTestApp, forEachStore, startRedis, until, type StoreName } from '../helpers/index.js'
import { createGate, upTo } from '../helpers/cache/factories.js'
import { openLocks, startNodes } from '../helpers/lock/lock-app.js'

const HOUR = 3_600_000
const code = (what: string) => ({ code: `FST_REDIS_SUITE_LOCK_${what}` })
const turn = async () => await new Promise(resolve => setImmediate(resolve))

async function open (t: Test, store: StoreName, options: SemaphoreOptions, instances = 1) {
  const { all, clock, client, prefix } = await openLocks(t, store, { instances })
  const semaphores = all.map(locks => locks.semaphore('work', options))
  return { semaphores, semaphore: semaphores[0] as Semaphore, clock, client, prefix }
}

forEachStore(['memory', 'redis', 'cluster'], store => {
  const several = store === 'memory' ? 1 : 3
  const promise = (text: string, test: (t: Test) => Promise<unknown>) => t.test(`${store}: ${text}`, test)

  promise('concurrent callers never take more than all permits, use all of them, and all get theirs', async t => {
    const { semaphores, clock } = await open(t, store, { permits: 4 }, several)
    const seen = { inside: 0, most: 0, done: 0 }
    const callers = upTo(60).map(async i => {
      const weight = 1 + i % 3
      return await semaphores[i % several]!.using({ weight }, async () => {
        seen.inside += weight
        seen.most = Math.max(seen.most, seen.inside)
        for (let turns = 0; turns < 3; turns++) await turn()
        seen.inside -= weight
        return ++seen.done
      })
    })
    const { value } = await advanceWhile(clock, Promise.all(callers), { step: 25, atMost: HOUR })
    t.same({ ...seen, answers: value.length }, { inside: 0, most: 4, done: 60, answers: 60 })
    t.equal(await semaphores[0]!.available(), 4)
  })

  promise('callers get permits in the order in which they asked, also one that needs many', async t => {
    const { semaphore, clock, client, prefix } = await open(t, store, { permits: 3 })
    const first = await semaphore.acquire({ weight: 2 })
    const order: string[] = []
    const asked: Array<Promise<void>> = []
    for (const [name, weight] of [['all', 3], ['one', 1], ['two', 2], ['another', 1]] as const) {
      asked.push(semaphore.using({ weight }, async () => { order.push(name) }))
      if (store === 'memory') await turn()
      else await until(`${name} waits`, async () => await client().zcard(`${prefix}:lock:waiters:{work}`) === asked.length)
    }
    t.same(order, [], 'a permit is free, but the first of them needs three')
    await first.release()
    await advanceWhile(clock, Promise.all(asked), { step: 25, atMost: HOUR })
    t.same(order, ['all', 'one', 'two', 'another'])
  })

  promise('permits of a holder that died are free after its ttl, and not before', async t => {
    const { semaphores, clock } = await open(t, store, { permits: 2, ttl: '10s' }, several)
    const [dead, alive] = [await semaphores[0]!.acquire(), await semaphores.at(-1)!.acquire({ extend: true })]
    t.equal(await semaphores[0]!.available(), 0)
    await t.rejects(semaphores[0]!.acquire({ wait: 0 }), { ...code('LOCKED'), statusCode: 423 })
    const { value: next, passed } = await advanceWhile(clock, semaphores[0]!.acquire({ wait: '1m' }), { step: 100, atMost: HOUR })
    t.ok(passed >= 9500 && passed <= 11_000, `after ${passed} ms of 10,000`)
    t.same([dead.isHeld, alive.isHeld, next.isHeld, dead.signal.aborted, alive.signal.aborted], [false, true, true, true, false])
    t.equal(await dead.release(), false, 'it takes nothing from the next holder')
    t.equal(await semaphores[0]!.available(), 0)
    await Promise.all([alive.release(), next.release()])
    t.equal(await semaphores[0]!.available(), 2)
  })

  promise('a caller that gives up leaves the queue, and a section is extended while it runs', async t => {
    const { semaphore, clock } = await open(t, store, { permits: 1, ttl: '9s' })
    const gate = createGate()
    const running = semaphore.using(async signal => {
      await gate.opened
      return signal.aborted
    })
    const controller = new AbortController()
    const aborted = t.rejects(semaphore.using({ signal: controller.signal, weight: 1 }, () => 'no'), { message: 'enough' })
    for (let i = 0; i < 5; i++) await clock.advance('3s')
    controller.abort(new Error('enough'))
    await advanceWhile(clock, aborted)
    gate.open()
    t.equal((await advanceWhile(clock, running)).value, false, 'it lasted 15 s')
    t.equal((await advanceWhile(clock, semaphore.using(() => 'next'), { step: 100, atMost: HOUR })).value, 'next')
  })

  promise('what cannot be used is refused, and the error says what', async t => {
    const { locks } = await openLocks(t, store)
    for (const options of [{}, { permits: 0 }, { permits: 1.5 }, { permits: 1e9 }, { permits: 1, ttl: 5 }, { permits: 1, limit: 5 }, { permits: 1, signal: AbortSignal.abort() }]) {
      t.throws(() => locks.semaphore('a', options as never), code('INVALID_OPTION'), JSON.stringify(options))
    }
    t.throws(() => locks.semaphore('', { permits: 1 }), code('INVALID_OPTION'))
    const semaphore = locks.semaphore('a', { permits: 2 })
    for (const request of [{ weight: 0 }, { weight: 3 }, { weigth: 1 }]) await t.rejects(semaphore.acquire(request as never), code('INVALID_OPTION'), JSON.stringify(request))
    await t.rejects(semaphore.using('fn' as never), code('INVALID_OPTION'))
    t.equal(await semaphore.available(), 2)
  })
})

t.test('permits that Redis lost abort the signal of their holder', async t => {
  const { semaphore, clock, client, prefix } = await open(t, 'redis', { permits: 2, ttl: '9s' })
  const lost = await semaphore.acquire({ extend: true })
  await client().del(`${prefix}:lock:permits:{work}`)
  await advanceUntil(clock, 'it is aborted', () => lost.signal.aborted)
  t.match(lost.signal.reason, code('LOST'))
})

t.test('a waiter is called when permits are given back, and does not wait for its next attempt', async t => {
  const { semaphores, clock, client, prefix } = await open(t, 'redis', { permits: 1, retryDelay: '1m' }, 2)
  const held = await semaphores[0]!.acquire()
  const waiting = semaphores[1]!.acquire()
  // The first attempt subscribes.
  await until('it has subscribed', async () => (await client().call('PUBSUB', 'CHANNELS', `${prefix}:lock:*`) as unknown[]).length === 1)
  await held.release()
  const { value, passed } = await advanceWhile(clock, waiting, { step: 10, atMost: HOUR })
  t.ok(value.isHeld)
  t.ok(passed < 1000, `after ${passed} ms, and not after half a minute`)
})

t.test('while Redis is down permits are refused with 503, and sections that run go on until their lease ends', async t => {
  const server = await startRedis()
  const { app } = await createTestApp(t, { store: { url: server.url, answers: true }, clock: 'real', plugins: { lock: { timeout: 200 } } })
  const semaphore = app.locks.semaphore('work', { permits: 2 })
  const held = await semaphore.acquire({ ttl: '1m' })
  await server.kill()
  await t.rejects(semaphore.acquire(), { ...code('STORE_UNAVAILABLE'), statusCode: 503 })
  await t.rejects(semaphore.available(), code('STORE_UNAVAILABLE'))
  t.equal(held.isHeld, true)
})

t.test('with a quorum of nodes semaphores are refused', async t => {
  const { locks } = await openLocks(t, await startNodes())
  t.throws(() => locks.semaphore('a', { permits: 1 }), code('NO_QUORUM'))
})

t.test('every key has a TTL', async t => {
  const { semaphore, client, prefix } = await open(t, 'redis', { permits: 1, ttl: '1m' })
  const held = await semaphore.acquire()
  const waiting = semaphore.acquire().catch(() => {})
  const keys = async () => await client().keys(`${prefix}:lock:*`)
  await until('both are stored', async () => (await keys()).length === 4)
  for (const key of await keys()) t.ok(await client().pttl(key) > 0, key)
  await held.release()
  await waiting
})
