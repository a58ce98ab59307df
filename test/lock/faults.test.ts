import { setTimeout as sleep } from 'node:timers/promises'
import { Redis } from 'ioredis'
import t from 'tap'
import { startProxy, startRedis, until } from '../helpers/index.js'
import { connect, openLocks } from '../helpers/lock/lock-app.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
const UNAVAILABLE = { code: 'FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE', statusCode: 503 }
const LOST = { code: 'FST_REDIS_SUITE_LOCK_LOST', statusCode: 503 }
const LOCKED = { code: 'FST_REDIS_SUITE_LOCK_LOCKED' }
const aborted = async (signal: AbortSignal) => { if (!signal.aborted) await new Promise(resolve => signal.addEventListener('abort', resolve)) }

t.test('while Redis hangs or is gone nobody gets in: 503 within the timeout, and as before when it is back', async t => {
  const own = await startRedis()
  const { locks } = await openLocks(t, { redis: connect(t, own.url), timeout: 200 })
  await locks.using('a', () => {})
  for (const [break_, mend] of [[() => own.pause(), () => own.resume()], [() => own.kill(), () => own.restart()]] as const) {
    await break_()
    for (let i = 0; i < 8; i++) {
      const sinceStart = stopwatch()
      await t.rejects(locks.using('a', () => t.fail('inside')), UNAVAILABLE)
      t.ok(sinceStart() < 400)
    }
    await t.rejects(locks.isLocked('a'), UNAVAILABLE)
    await mend()
    await until('locks can be had again', async () => await locks.using('a', { wait: 0 }, () => true))
  }
})

t.test('a Redis that restarts empty while a lock is held: the signal aborts, the section is rejected, the next one has a higher token', async t => {
  const own = await startRedis()
  const { locks, lines } = await openLocks(t, { redis: connect(t, own.url), timeout: 200 })
  let first = 0
  const section = locks.using('a', { ttl: 600 }, async (signal, { token }) => {
    first = token
    await own.restart()
    await aborted(signal)
    t.match(signal.reason, LOST)
    return 'mistaken'
  })
  await t.rejects(section, LOST)
  await until('the next one is in', async () => await locks.using('a', async (_signal, { token }) => token > first))
  t.equal(lines.filter(({ msg }) => msg === 'lock: lost').length, 1)
})

t.test('a Redis that keeps what it had restarts while a lock is held: the lock stands', async t => {
  const own = await startRedis({ appendonly: true })
  const { locks } = await openLocks(t, { redis: connect(t, own.url), timeout: 200 })
  const result = await locks.using('a', { ttl: 3000 }, async signal => {
    await own.restart()
    await sleep(3500)
    return signal.aborted
  })
  t.equal(result, false)
})

t.test('a Redis that hangs for longer than the ttl: the signal aborts before the lock ends there', async t => {
  const own = await startRedis()
  const { locks } = await openLocks(t, { redis: connect(t, own.url), timeout: 100 })
  const handle = await locks.acquire('a', { ttl: 500, extend: true })
  const sinceTaken = stopwatch()
  own.pause()
  await aborted(handle.signal)
  t.ok(sinceTaken() < 520)
  t.match(handle.signal.reason, LOST)
  own.resume()
})

t.test('a short hang does not lose the lock: extension is tried again', async t => {
  const own = await startRedis()
  const { locks } = await openLocks(t, { redis: connect(t, own.url), timeout: 100 })
  await using handle = await locks.acquire('a', { ttl: 2000, extend: true })
  await sleep(500)
  own.pause()
  await sleep(800)
  own.resume()
  await sleep(1500)
  t.equal(handle.isHeld, true)
})

t.test('an answer that comes too late leaves no lock behind', async t => {
  const own = await startRedis()
  const proxy = await startProxy(own.port)
  const { locks } = await openLocks(t, { redis: connect(t, `redis://127.0.0.1:${proxy.port}`), timeout: 100 })
  await locks.isLocked('a')
  own.pause()
  await t.rejects(locks.acquire('a', { ttl: 60_000 }), UNAVAILABLE)
  own.resume()
  await until('it is free', async () => !await locks.isLocked('a'), 2000)
})

t.test('only the owner releases: who lost his lock does not release the next one\'s', async t => {
  const { locks } = await openLocks(t, { redis: connect(t, server.url), timeout: 1000 })
  const first = await locks.acquire('owner')
  await server.client().del('fastify:lock:held:{owner}')
  const second = await locks.acquire('owner', { wait: 0 })
  t.equal(await first.release(), false)
  await t.rejects(locks.acquire('owner', { wait: 0 }), LOCKED)
  t.equal(await second.release(), true)
})

t.test('a section whose lock was taken from it is rejected, though it returned before any extension', async t => {
  const { locks } = await openLocks(t, { redis: connect(t, server.url), timeout: 1000 })
  await t.rejects(locks.using('taken', async () => { await server.client().del('fastify:lock:held:{taken}') }), LOST)
  await t.rejects(locks.using('taken', async () => {
    await server.client().del('fastify:lock:held:{taken}')
    throw new Error('mine')
  }), { message: 'mine' })
})

