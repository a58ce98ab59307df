import t from 'tap'
import { startRedis, until, type RedisServer } from '../helpers/index.js'
import { connect, openLocks, startNodes, type LockAppOptions } from '../helpers/lock/lock-app.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

const REAL: LockAppOptions = { clock: 'real', timeout: 200 }
const UNAVAILABLE = { code: 'FST_REDIS_SUITE_LOCK_STORE_UNAVAILABLE', statusCode: 503 }
const LOST = { code: 'FST_REDIS_SUITE_LOCK_LOST', statusCode: 503 }
const LOCKED = { code: 'FST_REDIS_SUITE_LOCK_LOCKED' }
/** See docs/plugins/redis.md, "How an outage differs from a stall". */
const PATIENCE = 2000
const server = await startRedis()
const sleep = async (ms: number) => await new Promise(resolve => setTimeout(resolve, ms))
const aborted = async (signal: AbortSignal) => { if (!signal.aborted) await new Promise(resolve => signal.addEventListener('abort', resolve)) }

t.test('while Redis hangs or is unreachable a caller is refused within the timeout', async t => {
  const { span } = await startHeartbeat(t)
  const { locks } = await openLocks(t, server, REAL)
  await locks.using('a', () => {})
  for (const [break_, mend] of [[() => server.pause(), () => server.resume()], [() => server.kill(), () => server.restart()]] as const) {
    await break_()
    for (let i = 0; i < 8; i++) {
      const sinceAsked = span()
      await t.rejects(locks.using('a', () => 'inside'), UNAVAILABLE)
      await sinceAsked.withinPatiently(400, PATIENCE, 'the refusal')
    }
    await mend()
    await until('locks are available again', async () => await locks.using('a', { wait: 0 }, () => true))
  }
})

t.test('while Redis hangs, the signal of a lock aborts before its ttl has passed', async t => {
  const { span } = await startHeartbeat(t)
  const { locks } = await openLocks(t, server, { ...REAL, timeout: 100 })
  const handle = await locks.acquire('a', { ttl: 500, extend: true })
  const sinceTaken = span()
  server.pause()
  await aborted(handle.signal)
  await sinceTaken.within(520, 'the signal')
  t.match(handle.signal.reason, LOST)
  server.resume()
})

t.test('a waiting caller is refused when its wait is over', async t => {
  const { span } = await startHeartbeat(t)
  const { locks } = await openLocks(t, server, { ...REAL, timeout: 1000 })
  await using first = await locks.acquire('wait', { ttl: '1 minute' })
  const sinceAsked = span()
  await t.rejects(locks.acquire('wait', { wait: 300 }), LOCKED)
  const { elapsed } = await sinceAsked.judge()
  t.ok(elapsed >= 299, `after ${elapsed} ms`)
  await sinceAsked.within(400, 'the refusal')
  t.equal(first.isHeld, true)
})

t.test('without notifications a waiter gets the lock within retryDelay', async t => {
  const { span } = await startHeartbeat(t)
  const own = await startRedis({ acl: ['app on nopass ~* resetchannels +@all'] })
  const client = connect(t, `redis://app:x@127.0.0.1:${own.port}`)
  const { locks } = await openLocks(t, 'memory', { ...REAL, timeout: 500, redis: client })
  const first = await locks.acquire('a')
  const second = locks.acquire('a')
  await until('the second caller is queued', async () => await own.client().zcard('fastify:lock:line:{a}') === 1)
  await own.client().script('FLUSH')
  const sinceReleased = span()
  t.equal(await first.release(), true)
  t.equal(await (await second).release(), true)
  await sinceReleased.within(500, 'the lock')
})

t.test('notified waiters on five instances get the lock at once, long before they would poll', async t => {
  const { span } = await startHeartbeat(t)
  const { all, prefix, keyOf } = await openLocks(t, server, { ...REAL, timeout: 1000, retryDelay: 5000, instances: 5 })
  const first = await all[0]?.acquire('line')
  const waiting: Array<Promise<void>> = []
  for (const [i, locks] of all.entries()) {
    waiting.push(locks.using('line', () => {}))
    await until('the caller is queued', async () => await server.client().zcard(keyOf('line', 'line')) === i + 1)
  }
  await until('each instance is subscribed', async () => (await server.client().pubsub('NUMSUB', `${prefix}:lock:calls:`))[1] === all.length)
  const sinceReleased = span()
  await first?.release()
  await Promise.all(waiting)
  await sinceReleased.within(500, 'five sections')
})

t.test('one node of three that hangs delays neither a lock nor its release', async t => {
  const { span } = await startHeartbeat(t)
  const nodes = await startNodes() as [RedisServer, RedisServer, RedisServer]
  const { locks } = await openLocks(t, nodes, REAL)
  await locks.using('a', () => {})
  nodes[0].pause()
  const sinceAsked = span()
  const isAborted = await locks.using('a', { ttl: '1 minute' }, async signal => {
    await sleep(700)
    return signal.aborted
  })
  await sinceAsked.within(850, 'a section of 700 ms')
  t.equal(isAborted, false)
})

t.test('a section that ignores the signal delays the close no longer than its lock lasts', async t => {
  const { span } = await startHeartbeat(t)
  for (const store of ['memory', 'redis', 'quorum'] as const) {
    const { app, locks } = await openLocks(t, store, { ...REAL, timeout: 1000 })
    let begin = () => {}
    const begun = new Promise<void>(resolve => { begin = resolve })
    const section = locks.using('a', { ttl: 300 }, async () => {
      begin()
      await sleep(1000)
    })
    const rejected = t.rejects(section, { code: /CLOSED|LOST/ })
    await begun
    const sinceClosing = span()
    await app.close()
    await sinceClosing.within(500, `${store}: the app is closed`)
    await rejected
  }
})
