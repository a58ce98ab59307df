import t from 'tap'
import Fastify from 'fastify'
import { lock, type LockPluginOptions } from '../../plugins/lock/index.js'
import { createMemoryStore } from '../../plugins/lock/memory-store.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { forEachStore, sharedRedis } from '../helpers/index.js'
import { connect, openLocks } from '../helpers/lock/lock-app.js'
import { testLocks } from '../helpers/lock/lock-contract.js'
import { heapInUse } from '../helpers/timing/heap.js'

const server = await sharedRedis()

forEachStore(['memory', 'redis', 'cluster'], store => testLocks(t, store))

t.test('a bad option is refused at registration and at each call, and names itself', async t => {
  const invalid = { code: 'FST_REDIS_SUITE_LOCK_INVALID_OPTION' }
  const client = connect(t, server.url)
  for (const options of [
    { ttl: 99 }, { ttl: '2 days' }, { ttl: 'soon' }, { wait: -1 }, { retryDelay: 1 }, { clockDrift: 0.6 }, { timeout: 0 }, { extend: 'yes' }, { tll: 5 }, { clock: Date },
    { nodes: [client, client, client] }, { nodes: [client] }, { nodes: 3 }, { redis: client, nodes: [client] }, { redis: 'redis://' }
  ]) {
    const [name = ''] = Object.keys(options)
    await t.rejects(async () => { await Fastify().register(lock, options as LockPluginOptions) }, { ...invalid, message: new RegExp(`"${name}"`) }, name)
  }
  const { locks } = await openLocks(t, 'memory')
  for (const resource of ['', [], ['a', 'a'], [''], 5, undefined]) await t.rejects(locks.acquire(resource as string), invalid, JSON.stringify(resource))
  await t.rejects(locks.acquire('a', { tll: 5 } as object), { ...invalid, message: /"tll"/ })
  await t.rejects(locks.acquire('a', { signal: {} as AbortSignal }), { ...invalid, message: /"signal"/ })
  await t.rejects(locks.using('a', 'fn' as unknown as () => void), { ...invalid, message: /"fn"/ })
  t.equal(await locks.isLocked('a'), false)
})

t.test('without Redis the log says once that locks hold in this process only', async t => {
  const { lines } = await openLocks(t, 'memory')
  t.equal(lines.filter(({ plugin }) => plugin === 'lock').length, 1)
})

t.test('in memory, locks that ended by their ttl take no memory, also behind one that stands for long', async t => {
  const clock = createTestClock()
  const store = createMemoryStore({ call () {}, callAll () {} }, clock)
  await store.take('long', 'owner', 86_400_000, 0)
  const before = heapInUse()
  for (let i = 0; i < 50_000; i++) await store.take(`short-${i}`, 'owner', 0, 0)
  const grown = heapInUse() - before
  t.ok(grown < 2_000_000, `${grown} bytes`)
  t.equal(await store.isLocked('long'), true)
})
