import Fastify, { type FastifyInstance } from 'fastify'
import { Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { cache } from '../../plugins/cache/index.js'
import { reconnectDelay } from '../../plugins/redis/options.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { advanceUntil, advanceWhile, createTestApp, newPrefix, sharedCluster, sharedRedis, startProxy, startRedis, until } from '../helpers/index.js'

async function boot (t: Test, options: RedisPluginOptions): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, options)
  return app
}

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

t.test('a client whose retryStrategy gives up is logged as lost for good', async t => {
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

t.test('closing waits for commands under way, and leaves no timer that would keep the process', async t => {
  const timers = () => process.getActiveResourcesInfo().filter(name => name === 'Timeout').length
  const before = timers()
  const app = await boot(t, { url: (await sharedRedis()).url, closeTimeout: '1m', commandTimeout: '1m' })
  const write = app.redis.set(newPrefix(), 'x'.repeat(100_000))
  await app.close()
  t.equal(await write, 'OK')
  t.equal(timers(), before)
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

t.test('closing does not wait for a Redis that fails, with work of every plugin under way', async t => {
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

/** An app in which each plugin that waits for something on close has work under way, until `finish` is called. */
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

t.test('a command is sent while others wait for their answers', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const app = await boot(t, { host: proxy.host, port: proxy.port, commandTimeout: '1m', closeTimeout: 1 })
  // Answers stay away.
  proxy.delay(3_600_000)
  let isAnswered = false
  app.redis.set('order', '1').finally(() => { isAnswered = true }).catch(() => {})
  await until('the first one arrived', async () => await server.client().get('order') === '1')
  app.redis.incr('order').catch(() => {})
  await until('the second one arrived', async () => await server.client().get('order') === '2')
  t.equal(isAnswered, false)
})
