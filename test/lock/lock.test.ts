import t from 'tap'
import type { LockPluginOptions } from '../../plugins/lock/index.js'
import { startRedis } from '../helpers/index.js'
import { connect, openLocks } from '../helpers/lock/lock-app.js'
import { testLocks } from '../helpers/lock/lock-contract.js'

const server = await startRedis()

testLocks(t, 'memory', () => ({ redis: false }))
testLocks(t, 'Redis', t => ({ redis: connect(t, server.url) }))

t.test('a bad option is refused at registration and at each call, and names itself', async t => {
  const invalid = { code: 'FST_REDIS_SUITE_LOCK_INVALID_OPTION' }
  const client = connect(t, server.url)
  for (const options of [
    { ttl: 99 }, { ttl: '2 days' }, { ttl: 'soon' }, { wait: -1 }, { retryDelay: 1 }, { clockDrift: 0.6 }, { timeout: 0 }, { extend: 'yes' }, { tll: 5 },
    { nodes: [client, client, client] }, { nodes: [client] }, { nodes: 3 }, { redis: client, nodes: [client] }, { redis: 'redis://' }
  ]) {
    await t.rejects(openLocks(t, options as LockPluginOptions), invalid, JSON.stringify(Object.keys(options)))
  }
  const { locks } = await openLocks(t, { redis: false })
  for (const resource of ['', [], ['a', 'a'], [''], 5, undefined]) await t.rejects(locks.acquire(resource as string), invalid)
  await t.rejects(locks.acquire('a', { tll: 5 } as object), invalid)
  await t.rejects(locks.acquire('a', { signal: {} as AbortSignal }), invalid)
  await t.rejects(locks.using('a', 'fn' as unknown as () => void), invalid)
  t.equal(await locks.isLocked('a'), false)
})

t.test('without Redis the log says once that locks hold in this process only', async t => {
  const { lines } = await openLocks(t, {})
  t.equal(lines.filter(({ plugin }) => plugin === 'lock').length, 1)
})
