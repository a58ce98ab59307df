import { createServer } from 'node:http'
import { createServer as createTcpServer, type AddressInfo, type Server } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { clusterOf, redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { newPrefix, sharedCluster, sharedRedis, startRedis, startSentinel } from '../helpers/index.js'

const SECRET = 'correct-horse-battery'
const shared = await sharedRedis()
const secured = await startRedis({ tls: true, password: SECRET, acl: [`app on >${SECRET} ~app:* +@all`] })

async function boot (t: Test, options: RedisPluginOptions): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, options)
  return app
}

async function listening (t: Test, server: Server): Promise<number> {
  t.teardown(() => server.close())
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}

/** Boots in vain, and checks what the error says; a secret is neither in it nor in the log. */
async function bootFails (t: Test, name: string, options: RedisPluginOptions, code: string, text: RegExp): Promise<void> {
  const { logger, text: logged } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  const error = await Promise.resolve(app.register(redis, { connectTimeout: 1000, ...options })).then(() => undefined, (thrown: unknown) => thrown)
  await app.close().catch(() => {})
  t.match(error, { code: `FST_REDIS_SUITE_REDIS_${code}`, message: text }, name)
  t.notMatch(`${String(error)} ${logged()}`, SECRET, `${name}: no secret`)
}

t.test('a boot that cannot reach Redis fails with an error that names address and reason', async t => {
  const locked = await startRedis({ password: SECRET })
  const http = await listening(t, createServer((_request, response) => response.end('hello')))
  const silent = await listening(t, createTcpServer(socket => { socket.resume() }))
  const host = '127.0.0.1'
  const lockedCluster = (password: string) => ({ cluster: { nodes: [{ host, port: locked.port }], options: { redisOptions: { password } } } })
  const cases: Array<[name: string, options: RedisPluginOptions, code: string, text: RegExp]> = [
    ['wrong password', { url: `redis://:wrong-${SECRET}@127.0.0.1:${locked.port}` }, 'CONNECT_AUTH', new RegExp(`127\\.0\\.0\\.1:${locked.port}.*password`)],
    ['no password', { port: locked.port }, 'CONNECT_AUTH', /password/],
    ['wrong user', { url: `redis://nobody:${SECRET}@127.0.0.1:${locked.port}` }, 'CONNECT_AUTH', /user/],
    ['wrong port', { url: `redis://:${SECRET}@127.0.0.1:1` }, 'CONNECT_REFUSED', /127\.0\.0\.1:1: connection refused/],
    ['a name that does not exist', { url: `redis://:${SECRET}@no-such-host.invalid:6379` }, 'CONNECT_NAME_NOT_FOUND', /no-such-host\.invalid:6379: the host name does not exist/],
    ['a port that speaks HTTP', { host, port: http, password: SECRET }, 'CONNECT_NOT_REDIS', /not a Redis/],
    ['a port that accepts and does not answer', { host, port: silent }, 'CONNECT_TIMEOUT', /no answer in time/],
    ['a self-signed certificate', { url: `rediss://:${SECRET}@localhost:${secured.port}` }, 'CONNECT_TLS', /TLS/],
    ['a Cluster of which no node answers', { cluster: { nodes: [{ host, port: 1 }] } }, 'CONNECT_REFUSED', /cluster at 127\.0\.0\.1:1/],
    ['a Cluster with a wrong password', lockedCluster(`wrong-${SECRET}`), 'CONNECT_AUTH', /cluster at .*password/],
    ['a single node where a Cluster is meant', lockedCluster(SECRET), 'CONNECT_FAILED', /cluster support disabled/]
  ]
  await Promise.all(cases.map(async each => await bootFails(t, ...each)))
})

t.test('a boot fails after exactly connectTimeout of its clock, and not before', async t => {
  const port = await listening(t, createTcpServer(socket => { socket.resume() }))
  const clock = createTestClock()
  const app = Fastify()
  let failed: Error | undefined
  Promise.resolve(app.register(redis, { host: '127.0.0.1', port, connectTimeout: '1m', clock })).catch((error: Error) => { failed = error })
  await clock.advance(59_999)
  t.equal(failed, undefined)
  await clock.advance(1)
  t.match(failed, { code: 'FST_REDIS_SUITE_REDIS_CONNECT_TIMEOUT' })
  t.equal(clock.pendingTimers, 0)
  await app.close().catch(() => {})
})

t.test('an app that blocks its event loop beyond connectTimeout while it boots is connected all the same', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const booted = Promise.resolve(app.register(redis, { url: shared.url, connectTimeout: 500 }))
  await new Promise(resolve => setImmediate(resolve))
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 600)
  await t.resolves(booted)
  t.equal(await app.redis.ping(), 'PONG')
})

