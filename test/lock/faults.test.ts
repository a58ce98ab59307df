import { Redis } from 'ioredis'
import t from 'tap'
import { Waiters } from '../../plugins/lock/waiters.js'
import { HeldLockHandle } from '../../plugins/lock/held-lock.js'
import type { Locks } from '../../plugins/lock/index.js'
import { Locker } from '../../plugins/lock/locker.js'
import { createMemoryStore } from '../../plugins/lock/memory-store.js'
import { resolvePluginOptions } from '../../plugins/lock/options.js'
import { releaseScript } from '../../plugins/lock/scripts.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { advanceUntil, advanceWhile, closeApp, createTestApp, sharedRedis, startProxy, startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { CERTAIN_MS, connect, openLocks, startNodes } from '../helpers/lock/lock-app.js'

const HOUR = 3_600_000
const UNAVAILABLE = { code: 'FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE', statusCode: 503 }
const LOST = { code: 'FST_REDIS_SUITE_LOCK_LOST', statusCode: 503 }
const LOCKED = { code: 'FST_REDIS_SUITE_LOCK_LOCKED' }
const own = await startRedis()
const shared = (await sharedRedis()).client()

t.test('during an outage no caller acquires a lock: 503 within the timeout, and recovery after it', async t => {
  const { locks, clock } = await openLocks(t, own, { timeout: 200 })
  await locks.using('a', () => {})
  for (const [break_, mend] of [[() => own.pause(), () => own.resume()], [() => own.kill(), () => own.restart()]] as const) {
    await break_()
    const refusals: unknown[] = []
    for (let i = 0; i < 8; i++) {
      const { value, passed } = await advanceWhile(clock, locks.using('a', () => 'inside').catch((error: unknown) => error))
      t.match(value, UNAVAILABLE)
      refusals.push(passed)
    }
    t.same(refusals.filter(passed => Number(passed) > 220), [], 'each within the timeout')
    const { value } = await advanceWhile(clock, locks.isLocked('a').catch((error: unknown) => error))
    t.match(value, UNAVAILABLE)
    await mend()
    await advanceUntil(clock, 'locks are available again', async () => await locks.using('a', { wait: 0 }, () => true).catch(() => false))
  }
})

t.test('a Redis that refuses locks is logged once with its reason, which is the cause of the error', async t => {
  const acl = (rule: string) => own.client().call('ACL', 'SETUSER', 'default', rule)
  const memory = (bytes: string) => own.client().config('SET', 'maxmemory', bytes)
  const refusals: Array<[name: string, reason: RegExp, begin: () => Promise<unknown>, end: () => Promise<unknown>]> = [
    ['no permission for scripts', /permission/, () => acl('-@scripting'), () => acl('+@scripting')],
    ['out of memory', /maxmemory/, () => memory('1'), () => memory('0')],
    ['read-only', /READONLY/, () => own.client().replicaof('127.0.0.1', 1), () => own.client().replicaof('NO', 'ONE')]
  ]
  for (const [name, reason, begin, end] of refusals) {
    const { locks, lines } = await openLocks(t, own)
    const said = () => lines.filter(line => line['plugin'] === 'lock')
    await begin()
    for (let i = 0; i < 3; i++) {
      const error: unknown = await locks.using('a', () => 'inside').catch((thrown: unknown) => thrown)
      t.match(error, { ...UNAVAILABLE, message: 'lock: the store of locks is unavailable; try again later', cause: { message: reason } }, name)
      t.same(Object.keys((error as { cause: object }).cause), [], `${name}: no arguments of a command`)
    }
    t.match(said(), [{ level: 40, reason, msg: 'lock: Redis refuses locks' }], name)
    t.equal(said().length, 1, `${name}: once`)
    await end()
    // After READONLY a client reconnects, which breaks what it has just sent.
    await until(`${name}: it is over`, async () => await locks.using('a', () => true).catch(() => false))
    t.equal(await locks.using('a', () => 'inside'), 'inside', name)
    t.match(said().slice(1), [{ level: 30, msg: 'lock: Redis accepts locks again' }], name)
  }
})

t.test('the error of an outage has the outage as its cause', async t => {
  const { locks, clock } = await openLocks(t, own, { timeout: 200 })
  own.pause()
  const { value } = await advanceWhile(clock, locks.using('a', () => {}).catch((error: unknown) => error))
  t.match(value, { ...UNAVAILABLE, cause: { message: /no answer within 200 ms/ } })
  own.resume()
})

