import { createServer, type AddressInfo } from 'node:net'
import Fastify from 'fastify'
import calculateSlot from 'cluster-key-slot'
import t from 'tap'
import { clusterOf, redis } from '../../plugins/redis/index.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { clientFor } from '../../plugins/shared/redis/cluster-nodes.js'
import { guardRedis } from '../../plugins/shared/redis/guard.js'
import { startCluster, startProxy, startRedis, until } from '../helpers/index.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

// Allowance for late timers, and for the work itself.
const GRACE_MS = 100

t.test('a boot without Redis fails within connectTimeout, also on a port that accepts and does not respond', async t => {
  const { span } = await startHeartbeat(t)
  const silent = createServer(socket => { socket.resume() }).listen(0, '127.0.0.1')
  t.teardown(() => silent.close())
  await new Promise(resolve => silent.once('listening', resolve))
  for (const port of [1, (silent.address() as AddressInfo).port]) {
    const app = Fastify()
    const s = span()
    await t.rejects(Promise.resolve(app.register(redis, { port, connectTimeout: 700 })), { code: /CONNECT_(REFUSED|TIMEOUT)$/ })
    await s.within(700 + GRACE_MS, `the boot fails on port ${port}`)
    await app.close().catch(() => {})
  }
})

t.test('with a Redis that hangs a command takes no longer than commandTimeout, and closing no longer than closeTimeout', async t => {
  const { span } = await startHeartbeat(t)
  const server = await startRedis()
  const app = Fastify()
  await app.register(redis, { url: server.url, commandTimeout: 100, closeTimeout: 100 })
  server.pause()
  const command = span()
  await t.rejects(app.redis.get('key'), /timed out/)
  await command.within(100 + GRACE_MS, 'the command is rejected')
  const closing = span()
  await app.close()
  await closing.within(100 + GRACE_MS, 'the app is closed')
  server.resume()
})

t.test('a command takes one round trip while others wait for their replies', async t => {
  const { span } = await startHeartbeat(t)
  const proxy = await startProxy((await startRedis()).port)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { host: proxy.host, port: proxy.port })
  proxy.delay(200)
  const first = app.redis.set('order', '1')
  await new Promise(resolve => setTimeout(resolve, 20))
  const second = span()
  t.equal(await app.redis.get('order'), '1')
  await second.within(300, 'the second command is answered')
  t.equal(await first, 'OK')
})

t.test('no command waits for a master of a Cluster that is known to hang', async t => {
  const { span } = await startHeartbeat(t)
  const cluster = await startCluster({ nodeTimeout: 60_000 })
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { cluster: { nodes: cluster.startupNodes }, commandTimeout: 5000 })
  const port = portOf(app.redis)
  const guard = guardRedis(port, app.log, 150)
  const { slots } = clusterOf(app.redis)!
  const hung = cluster.nodes[0]!
  const keys = Array.from({ length: 100 }, (_, i) => `key${i}`)
  const set = (key: string) => guard.run(async () => await clientFor(port, key).send('set', [key, 'value']))
  await Promise.all(keys.map(set))
  hung.server.pause()
  await t.rejects(guard.run(async () => await app.redis.get(keys.find(key => slots[calculateSlot(key)]?.[0] === `${hung.host}:${hung.port}`)!)), { code: 'FST_REDIS_SUITE_REDIS_TIMEOUT' })
  await until('it is noticed', () => !guard.isWhole)
  const s = span()
  const results = await Promise.allSettled(keys.map(set))
  await s.within(100, '100 commands to all masters')
  t.same(new Set(results.map(result => result.status === 'fulfilled' ? result.value : result.reason.code)), new Set(['OK', 'FST_REDIS_SUITE_REDIS_NODE_DOWN']))
  hung.server.resume()
  const back = span()
  await until('it is back', () => guard.isWhole)
  await back.within(3000, 'the node is used again')
  t.same(await Promise.all(keys.map(set)), keys.map(() => 'OK'))
})
