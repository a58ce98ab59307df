import Fastify from 'fastify'
import calculateSlot from 'cluster-key-slot'
import t from 'tap'
import { clusterOf, redis } from '../../plugins/redis/index.js'
import { clientFor } from '../../plugins/shared/cluster-nodes.js'
import { guardRedis } from '../../plugins/shared/guard.js'
import { startCluster, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'

const TIMEOUT = 150

t.test('a master of a Cluster that hangs is not waited for: what it holds is refused at once, the rest is served, and it is back when it answers', async t => {
  // As long as it hangs here, no replica takes over.
  const cluster = await startCluster()
  const { logger, text } = collectLog()
  const app = Fastify({ loggerInstance: logger as never })
  t.teardown(() => app.close())
  await app.register(redis, { cluster: { nodes: cluster.startupNodes }, commandTimeout: 5000 })
  const guard = guardRedis(app.redis, app.log, TIMEOUT)
  const { slots } = clusterOf(app.redis)!
  const hung = cluster.nodes[0]!
  const isOnHung = (key: string) => slots[calculateSlot(key)]?.[0] === `${hung.host}:${hung.port}`
  const keys = Array.from({ length: 100 }, (_, i) => `key${i}`)
  const [lost, kept] = [keys.filter(isOnHung), keys.filter(key => !isOnHung(key))]
  const set = (key: string) => guard.run(async () => await clientFor(app.redis, key).set(key, 'value'))
  await Promise.all(keys.map(set))
  t.equal(guard.isWhole, true)

  hung.server.pause()
  await t.rejects(set(lost[0]!), { code: 'FST_REDIS_SUITE_REDIS_TIMEOUT' })
  await until('it is noticed', () => !guard.isWhole)
  const started = performance.now()
  const results = await Promise.allSettled(keys.map(set))
  t.ok(performance.now() - started < TIMEOUT, 'nobody waits')
  t.equal(results.filter(({ status }) => status === 'fulfilled').length, kept.length)
  t.ok(results.every(result => result.status === 'fulfilled' || result.reason.code === 'FST_REDIS_SUITE_REDIS_NODE_DOWN'))
  t.equal(guard.circuit.state, 'closed')

  hung.server.resume()
  await until('it is back', () => guard.isWhole)
  t.same(await Promise.all(keys.map(set)), keys.map(() => 'OK'))
  t.ok(Date.now() - guard.troubledAt < 5000)
  t.equal(text().match(/nodes of the Cluster do not answer/g)?.length, 1)
  t.equal(text().match(/all masters of the Cluster answer/g)?.length, 1)
})

t.test('a user that may not ask a Cluster how it is has its nodes used all the same', async t => {
  const cluster = await startCluster({ acl: ['app on >secret ~* &* +@all -cluster +cluster|slots'] })
  const app = Fastify()
  t.teardown(() => app.close())
  // The client itself asks the same before it is ready.
  const options = { enableReadyCheck: false }
  await app.register(redis, { cluster: { nodes: cluster.startupNodes, options }, username: 'app', password: 'secret' })
  const guard = guardRedis(app.redis, app.log, TIMEOUT)
  t.equal(await guard.run(async () => await app.redis.set('key', 'value')), 'OK')
  const asked = async () => (await Promise.all(cluster.nodes.map(({ server }) => server.client().call('ACL', 'LOG')))).flat().length
  await t.rejects(guard.run(async () => { throw new Error('lost') }), { message: 'lost' })
  await until('the masters are asked', async () => await asked() >= 3)
  t.equal(guard.isWhole, true)
  t.equal(await guard.run(async () => await clientFor(app.redis, 'key').get('key')), 'value')
})

t.test('with a keyPrefix the node is that of the whole key', async t => {
  const cluster = await startCluster()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { cluster: { nodes: cluster.startupNodes }, keyPrefix: 'app:', commandTimeout: 5000 })
  const guard = guardRedis(app.redis, app.log, TIMEOUT)
  const hung = cluster.nodes[0]!
  const { slots } = clusterOf(app.redis)!
  const keys = Array.from({ length: 60 }, (_, i) => `key${i}`)
  const kept = keys.filter(key => slots[calculateSlot(`app:${key}`)]?.[0] !== `${hung.host}:${hung.port}`)
  hung.server.pause()
  guard.run(async () => { throw new Error('lost') }).catch(() => {})
  await until('it is noticed', () => !guard.isWhole)
  const results = await Promise.allSettled(keys.map(key => guard.run(async () => await clientFor(app.redis, key).set(key, 'value'))))
  t.same(keys.filter((_, i) => results[i]?.status === 'fulfilled'), kept)
  hung.server.resume()
})

t.test('a slot that moved is found also where all its commands travel with others', async t => {
  const cluster = await startCluster()
  const app = Fastify()
  t.teardown(() => app.close())
  // Before the client would look by itself.
  const options = { slotsRefreshInterval: 60_000 }
  await app.register(redis, { cluster: { nodes: cluster.startupNodes, options } })
  const guard = guardRedis(app.redis, app.log, TIMEOUT)
  const [from, to, third] = cluster.nodes
  const { slots } = clusterOf(app.redis)!
  const keys = Array.from({ length: 60 }, (_, i) => `key${i}`).filter(key => slots[calculateSlot(key)]?.[0] === `${from!.host}:${from!.port}`)
  const id = String(await to!.server.client().call('CLUSTER', 'MYID'))
  for (const node of [to, from, third]) await node!.server.client().call('CLUSTER', 'SETSLOT', calculateSlot(keys[0]!), 'NODE', id)
  const setAll = async () => await Promise.allSettled(keys.map(key => guard.run(async () => await app.redis.set(key, 'value'))))
  const [first] = await setAll()
  t.match(first, { status: 'rejected', reason: /^ReplyError: MOVED/ })
  const isFound = async () => (await setAll()).every(({ status }) => status === 'fulfilled')
  await until('it is found', isFound, 3000)
})

t.test('commands that were collected while a slot moved fail by themselves, and the circuit stays closed', async t => {
  const cluster = await startCluster()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { cluster: { nodes: cluster.startupNodes } })
  const guard = guardRedis(app.redis, app.log, TIMEOUT)
  const client = clusterOf(app.redis)!
  const keys = Array.from({ length: 60 }, (_, i) => `key${i}`).filter(key => client.slots[calculateSlot(key)]?.[0] === client.slots[0]?.[0])
  const asked = Promise.allSettled(keys.map(key => guard.run(async () => await app.redis.set(key, 'value'))))
  // What the client does as it reads that a slot is elsewhere.
  Reflect.get(client, '_groupsBySlot')[calculateSlot(keys[0]!)] = -1
  const results = await asked
  t.ok(results.every(result => result.status === 'rejected' && /same slots allocation group/.test(result.reason.message)))
  t.equal(guard.circuit.opened, 0)
})