t.test('extending a released lock fails with an error that says so', async t => {
  for (const store of ['memory', 'redis'] as const) {
    const { locks } = await openLocks(t, store)
    const held = await locks.acquire('a')
    await held.release()
    await t.rejects(held.extend(), { code: 'FST_REDIS_SUITE_LOCK_RELEASED', message: /was released/ }, store)
  }
})

t.test('if Redis restarts empty while a lock is held, the signal aborts, the section rejects, and the next token is higher', async t => {
  const { app, locks, lines, clock } = await openLocks(t, own)
  let first = 0
  const section = locks.using('a', async (signal, { token }) => {
    first = token
    await own.restart()
    await until('Redis is back', async () => await app.redis.ping() === 'PONG')
    await clock.advance(HOUR / 3)
    await until('the signal aborts', () => signal.aborted)
    t.match(signal.reason, { ...LOST, message: /Redis does not have it any more/ })
    return 'mistaken'
  })
  await t.rejects(section, LOST)
  t.ok(await locks.using('a', (_signal, { token }) => token) > first)
  t.equal(lines.filter(({ msg }) => msg === 'lock: lost').length, 1)
})

t.test('a lock survives a restart of a Redis that keeps its data', async t => {
  const durable = await startRedis({ appendonly: true })
  const { app, locks, clock } = await openLocks(t, durable)
  const isAborted = await locks.using('a', async (signal, lock) => {
    await durable.restart()
    await until('Redis is back', async () => await app.redis.ping() === 'PONG')
    for (let third = 0; third < 6; third++) {
      await clock.advance(HOUR / 3)
      await until('the lock is extended', () => lock.expiresAt === clock.now() + CERTAIN_MS)
    }
    return signal.aborted
  })
  t.equal(isAborted, false)
})

t.test('if Redis hangs for longer than the ttl, the signal aborts before the lock expires in Redis', async t => {
  const { locks, clock, keyOf } = await openLocks(t, own, { timeout: 100 })
  const handle = await locks.acquire('hangs', { extend: true })
  own.pause()
  await clock.advance(CERTAIN_MS - 1)
  t.equal(handle.signal.aborted, false)
  await clock.advance(1)
  t.equal(handle.signal.aborted, true, 'before the hour is over')
  t.match(handle.signal.reason, { ...LOST, message: /was not extended in time/ })
  own.resume()
  t.equal(await own.client().exists(keyOf('held', 'hangs')), 1, 'it ends later there')
})

t.test('a short hang does not lose the lock, as the extension is repeated', async t => {
  const { locks, clock } = await openLocks(t, own, { timeout: 100 })
  await using handle = await locks.acquire('a', { extend: true })
  own.pause()
  await clock.advance(HOUR / 3 + 1000)
  own.resume()
  t.equal(handle.expiresAt, clock.now() - HOUR / 3 - 1000 + CERTAIN_MS, 'no extension was answered in time')
  await clock.advance(HOUR / 20)
  await until('the lock is extended', () => handle.expiresAt > clock.now() + CERTAIN_MS - 2000)
  t.equal(handle.isHeld, true)
})

t.test('a reply that arrives after the timeout leaves no lock behind', async t => {
  const { locks, clock } = await openLocks(t, own, { timeout: 100 })
  await locks.isLocked('late')
  own.pause()
  const { value } = await advanceWhile(clock, locks.acquire('late').catch((error: unknown) => error))
  t.match(value, UNAVAILABLE)
  own.resume()
  await until('the lock is free', async () => !await locks.isLocked('late'))
})

t.test('a lock whose ttl passed before this process read the reply is requested again, even with wait 0', async t => {
  const { locks, clock } = await openLocks(t, own)
  await locks.isLocked('stalled')
  own.pause()
  const acquiring = locks.acquire('stalled', { wait: 0 })
  await clock.advance(2 * HOUR)
  own.resume()
  const handle = await acquiring
  t.equal(handle.isHeld, true)
  t.equal(handle.expiresAt, clock.now() + CERTAIN_MS)
  t.equal(await handle.release(), true)
})

