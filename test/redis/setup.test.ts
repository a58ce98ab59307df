import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import Fastify from 'fastify'
import { Cluster, Redis, type ClusterNode } from 'ioredis'
import t, { type Test } from 'tap'
import { cache, events, health, idempotency, lock, rateLimit, redis, session } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { newPrefix, sharedCluster, sharedRedis, startProxy, startRedis, startSentinel, until } from '../helpers/index.js'

const SECRET = 'correct-horse-battery'
const host = '127.0.0.1'
const shared = await sharedRedis()

/** Boots in vain. @returns the error, and all that pino makes of it, with each property of its own */
async function bootFails (t: Test, options: object): Promise<{ error: { code?: string, message: string }, text: string }> {
  const { logger, text } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  const error = await Promise.resolve(app.register(redis, { connectTimeout: 1000, ...options } as RedisPluginOptions)).then(
    () => ({ message: 'the boot succeeded' }), thrown => thrown)
  logger.error(error, 'the boot failed')
  logger.error({ ...error, cause: error.cause, stack: error.stack }, 'the boot failed')
  await app.close().catch(() => {})
  t.notMatch(text(), /correct-horse|battery/, 'no secret')
  return { error, text: text() }
}

async function listening (t: Test, server: Server): Promise<number> {
  t.teardown(() => server.close())
  await new Promise<void>(resolve => server.listen(0, host, resolve))
  return (server.address() as AddressInfo).port
}

t.test('a database that the server refuses fails the boot, with required: false as well', async t => {
  const { startupNodes } = await sharedCluster()
  const node = startupNodes[0]!
  const targets: object[] = [
    { url: `redis://${host}:${shared.port}/99` },
    { url: `redis://${host}:${shared.port}?db=99` },
    { host, port: shared.port, db: 99 },
    { url: `redis://${node.host}:${node.port}/1` }
  ]
  for (const target of targets) {
    for (const required of [true, false]) {
      const { error } = await bootFails(t, { ...target, required })
      t.match(error, { code: 'FST_REDIS_SUITE_REDIS_CONNECT_DATABASE', message: /refuses this database/ }, JSON.stringify({ ...target, required }))
    }
  }
})

t.test('a server that is unavailable at boot, and then refuses the database, receives no command, and the log reports it once', async t => {
  const server = await startRedis()
  const port = server.port
  await server.kill()
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  t.teardown(() => app.close())
  await app.register(redis, { url: `redis://${host}:${port}/99`, required: false, connectTimeout: 100 })
  await server.restart()
  const refusals = () => lines.filter(line => /refuses the database/.test(String(line['msg'])))
  await until('the log says that the database is refused', () => refusals().length > 0)
  for (let i = 0; i < 5; i++) await t.rejects(app.redis.set('key', 'value'))
  t.equal(await server.client().dbsize(), 0, 'nothing in database 0')
  t.equal(refusals().length, 1)
  t.equal(lines.filter(line => line['msg'] === 'redis: connected').length, 0)
})

t.test('a reconnection to a server without the database sends no command either', async t => {
  const [first, second] = [await startRedis(), await startRedis({ args: ['--databases', '1'] } as never)]
  const proxy = await startProxy(first.port)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: `redis://${host}:${proxy.port}/2` })
  t.equal(await app.redis.set('key', 'value'), 'OK')
  await second.client().config('SET', 'maxmemory', '0')
  proxy.target(second.port)
  proxy.sever()
  await t.rejects(app.redis.set('other', 'value'))
  t.equal(await second.client().dbsize(), 0)
  proxy.target(first.port)
  proxy.sever()
  await until('the first server is used again', async () => await app.redis.get('key').catch(() => null) === 'value')
})