t.test('scripts that are flushed, a user without channels, and messages that are lost make nobody wait for long', async t => {
  const own = await startRedis({ acl: ['app on nopass ~* resetchannels +@all'] })
  const { locks } = await openLocks(t, { redis: connect(t, `redis://app:x@127.0.0.1:${own.port}`), timeout: 500 })
  const first = await locks.acquire('a')
  const second = locks.acquire('a')
  await until('he stands in line', async () => await own.client().zcard('fastify:lock:line:{a}') === 1)
  await own.client().script('FLUSH')
  const sinceReleased = stopwatch()
  t.equal(await first.release(), true)
  t.equal(await (await second).release(), true)
  t.ok(sinceReleased() < 700)
})

t.test('who is called has the lock at once, in the order in which they came', async t => {
  const instances = await Promise.all(Array.from({ length: 5 }, () => openLocks(t, { redis: connect(t, server.url), timeout: 1000, retryDelay: 5000 })))
  const first = await instances[0]!.locks.acquire('line')
  const order: number[] = []
  const waiting: Array<Promise<void>> = []
  for (const [i, { locks }] of instances.entries()) {
    waiting.push(locks.using('line', () => { order.push(i) }))
    await until('he stands in line', async () => await server.client().zcard('fastify:lock:line:{line}') === i + 1)
  }
  await sleep(100) // until the last one's subscription stands
  const sinceStart = stopwatch()
  await first.release()
  await Promise.all(waiting)
  t.same(order, [0, 1, 2, 3, 4])
  t.ok(sinceStart() < 1000)
})

t.test('every key has a TTL, and nothing but the fence is left', async t => {
  const own = await startRedis()
  const { locks } = await openLocks(t, { redis: connect(t, own.url), timeout: 1000 })
  await Promise.all(Array.from({ length: 5 }, () => locks.using('a', async () => {
    for (const key of await own.client().keys('*')) t.ok(await own.client().pttl(key) !== -1, key)
    await sleep(30)
  })))
  t.same(await own.client().keys('*'), ['fastify:lock:fence:{a}'])
  const ttl = await own.client().pttl('fastify:lock:fence:{a}')
  t.ok(ttl > 3_600_000 && ttl <= 3_610_000)
})

t.test('a token is above the last one also where the clock was set back, and above those that are forgotten', async t => {
  const { locks } = await openLocks(t, { redis: connect(t, server.url), timeout: 1000 })
  const key = 'fastify:lock:fence:{clock}'
  const ahead = (Date.now() + 60_000) * 1000
  await server.client().set(key, ahead)
  await locks.using('clock', (_signal, { token }) => t.equal(token, ahead + 1))
  await server.client().del(key)
  const now = Date.now() * 1000
  await locks.using('clock', (_signal, { token }) => t.ok(Math.abs(token - now) < 5_000_000))
})

t.test('a closed client leaves no timer and no connection', async t => {
  const client = new Redis(server.url)
  const { app, locks } = await openLocks(t, { redis: client, timeout: 200 })
  const first = await locks.acquire('closing')
  const waiting = t.rejects(locks.acquire('closing'), { code: 'FST_REDIS_SUITE_LOCK_CLOSED' })
  await sleep(50)
  await app.close()
  await waiting
  t.equal(first.isHeld, false)
  await client.quit()
  await until('no connection is left', async () => !String(await server.client().client('LIST')).includes('cmd=subscribe'))
})

t.test('who stops waiting, for whatever reason, leaves no lock behind', async t => {
  const own = await startRedis()
  const { locks } = await openLocks(t, { redis: connect(t, own.url), timeout: 5000 })
  await using first = await locks.acquire('a')
  const refusal: unknown = await locks.acquire('a', { wait: 0 }).catch((error: unknown) => error)
  t.match(refusal, LOCKED)
  const stop = new AbortController()
  own.pause()
  const second = t.rejects(locks.acquire('b', { ttl: 60_000, signal: stop.signal }), LOCKED)
  stop.abort(refusal)
  own.resume()
  await second
  await until('it is free', async () => !await locks.isLocked('b'), 2000)
  t.equal(first.isHeld, true)
})

t.test('who is refused after the app was closed opens no connection', async t => {
  const own = await startRedis()
  const { locks } = await openLocks(t, { redis: connect(t, own.url) })
  await locks.acquire('a', { ttl: 60_000 })
  const { app, locks: late } = await openLocks(t, { redis: connect(t, own.url), timeout: 5000 })
  await late.isLocked('a')
  own.pause()
  const waiting = t.rejects(late.acquire('a'), { code: 'FST_REDIS_SUITE_LOCK_CLOSED' })
  await app.close()
  own.resume()
  await waiting
  await own.client().ping()
  // It would be made before the one that is made here.
  await connect(t, own.url).ping()
  t.notMatch(await own.client().client('LIST'), /sub=1/)
})