t.test('a store whose replies all take longer than the ttl grants no lock: 503 after the wait, and after at least three attempts', async t => {
  const clock = createTestClock()
  const waiters = new Waiters(clock)
  const memory = createMemoryStore(waiters, clock)
  let attempts = 0
  const store: typeof memory = {
    ...memory,
    async acquire (...args) {
      attempts++
      const result = await memory.acquire(...args)
      await clock.advance(1000)
      return result
    }
  }
  const { logger: log } = collectLog()
  const locker = new Locker({ ...resolvePluginOptions({ ttl: 1000, clock }), timeout: 150, store, waiters, log: log as never })
  for (const [wait, expected] of [[0, 3], [10_000, 10]] as const) {
    attempts = 0
    await t.rejects(locker.acquire('a', { wait }), UNAVAILABLE)
    t.equal(attempts, expected)
    t.equal(await memory.isLocked('a'), false)
  }
})

t.test('after a stall, replies that have arrived are read before the lock counts as lost', async t => {
  const clock = createTestClock()
  let answer = () => {}
  const memory = createMemoryStore(new Waiters(clock), clock)
  const store = { ...memory, extend: async () => await new Promise<boolean>(resolve => { answer = () => resolve(true) }) }
  const open = () => {
    const lost: Error[] = []
    const holding = new HeldLockHandle({ resources: ['a'], store, clock, ttl: HOUR, clockDrift: 0.01, extend: true, onLost: error => { lost.push(error) }, onReleased: () => {} })
    holding.add('a', 'owner', 1, clock.monotonic())
    holding.complete()
    return { holding, lost }
  }
  // An immediate that is set before the timers fire stands for the poll phase, which also follows the timers.
  for (const isAnswered of [true, false]) {
    const { holding, lost } = open()
    await clock.advance(HOUR / 3)
    await clock.advance(CERTAIN_MS - HOUR / 3 - 1)
    const stop = clock.onStep(() => { if (isAnswered) setImmediate(answer) })
    await clock.advance(1)
    stop()
    t.equal(lost.length, isAnswered ? 0 : 1, isAnswered ? 'extended' : 'lost')
    t.equal(holding.isHeld, isAnswered)
    t.equal(holding.signal.aborted, !isAnswered)
    answer()
    await holding.release()
  }
})

t.test('only the owner releases a lock: a caller that lost its lock does not release that of the next holder', async t => {
  const { locks, keyOf } = await openLocks(t, 'redis')
  const first = await locks.acquire('owner')
  await shared.del(keyOf('held', 'owner'))
  const second = await locks.acquire('owner', { wait: 0 })
  t.equal(await first.release(), false)
  await t.rejects(locks.acquire('owner', { wait: 0 }), LOCKED)
  t.equal(await second.release(), true)
})

t.test('a section whose lock was deleted rejects, even if it returned before any extension', async t => {
  const { locks, keyOf } = await openLocks(t, 'redis')
  await t.rejects(locks.using('taken', async () => { await shared.del(keyOf('held', 'taken')) }), LOST)
  await t.rejects(locks.using('taken', async () => {
    await shared.del(keyOf('held', 'taken'))
    throw new Error('mine')
  }), { message: 'mine' })
})

t.test('a section whose release took effect, but was not confirmed because the connection broke, returns its result', async t => {
  const { port } = await sharedRedis()
  const proxy = await startProxy(port)
  const { app: { locks }, prefix } = await createTestApp(t, { store: { url: `redis://127.0.0.1:${proxy.port}` }, plugins: { lock: { timeout: '1h', wait: '1h' } } })
  // The script is loaded, so that it is called by its digest.
  await locks.using('confirmed', () => {})
  proxy.breakAt(releaseScript.sha1)
  t.equal(await locks.using('confirmed', () => 'done'), 'done')
  t.same(await shared.keys(`${prefix}:lock:held:*`), [])
  const handle = await locks.acquire('confirmed')
  proxy.breakAt(releaseScript.sha1)
  await t.rejects(handle.release(), UNAVAILABLE, 'whether it was held until then is not known')
  t.equal(await locks.using('confirmed', { wait: 0 }, () => 'next'), 'next')
})

