import Fastify, { type FastifyInstance } from 'fastify'
import type { RedisClientType, RedisClusterType } from 'redis'
import t, { type Test } from 'tap'
import { callRedis, redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { newPrefix, sharedCluster, startProxy, startRedis, until } from '../helpers/index.js'

async function boot (t: Test, options: RedisPluginOptions, log = collectLog()): Promise<FastifyInstance> {
  const app = Fastify({ loggerInstance: log.logger as never }) as never as FastifyInstance
  t.teardown(() => app.close())
  await app.register(redis, { driver: 'node-redis', ...options })
  return app
}

const write = (app: FastifyInstance, key: string): Promise<unknown> => callRedis(app, (client: RedisClientType) => client.set(key, 'value'), { timeout: '5s' })

t.test('writes to a server that became read-only do not cost the connection, and have its role looked up once a second', async t => {
  const server = await startRedis()
  const clock = createTestClock()
  const app = await boot(t, { url: server.url, clock })
  let losses = 0
  app.redis.on('reconnecting', () => losses++)
  await server.client().replicaof('127.0.0.1', 1)
  const lookUps = async () => Number(/cmdstat_role:calls=(\d+)/.exec(await server.client().info('commandstats'))?.[1] ?? 0)
  const refused = { code: 'FST_REDIS_SUITE_REDIS_STORE_UNAVAILABLE', cause: { message: /READONLY/ } }
  for (let i = 0; i < 3; i++) await t.rejects(write(app, 'key'), refused)
  await until('the role was looked up', async () => await lookUps() === 1)
  await clock.advance(1000)
  await t.rejects(write(app, 'key'), refused)
  await until('the role was looked up again', async () => await lookUps() === 2)
  t.equal(losses, 0)
  await server.client().replicaof('NO', 'ONE')
  t.equal(await write(app, 'key'), 'OK')
})

t.test('after a failover behind one address a refused write leads to the new master', async t => {
  const [old, master] = await Promise.all([startRedis(), startRedis()])
  const proxy = await startProxy(old.port)
  const app = await boot(t, { host: proxy.host, port: proxy.port })
  await old.client().replicaof('127.0.0.1', master.port)
  proxy.target(master.port)
  await t.rejects(write(app, 'key'), { cause: { message: /READONLY/ } })
  await until('writes arrive', async () => await write(app, 'key').catch(() => undefined) === 'OK')
  t.equal(await master.client().get('key'), 'value')
})

t.test('a Cluster that cannot be reached fails the boot with its address and without its password, and a wrong password at once', async t => {
  const locked = await startRedis({ password: 'a-password' })
  const nodes = ['redis://ann:a-password@127.0.0.1:1', 'localhost:1']
  const cases: Array<[options: RedisPluginOptions, kind: string, message: RegExp]> = [
    [{ cluster: { nodes: [{ host: '127.0.0.1', port: 1 }] }, connectTimeout: 500 }, 'REFUSED', /cannot connect to cluster at 127\.0\.0\.1:1: /],
    [{ cluster: { nodes }, connectTimeout: 500 }, 'REFUSED', /^(?!.*a-password).*cluster at 127\.0\.0\.1:1, localhost:1: /],
    [{ cluster: { nodes: [`127.0.0.1:${locked.port}`] }, password: 'another', connectTimeout: '1m' }, 'AUTH', /wrong user or password/]
  ]
  for (const [options, kind, message] of cases) {
    await t.rejects(boot(t, options), { code: `FST_REDIS_SUITE_REDIS_CONNECT_${kind}`, message })
  }
})

t.test('an app that boots without its Cluster uses it when it comes, and logs that', async t => {
  const { startupNodes: [node] } = await sharedCluster()
  const proxy = await startProxy(1)
  const log = collectLog()
  const app = await boot(t, { cluster: { nodes: [{ host: proxy.host, port: proxy.port }] }, required: false, connectTimeout: 100 }, log)
  const said = () => log.lines.map(line => String(line['msg'])).filter(msg => msg.includes('connect'))
  await until('the log says so', () => said().length > 0)
  proxy.target(node!.port)
  const key = newPrefix()
  await until('the Cluster is used', async () => await callRedis(app, (client: RedisClusterType) => client.set(key, 'value')).catch(() => undefined) === 'OK')
  t.same(said(), ['redis: cannot connect, trying again until it can', 'redis: connected'])
})