t.test('options that cannot be used fail with a coded error', async t => {
  const cases: Array<[string, object]> = [
    ['two targets', { url: 'redis://localhost', host: 'localhost' }],
    ['a url that is none', { url: `localhost:${SECRET}` }],
    ['an empty cluster', { cluster: { nodes: [] } }],
    ['a nonsensical time-out', { connectTimeout: 'soon' }],
    ['a prefix that would move all keys into one slot', { prefix: '{shop}' }],
    ['required that is no boolean', { required: 'yes' }],
    ['a clock that is none', { clock: Date }],
    ['a name that neither the plugin nor ioredis knows', { uri: 'redis://localhost' }],
    ['such a name of a Cluster', { cluster: { nodes: [{ port: 1 }], options: { scaleRead: 'all' } } }],
    ['such a name of its nodes', { cluster: { nodes: [{ port: 1 }], options: { redisOptions: { passwort: SECRET } } } }]
  ]
  for (const [name, options] of cases) {
    await t.rejects(async () => { await boot(t, options) }, { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION' }, name)
  }
  await t.rejects(async () => { await boot(t, { url: `http://x:${SECRET}@y` }) }, { message: /^((?!correct-horse).)*$/ }, 'a bad url is not repeated')
})

t.test('an unknown option is refused with the nearest name that exists', async t => {
  const cases: Array<[object, RegExp]> = [
    [{ uri: `redis://:${SECRET}@localhost` }, /unknown option "uri"; did you mean "url"\?/],
    [{ retryStrategie: () => 1 }, /did you mean "retryStrategy"\?/],
    [{ cluster: { nodes: [{ port: 1 }], options: { scaleRead: 'all' } } }, /unknown option "cluster.options.scaleRead"; did you mean "cluster.options.scaleReads"\?/],
    [{ cluster: { nodes: [{ port: 1 }] }, scaleReads: 'all' }, /unknown option "scaleReads"; .*cluster\.options/]
  ]
  for (const [options, message] of cases) {
    await t.rejects(async () => { await boot(t, options) }, { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION', message }, String(message))
    await t.rejects(async () => { await boot(t, options) }, { message: /^((?!correct-horse).)*$/ })
  }
})

t.test('a refused connection at boot is one line that says what to do, and nothing else is logged', async t => {
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  const error = await Promise.resolve(app.register(redis, { port: 1, connectTimeout: 100 })).then(() => undefined, (thrown: Error) => thrown)
  await app.close().catch(() => {})
  t.match(error, { code: 'FST_REDIS_SUITE_REDIS_CONNECT_REFUSED', message: /^redis: cannot connect to localhost:1: connection refused.*REDIS_URL.*required: false$/ })
  t.same(lines, [])
})

t.test('url, host and port, password, ACL and TLS reach the same kind of client', async t => {
  const targets: RedisPluginOptions[] = [
    { url: shared.url },
    { host: '127.0.0.1', port: shared.port, db: 1 },
    { url: secured.url, tls: { ca: secured.ca } },
    { host: 'localhost', port: secured.port, username: 'app', password: SECRET, tls: { ca: secured.ca } }
  ]
  for (const target of targets) {
    const app = await boot(t, target)
    t.equal(await app.redis.set('app:key', 'value', 'EX', 60), 'OK')
    t.equal(clusterOf(app.redis), undefined)
    await app.close()
    t.equal(app.redis.status, 'end')
  }
})

t.test('a Cluster is reached by some of its nodes', async t => {
  const { startupNodes } = await sharedCluster()
  const app = await boot(t, { cluster: { nodes: startupNodes.slice(0, 2) } })
  t.equal(clusterOf(app.redis)?.nodes('master').length, 3)
  const keys = ['a', 'b', 'c', 'd'].map(key => `${newPrefix()}:${key}`)
  await Promise.all(keys.map(async key => await app.redis.set(key, key)))
  t.same(await Promise.all(keys.map(async key => await app.redis.get(key))), keys)
})

t.test('a master is found through its Sentinels', async t => {
  const sentinel = await startSentinel()
  const app = await boot(t, { sentinels: sentinel.sentinels, name: sentinel.name })
  t.equal(await app.redis.set('key', 'value'), 'OK')
  t.equal(await (await sentinel.master()).client().get('key'), 'value')
})

t.test('namespaces keep several connections apart, and a name is taken once', async t => {
  const key = newPrefix()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: shared.url, namespace: 'one' })
  await app.register(redis, { url: shared.url, namespace: 'two', db: 1 })
  await app.redis['one']?.set(key, 'in one')
  t.equal(await app.redis['two']?.get(key), null)
  t.equal(await app.redis['one']?.get(key), 'in one')
  await t.rejects(async () => { await app.register(redis, { url: shared.url, namespace: 'one' }) }, { code: 'FST_REDIS_SUITE_REDIS_ALREADY_REGISTERED' })
})

t.test('a client from outside is used, and left open unless closeClient is true', async t => {
  const client = new Redis(shared.url)
  t.teardown(() => client.disconnect())
  const app = await boot(t, { client })
  t.equal(app.redis, client)
  await app.close()
  t.equal(await client.ping(), 'PONG')

  const owner = await boot(t, { client, closeClient: true })
  await owner.close()
  t.equal(client.status, 'end')
})
