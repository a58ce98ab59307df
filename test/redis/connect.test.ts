import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createServer as createTcpServer } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { clusterOf, redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { startCluster, startRedis, startSentinel } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const SECRET = 'correct-horse-battery'

async function boot (t: Test, options: RedisPluginOptions): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, options)
  return app
}

/** Boots in vain, and checks what the error says and how long it took. */
async function bootFails (t: Test, options: RedisPluginOptions, code: string, text: RegExp): Promise<void> {
  const { logger, text: logged } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  const sinceStart = stopwatch()
  let error: unknown
  try {
    await app.register(redis, { connectTimeout: 700, ...options })
    await app.ready()
  } catch (caught) {
    error = caught
  }
  await app.close().catch(() => {})
  t.ok(sinceStart() < 1500, 'within the time-out')
  t.match(error, { code: `FST_REDIS_SUITE_REDIS_${code}`, message: text })
  t.notMatch(String(error), SECRET, 'the error holds no secret')
  t.notMatch(logged(), SECRET, 'the log holds no secret')
}

t.test('a boot that cannot reach Redis fails with an error that names address and reason', async t => {
  const server = await startRedis({ password: SECRET })

  t.test('wrong password', t => bootFails(t, { url: `redis://:wrong-${SECRET}@127.0.0.1:${server.port}` },
    'CONNECT_AUTH', new RegExp(`127\\.0\\.0\\.1:${server.port}.*password`)))
  t.test('no password', t => bootFails(t, { port: server.port }, 'CONNECT_AUTH', /password/))
  t.test('wrong user', t => bootFails(t, { url: `redis://nobody:${SECRET}@127.0.0.1:${server.port}` }, 'CONNECT_AUTH', /user/))
  t.test('wrong port', t => bootFails(t, { url: `redis://:${SECRET}@127.0.0.1:1` }, 'CONNECT_REFUSED', /127\.0\.0\.1:1: connection refused/))
  t.test('a name that does not exist', t => bootFails(t, { url: `redis://:${SECRET}@no-such-host.invalid:6379` },
    'CONNECT_NAME_NOT_FOUND', /no-such-host\.invalid:6379: the host name does not exist/))

  t.test('a port that speaks HTTP', async t => {
    const http = createServer((_request, response) => response.end('hello')).listen(0, '127.0.0.1')
    t.teardown(() => http.close())
    await new Promise(resolve => http.once('listening', resolve))
    await bootFails(t, { host: '127.0.0.1', port: (http.address() as AddressInfo).port, password: SECRET }, 'CONNECT_NOT_REDIS', /not a Redis/)
  })

  t.test('a port that accepts and says nothing', async t => {
    const silent = createTcpServer(() => {}).listen(0, '127.0.0.1')
    t.teardown(() => silent.close())
    await new Promise(resolve => silent.once('listening', resolve))
    await bootFails(t, { host: '127.0.0.1', port: (silent.address() as AddressInfo).port }, 'CONNECT_TIMEOUT', /no answer in time/)
  })

  t.test('a self-signed certificate', async t => {
    const tls = await startRedis({ tls: true })
    await bootFails(t, { url: `rediss://:${SECRET}@localhost:${tls.port}` }, 'CONNECT_TLS', /TLS/)
  })

  t.test('a Cluster of which no node answers', t => bootFails(t, { cluster: { nodes: [{ host: '127.0.0.1', port: 1 }] } },
    'CONNECT_REFUSED', /cluster at 127\.0\.0\.1:1/))

  t.test('a Cluster with a wrong password', t => bootFails(t, { cluster: { nodes: [{ host: '127.0.0.1', port: server.port }], options: { redisOptions: { password: `wrong-${SECRET}` } } } },
    'CONNECT_AUTH', /cluster at .*password/))

  t.test('a single node where a Cluster is meant', t => bootFails(t, { cluster: { nodes: [{ host: '127.0.0.1', port: server.port }] }, password: SECRET },
    'CONNECT_FAILED', /cluster support disabled/))
})

t.test('options that cannot be used fail with a coded error', async t => {
  const cases: Array<[string, object]> = [
    ['two targets', { url: 'redis://localhost', host: 'localhost' }],
    ['a url that is none', { url: `localhost:${SECRET}` }],
    ['an empty cluster', { cluster: { nodes: [] } }],
    ['a nonsensical time-out', { connectTimeout: 'soon' }],
    ['a prefix that would move all keys into one slot', { prefix: '{shop}' }],
    ['required that is no boolean', { required: 'yes' }]
  ]
  for (const [name, options] of cases) {
    await t.rejects(async () => { await boot(t, options) }, { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION' }, name)
  }
  await t.rejects(async () => { await boot(t, { url: `http://x:${SECRET}@y` }) }, { message: /^((?!correct-horse).)*$/ }, 'a bad url is not repeated')
})

t.test('url, host and port, password, ACL and TLS reach the same kind of client', async t => {
  const open = await startRedis()
  const secured = await startRedis({ tls: true, password: SECRET, acl: [`app on >${SECRET} ~app:* +@all`] })
  const targets: RedisPluginOptions[] = [
    { url: open.url },
    { host: '127.0.0.1', port: open.port, db: 1 },
    { url: secured.url, tls: { ca: secured.ca } },
    { host: 'localhost', port: secured.port, username: 'app', password: SECRET, tls: { ca: secured.ca } }
  ]
  for (const target of targets) {
    const app = await boot(t, target)
    t.equal(await app.redis.set('app:key', 'value'), 'OK')
    t.equal(clusterOf(app.redis), undefined)
    await app.close()
    t.equal(app.redis.status, 'end')
  }
})

t.test('a Cluster is reached by some of its nodes', async t => {
  const cluster = await startCluster()
  const app = await boot(t, { cluster: { nodes: cluster.nodes.map(({ host, port }) => ({ host, port })) } })
  t.equal(clusterOf(app.redis)?.nodes('master').length, 3)
  await Promise.all(['a', 'b', 'c', 'd'].map(async key => {
    await app.redis.set(key, key)
    t.equal(await app.redis.get(key), key)
  }))
})

t.test('a master is found through its Sentinels', async t => {
  const sentinel = await startSentinel()
  const app = await boot(t, { sentinels: sentinel.sentinels, name: sentinel.name })
  t.equal(await app.redis.set('key', 'value'), 'OK')
})

t.test('namespaces keep several connections apart, and a name is taken once', async t => {
  const server = await startRedis()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, namespace: 'one' })
  await app.register(redis, { url: server.url, namespace: 'two', db: 1 })
  await app.redis['one']?.set('key', 'in one')
  t.equal(await app.redis['two']?.get('key'), null)
  await t.rejects(async () => { await app.register(redis, { url: server.url, namespace: 'one' }) }, { code: 'FST_REDIS_SUITE_REDIS_ALREADY_REGISTERED' })
})

t.test('a client from outside is used, and left open unless told otherwise', async t => {
  const server = await startRedis()
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  const app = await boot(t, { client })
  t.equal(app.redis, client)
  await app.close()
  t.equal(await client.ping(), 'PONG')

  const owner = await boot(t, { client, closeClient: true })
  await owner.close()
  t.equal(client.status, 'end')
})
