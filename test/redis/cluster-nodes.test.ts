import Fastify from 'fastify'
import calculateSlot from 'cluster-key-slot'
import t from 'tap'
import { clusterOf, redis } from '../../plugins/redis/index.js'
import { clientFor } from '../../plugins/shared/cluster-nodes.js'
import { guardRedis } from '../../plugins/shared/guard.js'
import { startCluster, until } from '../helpers/index.js'
import { collectLog } from '../helpers/log-lines.js'

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
