import { createServer } from 'node:http'
import { createServer as createTcpServer, type AddressInfo, type Server } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import { Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { cache } from '../../plugins/cache/index.js'
import { clusterOf, redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { reconnectDelay } from '../../plugins/redis/options.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { advanceUntil, advanceWhile, createTestApp, newPrefix, sharedCluster, sharedRedis, startProxy, startRedis, startSentinel, until } from '../helpers/index.js'

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
  await until('the plugin waits', () => clock.pendingTimers > 0)
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

t.test('a client that outlives its apps keeps none of their listeners, and its errors still end no process', async t => {
  const client = new Redis(shared.url)
  t.teardown(() => client.disconnect())
  const listeners = () => client.eventNames().map(name => [name, client.listenerCount(name)])
  const log = collectLog()
  let after: unknown
  for (let i = 0; i < 3; i++) {
    const app = Fastify({ loggerInstance: log.logger as never })
    await app.register(redis, { client })
    await app.close()
    if (i > 0) t.same(listeners(), after)
    after = listeners()
  }
  const lines = log.lines.length
  client.emit('error', new Error('of a client without an app'))
  client.emit('reconnecting')
  t.equal(log.lines.length, lines)
})

function endOf (client: Redis | Cluster): Promise<void> {
  return new Promise(resolve => client.once('end', () => resolve()))
}

t.test('with required: false the app boots without Redis and uses it when it comes', async t => {
  const server = await startRedis()
  await server.kill()
  const app = Fastify()
  t.teardown(() => app.close())
  const clock = createTestClock()
  await advanceWhile(clock, Promise.resolve(app.register(redis, { url: server.url, required: false, clock })), { step: 100 })
  t.not(app.redis.status, 'ready')
  await server.restart()
  await until('the connection is back', () => app.redis.status === 'ready')
  t.equal(await app.redis.ping(), 'PONG')
})

t.test('with required: false a client with a namespace is decorated too', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const clock = createTestClock()
  await advanceWhile(clock, Promise.resolve(app.register(redis, { port: 1, namespace: 'late', required: false, clock })), { step: 100 })
  t.ok(app.redis['late'])
})

t.test('an outage is one line when it begins and one when it ends, with its length and the number of errors', async t => {
  const server = await startRedis({ password: 'not-to-be-logged' })
  const { logger, lines, text } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  t.teardown(() => app.close())
  const clock = createTestClock()
  await app.register(redis, { url: server.url, clock })
  let errors = 0
  app.redis.on('error', () => { errors++ })
  await server.kill()
  await until('it was tried to connect again', () => errors >= 3)
  await clock.advance('5 minutes')
  await server.restart()
  await until('the connection is back', () => app.redis.status === 'ready')
  t.same(lines.map(line => line['msg']), ['redis: connected', 'redis: connection lost, reconnecting', 'redis: connected'])
  t.equal(lines[2]?.['downMs'], 300_000)
  t.ok(Number(lines[2]?.['errors']) >= 3, 'the errors in between are counted')
  t.notMatch(text(), 'not-to-be-logged')
})

t.test('closing the app is not logged as a lost connection', async t => {
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  await app.register(redis, { url: (await sharedRedis()).url })
  await app.close()
  t.same(lines.map(line => line['msg']), ['redis: connected'])
})

t.test('an app that closes while its Cluster is about to be ready closes it for good: its timer would keep the process alive', async t => {
  const { startupNodes } = await sharedCluster()
  const app = Fastify()
  await app.register(redis, { cluster: { nodes: startupNodes }, required: false, connectTimeout: 1 })
  const cluster = clusterOf(app.redis)!
  await app.close()
  // As ioredis does when the reply to its ready check comes after that.
  Reflect.apply(Reflect.get(cluster, 'resetNodesRefreshInterval') as () => void, cluster, [])
  cluster.emit('ready')
  t.notOk(Reflect.get(cluster, 'slotsTimer'))
})

t.test('a client that its owner closes is not logged as a lost connection', async t => {
  const closes: Array<(client: Redis | Cluster) => unknown> = [client => client.quit(), client => client.disconnect()]
  const { startupNodes } = await sharedCluster()
  const { url } = await sharedRedis()
  for (const close of closes) {
    for (const client of [new Redis(url), new Cluster([...startupNodes])]) {
      const { logger, lines } = collectLog()
      const app = Fastify({ loggerInstance: logger })
      await app.register(redis, { client })
      const ended = endOf(client)
      await close(client)
      await ended
      await app.close()
      t.same(lines.map(line => line['msg']), ['redis: connected'])
    }
  }
})

t.test('closing while a plugin subscribes is not logged as a subscription that fails', async t => {
  const server = await startRedis()
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, closeTimeout: 1 })
  const duplicate = app.redis.duplicate.bind(app.redis)
  const subscribers: Redis[] = []
  app.redis.duplicate = override => {
    const subscriber = duplicate(override)
    subscribers.push(subscriber.once('ready', () => server.pause()))
    return subscriber
  }
  await app.register(cache)
  await until('the connection is there and not subscribed', () => subscribers[0]?.status === 'ready')
  const ended = endOf(subscribers[0]!)
  await app.close()
  await ended
  await new Promise(resolve => setImmediate(resolve))
  t.same(lines.map(line => line['msg']), ['redis: connected'])
  server.resume()
})