t.test('flushed scripts and missed notifications delay a waiter by at most retryDelay', async t => {
  const server = await startRedis({ acl: ['app on nopass ~* resetchannels +@all'] })
  const client = connect(t, `redis://app:x@127.0.0.1:${server.port}`)
  const { locks, clock } = await openLocks(t, 'memory', { redis: client, retryDelay: 1000 })
  const first = await locks.acquire('a')
  const second = locks.acquire('a')
  await until('the second caller is queued', async () => await server.client().zcard('fastify:lock:line:{a}') === 1)
  // Sent after the first attempt, and so executed after it.
  await locks.isLocked('a')
  await server.client().script('FLUSH')
  t.equal(await first.release(), true)
  await clock.advance(1000)
  t.equal(await (await second).release(), true)
})

t.test('notified waiters get the lock at once, in the order of their arrival', async t => {
  const { all, clock, prefix, keyOf } = await openLocks(t, 'redis', { instances: 5 })
  const first = await all[0]?.acquire('line')
  const order: number[] = []
  const waiting: Array<Promise<void>> = []
  for (const [i, locks] of all.entries()) {
    waiting.push(locks.using('line', () => { order.push(i) }))
    await until('the caller is queued', async () => await shared.zcard(keyOf('line', 'line')) === i + 1)
    await clock.advance(1)
  }
  const channel = `${prefix}:lock:calls:`
  await until('each instance is subscribed', async () => (await shared.pubsub('NUMSUB', channel))[1] === all.length)
  const before = clock.monotonic()
  await first?.release()
  await Promise.all(waiting)
  t.same(order, [0, 1, 2, 3, 4])
  t.equal(clock.monotonic(), before, 'no timer was needed')
})

t.test('if a waiting instance dies, the next waiter gets the lock once the TTL of the first in the queue has passed', async t => {
  const { apps, all, clock, keyOf } = await openLocks(t, 'redis', { instances: 3, timeout: '1 minute', retryDelay: '30s' })
  const [one, two, three] = all as [Locks, Locks, Locks]
  const first = await one.acquire('line', { ttl: '1 day' })
  const inLine = async () => await shared.zcard(keyOf('line', 'line'))
  const gone = t.rejects(two.acquire('line', { wait: '5 minutes' }))
  await until('the caller is queued', async () => await inLine() === 1)
  await clock.advance(1)
  const second = three.acquire('line')
  await until('the next caller is queued', async () => await inLine() === 2)
  apps[1]?.redis.disconnect()
  await first.release()
  t.equal(await shared.exists(keyOf('held', 'line')), 1, 'it is handed to the one that is gone')
  const { value: handle } = await advanceWhile(clock, second, { step: 1000, atMost: 600_000 })
  t.equal(handle.isHeld, true)
  t.equal(await handle.release(), true)
  await advanceWhile(clock, gone, { step: 1000, atMost: 600_000 })
})

t.test('every key has a TTL, and only the fence outlives the lock', async t => {
  const { locks, clock, prefix, keyOf } = await openLocks(t, 'redis')
  const endless: string[] = []
  const sections = Array.from({ length: 5 }, () => locks.using('a', async () => {
    for (const key of await shared.keys(`${prefix}:*`)) if (await shared.pttl(key) === -1) endless.push(key)
  }))
  await advanceWhile(clock, Promise.all(sections), { step: 25 })
  t.same(endless, [])
  t.same(await shared.keys(`${prefix}:*`), [keyOf('fence', 'a')])
  const ttl = await shared.pttl(keyOf('fence', 'a'))
  t.ok(ttl > HOUR && ttl <= 2 * HOUR, `${ttl} ms: an hour longer than the lock`)
})

t.test('a token is above the last one even if the clock was set back, and above tokens that Redis has lost', async t => {
  const { locks, clock, keyOf } = await openLocks(t, 'redis')
  const ahead = (clock.now() + 60_000) * 1000
  await shared.set(keyOf('fence', 'clock'), ahead)
  t.equal(await locks.using('clock', (_signal, { token }) => token), ahead + 1)
  await shared.del(keyOf('fence', 'clock'))
  t.equal(await locks.using('clock', (_signal, { token }) => token), clock.now() * 1000)
})

t.test("without a test clock the time in tokens is Redis's own", async t => {
  const { locks } = await openLocks(t, 'redis', { clock: 'real', timeout: '1 minute', ttl: '1 minute' })
  const redisTime = async () => (await shared.time()).reduce((sum, part, i) => sum + Number(part) * (i === 0 ? 1_000_000 : 1), 0)
  const before = await redisTime()
  const token = await locks.using('time', (_signal, { token }) => token)
  const after = await redisTime()
  t.ok(before <= token && token <= after, `${before} <= ${token} <= ${after}`)
})