t.test('a database that is no number, and options that contradict each other, are refused at registration', async t => {
  const sentinels = [{ host, port: 1 }]
  const nodes = [{ host, port: 1 }]
  const client = new Redis({ lazyConnect: true })
  const cases: object[] = [
    { url: 'redis://localhost/cache' }, { url: 'redis://localhost/1/2' }, { url: 'redis://localhost/-1' }, { url: 'redis://localhost/1?db=2' },
    { url: 'redis://localhost?db=x' }, { url: 'redis://localhost/99999999999' },
    ...[NaN, -1, 1.5, '1', Infinity, null, {}, 2 ** 31].map(db => ({ db })),
    { url: 'redis://localhost/1', db: 2 }, { url: 'redis://localhost', port: 1 }, { url: 'redis://localhost', host },
    { url: 'redis://localhost', path: '/tmp/x' }, { host, path: '/tmp/x' }, { path: '/tmp/x', port: 1 },
    { url: 'redis://ann:x@localhost', password: SECRET }, { url: 'redis://ann@localhost', password: SECRET }, { url: 'rediss://localhost', tls: false },
    { cluster: { nodes }, db: 1 }, { cluster: { nodes }, port: 1 }, { cluster: { nodes, options: { redisOptions: { db: 1 } } } },
    { cluster: { nodes: ['redis://localhost/1'] } }, { cluster: { nodes: [{ host, port: 1, db: 1 }] } }, { cluster: { nodes: [`redis://:${SECRET}%@x y`] } },
    { sentinels }, { sentinels, name: '' }, { sentinels: [], name: 'm' }, { sentinels: 'x', name: 'm' }, { sentinels, name: 'm', port: 1 },
    { name: 'm' }, { host, name: 'm' }, { url: 'redis://localhost', name: 'm' },
    { commandTimeout: 2 ** 31 }, { connectTimeout: '25 days' },
    { client, db: 1 }, { client, port: 1 }, { client, password: SECRET }, { client, username: 'x' }, { client, tls: {} }, { client, name: 'm' }, { client, sentinels, name: 'm' }
  ]
  for (const options of cases) {
    const { error } = await bootFails(t, { connectTimeout: 100, ...options })
    t.match(error, { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION' }, JSON.stringify(options, (key, value) => key === 'client' ? 'a client' : value))
  }
})

t.test('a database 0 that is named is allowed wherever it is', async t => {
  const { startupNodes } = await sharedCluster()
  for (const options of [{ url: `${shared.url}/0` }, { host, port: shared.port, db: 0 }, { cluster: { nodes: startupNodes as ClusterNode[] }, db: 0 }]) {
    const app = Fastify()
    await app.register(redis, options)
    t.equal(await app.redis.ping(), 'PONG')
    await app.close()
  }
})

t.test('a URL that cannot be used is refused by an error that holds nothing of it, and blanks around one are taken off', async t => {
  const bad = [
    `redis://:${SECRET}%@localhost`, `redis://:${SECRET}%zz@localhost`, `redis://%:${SECRET}@localhost`, `redis://:12/${SECRET}@localhost:1`,
    `redis://ann:12?${SECRET}@localhost`, `redis://ann:12#${SECRET}@localhost`, `redis://ann:12/${SECRET}@localhost`, `redis://:${SECRET}@local host`,
    `redis:${SECRET}`, `:${SECRET}@localhost`, `http://:${SECRET}@localhost`, `redis://:${SECRET}@localhost:99999`, `redis://:${SECRET}@localhost/${SECRET}`
  ]
  for (const url of bad) {
    const { error } = await bootFails(t, { url })
    t.match(error, { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION', message: /option "url"/ }, url)
    t.same(Object.keys(error).filter(name => !['code', 'name', 'statusCode', 'message'].includes(name)), [], `${url}: no further property`)
  }
  for (const url of [` ${shared.url}`, `\n\t${shared.url} \n`, shared.url.replace('redis:', 'REDIS:'), shared.url.replace('redis://', 'red\nis://')]) {
    const app = Fastify()
    await app.register(redis, { url })
    t.equal(await app.redis.ping(), 'PONG', JSON.stringify(url))
    await app.close()
  }
})

t.test('a URL in place of a host is refused by an error that holds nothing of it', async t => {
  for (const host of [`redis://:${SECRET}@localhost`, `:${SECRET}@localhost`, `${SECRET} x`]) {
    const cases: object[] = [{ host }, { host, port: 1, required: false }, { cluster: { nodes: [{ host, port: 1 }] } }, { sentinels: [{ host, port: 1 }], name: 'm' }, { sentinels: [host], name: 'm' }]
    for (const options of cases) {
      const { error } = await bootFails(t, { connectTimeout: 100, ...options })
      t.match(error, { code: 'FST_REDIS_SUITE_REDIS_INVALID_OPTION' }, JSON.stringify(options))
    }
  }
})

t.test('a password with special characters that are percent-encoded logs in', async t => {
  const password = 'a/b?c#d@e%f:g h'
  const server = await startRedis({ password })
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: ` redis://:${encodeURIComponent(password)}@${host}:${server.port} ` })
  t.equal(await app.redis.ping(), 'PONG')
})

t.test('a server that repeats the arguments of a command that it does not know has no password logged', async t => {
  // As Redis 5 does, which has no HELLO.
  const port = await listening(t, createServer((socket: Socket) => {
    socket.on('error', () => {}).on('data', data => {
      const commands = String(data).match(/^\*\d+/gm)?.length ?? 0
      socket.write(`-ERR unknown command \`AUTH\`, with args beginning with: \`3\`, \`${SECRET}\`, \r\n`.repeat(commands))
    })
  }))
  const { error } = await bootFails(t, { url: `redis://:${SECRET}@${host}:${port}`, connectTimeout: 300 })
  t.match(error, { code: /^FST_REDIS_SUITE_REDIS_CONNECT_/ })
})

t.test('a wrong password of the Sentinels fails the boot at once', async t => {
  const sentinel = await startSentinel()
  const endpoints = await Promise.all(sentinel.sentinels.map(async ({ host, port }) => {
    const client = new Redis(port, host)
    await client.call('ACL', 'SETUSER', 'default', 'resetpass', `>right-${SECRET}`)
    client.disconnect()
    return { host, port }
  }))
  const connectTimeout = 600_000
  for (const sentinelPassword of [SECRET, undefined]) {
    const { error } = await bootFails(t, { sentinels: endpoints, name: sentinel.name, connectTimeout, ...sentinelPassword !== undefined && { sentinelPassword } })
    t.match(error, { code: 'FST_REDIS_SUITE_REDIS_CONNECT_AUTH', message: /password/ }, String(sentinelPassword))
  }
})

t.test('Sentinels and nodes of a Cluster that accept a connection and never reply are CONNECT_TIMEOUT, and the next Sentinel is tried', async t => {
  const port = await listening(t, createServer(socket => { socket.on('error', () => {}).resume() }))
  const silent = { host, port }
  for (const options of [{ sentinels: [silent], name: 'm' }, { cluster: { nodes: [silent] } }, silent]) {
    const { error } = await bootFails(t, { ...options, connectTimeout: 700, commandTimeout: 300 })
    t.match(error, { code: 'FST_REDIS_SUITE_REDIS_CONNECT_TIMEOUT' }, JSON.stringify(options))
  }
  const sentinel = await startSentinel()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { sentinels: [silent, ...sentinel.sentinels], name: sentinel.name, connectTimeout: 2000 })
  t.equal(await app.redis.ping(), 'PONG')
})

t.test('a client that was closed is refused by a coded error that says so', async t => {
  const client = new Redis(shared.url)
  await client.quit()
  for (const required of [true, false]) {
    const { error } = await bootFails(t, { client, required })
    t.match(error, { code: 'FST_REDIS_SUITE_REDIS_CONNECT_ENDED', message: /was closed before/ })
  }
  await t.rejects(async () => { await Fastify().register(cache, { redis: client }) }, { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION', message: /closed/ })
})

t.test('a client that returns numbers as strings is refused at registration by each plugin', async t => {
  const plugins: Array<[name: string, plugin: unknown, options?: object]> = [
    ['cache', cache], ['rateLimit', rateLimit], ['events', events], ['lock', lock], ['health', health],
    ['session', session, { secret: 'a secret of at least thirty-two characters' }], ['idempotency', idempotency, { scope: () => 'all' }]
  ]
  const single = new Redis(shared.url, { stringNumbers: true, lazyConnect: true })
  const cluster = new Cluster([{ host, port: 1 }], { lazyConnect: true, redisOptions: { stringNumbers: true } })
  const refused = { code: /^FST_REDIS_SUITE_\w+_INVALID_OPTION$/, message: /option "redis" must be a client without stringNumbers.*, but was a client with stringNumbers/ }
  for (const [name, plugin, options] of plugins) {
    for (const client of [single, cluster]) {
      await t.rejects(async () => { await Fastify().register(plugin as never, { ...options, redis: client } as never) }, refused, name)
      const app = Fastify()
      app.decorate<unknown>('redis', client)
      await t.rejects(async () => { await app.register(plugin as never, options as never) }, refused, `${name}, with fastify.redis`)
    }
  }
  const nodes = [single, new Redis({ lazyConnect: true }), new Redis({ lazyConnect: true })]
  await t.rejects(async () => { await Fastify().register(lock, { nodes }) }, { code: 'FST_REDIS_SUITE_LOCK_INVALID_OPTION', message: /stringNumbers/ })
})

t.test('operations on a client that the app has closed fail with an error that says so, as does the circuit', async t => {
  const prefix = newPrefix()
  const client = new Redis(shared.url)
  const { logger, text } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  t.teardown(() => app.close())
  await app.register(redis, { client, prefix })
  await app.register(cache)
  await client.quit()
  for (let i = 0; i < 6; i++) await app.cache.getOrSet(`key${i}`, () => 1, { ttl: '1m' })
  await until('the log says so', () => /was closed/.test(text()))
})