t.test('a client whose retryStrategy gives up is logged as lost', async t => {
  const server = await startRedis()
  const { logger, lines } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, retryStrategy: attempt => attempt > 1 ? null : 1 })
  const ended = endOf(app.redis)
  await server.kill()
  await ended
  t.same(lines.slice(1).map(line => line['msg']), ['redis: connection lost, reconnecting', 'redis: connection lost, and the client does not reconnect, as its retryStrategy gives up'])
})

t.test('closing waits for commands in flight, and leaves no timer that would keep the process alive', async t => {
  const timers = () => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  const app = await boot(t, { url: (await sharedRedis()).url, closeTimeout: '1m', commandTimeout: '1m' })
  const write = app.redis.set(newPrefix(), 'x'.repeat(100_000))
  await app.close()
  t.equal(await write, 'OK')
  // Those of the tests before may end meanwhile.
  t.ok(timers() <= before, `${timers()} timers, ${before} before`)
})

t.test('closing waits no longer than closeTimeout for a Redis that hangs', async t => {
  const server = await startRedis()
  const clock = createTestClock()
  const app = await boot(t, { url: server.url, closeTimeout: 100, clock })
  server.pause()
  let isClosed = false
  const closed = app.close().then(() => { isClosed = true })
  await until('it waits for the answer', () => clock.pendingTimers > 0)
  await clock.advance(99)
  t.equal(isClosed, false)
  await clock.advance(1)
  await closed
  t.equal(isClosed, true)
  server.resume()
})

t.test('closing does not wait for a Redis that fails, with work of every plugin in progress', async t => {
  const server = await startRedis()
  const faults: Array<[name: string, begin: () => unknown, end: () => unknown]> = [
    ['hangs', () => server.pause(), () => server.resume()],
    ['full', () => server.client().config('SET', 'maxmemory', '1'), () => server.client().config('SET', 'maxmemory', '0')],
    ['read-only', () => server.client().replicaof('127.0.0.1', 1), () => server.client().replicaof('NO', 'ONE')],
    ['resumed and killed', async () => { server.pause(); server.resume(); await server.kill() }, () => {}]
  ]
  for (const [name, begin, end] of faults) {
    const store = { url: server.url, answers: true }
    const { app, clock, send, finish } = await busyApp(t, store)
    store.answers = false
    await begin()
    const sent = send()
    finish()
    const { passed } = await advanceWhile(clock, app.close())
    t.ok(passed <= 2500, `${name}: closed after ${passed} ms of the clock`)
    await end()
    await advanceWhile(clock, sent)
  }
})