t.test('a closed client leaves no timer and no connection', async t => {
  const client = new Redis(own.url)
  const { app, locks, clock } = await openLocks(t, 'memory', { redis: client })
  const first = await locks.acquire('closing')
  const waiting = t.rejects(locks.acquire('closing'), { code: 'FST_REDIS_SUITE_LOCK_CLOSED' })
  await until('the store is subscribed', async () => String(await own.client().client('LIST')).includes('cmd=subscribe'))
  await closeApp(app, clock)
  await waiting
  t.equal(first.isHeld, false)
  await client.quit()
  await until('no connection is left', async () => !String(await own.client().client('LIST')).includes('cmd=subscribe'))
  t.equal(clock.pendingTimers, 0)
})

t.test('a caller that stops waiting, for any reason, leaves no lock behind', async t => {
  const { locks } = await openLocks(t, own)
  await using first = await locks.acquire('a')
  const refusal: unknown = await locks.acquire('a', { wait: 0 }).catch((error: unknown) => error)
  t.match(refusal, LOCKED)
  const stop = new AbortController()
  own.pause()
  const second = t.rejects(locks.acquire('b', { signal: stop.signal }), LOCKED)
  stop.abort(refusal)
  own.resume()
  await second
  await until('the lock is free', async () => !await locks.isLocked('b'))
  t.equal(first.isHeld, true)
})

t.test('a caller that is refused after the close of the app opens no connection', async t => {
  const server = await startRedis()
  const { locks } = await openLocks(t, 'memory', { redis: connect(t, server.url) })
  await locks.acquire('a')
  const { app, locks: late, clock } = await openLocks(t, 'memory', { redis: connect(t, server.url) })
  await late.isLocked('a')
  server.pause()
  const waiting = t.rejects(late.acquire('a'), { code: 'FST_REDIS_SUITE_LOCK_CLOSED' })
  await closeApp(app, clock)
  server.resume()
  await waiting
  await server.client().ping()
  // A connection of the plugin would be opened before this one.
  await connect(t, server.url).ping()
  t.notMatch(await server.client().client('LIST'), /sub=1/)
})

t.test('a job that ended while Redis was unavailable is recorded as done when Redis is back', async t => {
  const { all: [locks, other], clock } = await openLocks(t, own, { instances: 2, timeout: 200 })
  const period = { every: '1 day', tick: 1 } as const
  let runs = 0
  let isPaused = false
  const job = locks?.once('report', period, async () => {
    runs++
    own.pause()
    isPaused = true
  })
  await until('the job has ended', () => isPaused)
  await clock.advance(500)
  own.resume()
  t.equal((await advanceWhile(clock, job ?? Promise.reject(new Error('no instance')))).value, 'ran')
  t.equal(await other?.once('report', period, () => { runs++ }), 'done')
  t.equal(runs, 1)
})

t.test('a job is not run while Redis is unavailable: the call rejects with 503', async t => {
  const { locks, clock } = await openLocks(t, own, { timeout: 200 })
  own.pause()
  let runs = 0
  const { value } = await advanceWhile(clock, locks.once('report', { every: '1h' }, () => { runs++ }).catch((error: unknown) => error))
  own.resume()
  t.match(value, UNAVAILABLE)
  t.equal(runs, 0)
})

t.test('by quorum a job that one of the two nodes that reply has recorded is done', async t => {
  const nodes = await startNodes()
  const { locks, clock, prefix } = await openLocks(t, nodes, { timeout: 200 })
  const period = { every: '1h', tick: 1 } as const
  const haveRecord = async (name: string) => {
    const counts = await Promise.all(nodes.map(async node => await node.client().exists(`${prefix}:lock:done:{${name}}:1`)))
    return counts.every(count => count === 1)
  }
  // A majority is enough: a connection that is not ready yet misses the record.
  let calls = 0
  await until('all nodes take part', async () => {
    await locks.once(`early-${++calls}`, period, () => {})
    return await haveRecord(`early-${calls}`)
  })
  t.equal(await locks.once('report', period, () => {}), 'ran')
  const [first, , last] = nodes
  await until('all nodes have the record', async () => await haveRecord('report'))
  await first?.client().flushall()
  await last?.kill()
  t.equal((await advanceWhile(clock, locks.once('report', period, () => { throw new Error('again') }))).value, 'done')
})