/** An app in which each plugin that waits on close has work in progress, until `finish` is called. */
async function busyApp (t: Test, store: { url: string, answers: boolean }): Promise<{ app: FastifyInstance, clock: TestClock, send: () => Promise<unknown>, finish: () => void }> {
  const clock = createTestClock()
  const { app } = await createTestApp(t, {
    store,
    clock,
    connection: { closeTimeout: 500, clock },
    plugins: { rateLimit: {}, session: {}, cache: { ttl: '1m' }, lock: { ttl: '10s' }, events: {}, idempotency: { scope: () => 'all' } },
    routes: app => {
      app.get('/', async () => 'page')
      app.put('/', { config: { cache: { invalidates: () => ['page'] } } }, async () => 'changed')
      app.post('/', { config: { idempotency: true } }, async () => 'paid')
    }
  })
  let finish = (): void => {}
  const finished = new Promise<void>(resolve => { finish = resolve })
  let atWork = 0
  const work = async (): Promise<void> => {
    atWork++
    await finished
  }
  const stream = app.events.stream('orders')
  await stream.consume({ group: 'g', handler: work })
  await stream.append(1)
  await app.cache.writeBehind('rows', { flushEvery: 10, write: work }).add('a', 1)
  await app.events.subscribe('a:*', () => {})
  const locked = app.locks.using('a', work).catch(() => {})
  await advanceUntil(clock, 'all are at work', () => atWork === 3)
  const headers = { 'idempotency-key': 'key' }
  const send = () => Promise.all([locked, ...(['GET', 'PUT', 'POST'] as const).map(method => app.inject({ method, url: '/', headers }))])
  return { app, clock, send, finish }
}

t.test('with a closeTimeout of 0 the connection is cut at once', async t => {
  const server = await startRedis()
  const clock = createTestClock()
  const app = await boot(t, { url: server.url, closeTimeout: 0, clock })
  server.pause()
  const { passed } = await advanceWhile(clock, app.close())
  t.ok(passed <= 20, `closed after ${passed} ms of the clock`)
  server.resume()
})

t.test('a command to a Redis that hangs is rejected after commandTimeout', async t => {
  const server = await startRedis()
  const app = await boot(t, { url: server.url, commandTimeout: 100, closeTimeout: 100 })
  server.pause()
  await t.rejects(app.redis.get('key'), /timed out/)
  server.resume()
})

t.test('the delay before a reconnection grows, is jittered and never exceeds 500 ms', async t => {
  for (const [attempt, ceiling] of [[1, 10], [2, 100], [4, 400], [5, 500], [1_000_000, 500]] as const) {
    const delays = Array.from({ length: 200 }, () => reconnectDelay(attempt))
    t.ok(Math.max(...delays) <= ceiling && Math.min(...delays) >= ceiling / 2, `attempt ${attempt}`)
    t.ok(new Set(delays).size > 3, 'two instances do not come at once')
  }
})

t.test('writes to a server that became read-only do not cost the connection, and have its role looked up once a second', async t => {
  const server = await startRedis()
  const clock = createTestClock()
  const app = await boot(t, { url: server.url, clock })
  let connections = 0
  app.redis.on('ready', () => connections++)
  await server.client().replicaof('127.0.0.1', 1)
  const lookUps = async () => Number(/cmdstat_role:calls=(\d+)/.exec(await server.client().info('commandstats'))?.[1] ?? 0)
  const write = () => app.redis.set('key', 'value')
  for (let i = 0; i < 5; i++) await t.rejects(write(), /READONLY/)
  await until('the role was looked up', async () => await lookUps() === 1)
  await clock.advance(1000)
  for (let i = 0; i < 5; i++) await t.rejects(write(), /READONLY/)
  await until('the role was looked up again', async () => await lookUps() > 1)
  t.equal(await lookUps(), 2)
  t.equal(connections, 0)
  await server.client().replicaof('NO', 'ONE')
  t.equal(await write(), 'OK')
})

t.test('after a failover behind one address a refused write leads to the new master', async t => {
  const [old, master] = await Promise.all([startRedis(), startRedis()])
  const proxy = await startProxy(old.port)
  const app = await boot(t, { host: proxy.host, port: proxy.port })
  await old.client().replicaof('127.0.0.1', master.port)
  proxy.target(master.port)
  await t.rejects(app.redis.set('key', 'value'), /READONLY/)
  await until('writes arrive', async () => await app.redis.set('key', 'value').catch(() => undefined) === 'OK')
  t.equal(await master.client().get('key'), 'value')
})

t.test('a command is sent while others wait for their replies', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const app = await boot(t, { host: proxy.host, port: proxy.port, commandTimeout: '1m', closeTimeout: 1 })
  // No replies arrive.
  proxy.delay(3_600_000)
  let isAnswered = false
  app.redis.set('order', '1').finally(() => { isAnswered = true }).catch(() => {})
  await until('the first one arrived', async () => await server.client().get('order') === '1')
  app.redis.incr('order').catch(() => {})
  await until('the second one arrived', async () => await server.client().get('order') === '2')
  t.equal(isAnswered, false)
})
