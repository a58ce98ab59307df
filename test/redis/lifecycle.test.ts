import Fastify from 'fastify'
import t from 'tap'
import { reconnectDelay } from '../../plugins/redis/options.js'
import { redis } from '../../plugins/redis/index.js'
import { startProxy, startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

t.test('with required: false the app boots without Redis and uses it when it comes', async t => {
  const server = await startRedis()
  await server.kill()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, required: false, connectTimeout: 200 })
  t.not(app.redis.status, 'ready')
  await server.restart()
  await until('the connection is back', () => app.redis.status === 'ready')
  t.equal(await app.redis.ping(), 'PONG')
})

t.test('with required: false a namespaced client is decorated too', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { port: 1, namespace: 'late', required: false, connectTimeout: 50 })
  t.ok(app.redis['late'])
})

t.test('an outage is one line when it begins and one when it ends, however many errors there were', async t => {
  const server = await startRedis({ password: 'not-to-be-logged' })
  const { logger, lines, text } = collectLog()
  const app = Fastify({ loggerInstance: logger })
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url })
  await server.kill()
  await new Promise(resolve => setTimeout(resolve, 1200))
  await server.restart()
  await until('the connection is back', () => app.redis.status === 'ready')
  const messages = lines.map(line => line['msg'])
  t.same(messages, ['redis: connected', 'redis: connection lost, reconnecting', 'redis: connected'])
  t.ok(Number(lines[2]?.['errors']) >= 2, 'the errors in between are counted')
  t.notMatch(text(), 'not-to-be-logged')
})

t.test('closing waits for commands under way', async t => {
  const server = await startRedis()
  const app = Fastify()
  await app.register(redis, { url: server.url })
  const write = app.redis.set('key', 'x'.repeat(100_000))
  await app.close()
  t.equal(await write, 'OK')
})

t.test('closing does not wait longer than closeTimeout for a Redis that hangs', async t => {
  const server = await startRedis()
  const app = Fastify()
  await app.register(redis, { url: server.url, closeTimeout: 100 })
  server.pause()
  const sinceStart = stopwatch()
  await app.close()
  t.ok(sinceStart() < 600)
  server.resume()
})

t.test('a command to a Redis that hangs is rejected in time', async t => {
  const server = await startRedis()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, commandTimeout: 100, closeTimeout: 100 })
  server.pause()
  await t.rejects(app.redis.get('key'), /timed out/)
  server.resume()
})

t.test('the delay before a reconnection grows, is jittered and never exceeds 500 ms', async t => {
  for (const [attempt, ceiling] of [[1, 10], [2, 100], [4, 400], [5, 500], [1_000_000, 500]] as const) {
    const delays = Array.from({ length: 200 }, () => reconnectDelay(attempt))
    t.ok(Math.max(...delays) <= ceiling && Math.min(...delays) >= ceiling / 2)
    t.ok(new Set(delays).size > 3, 'two instances do not come at once')
  }
})

t.test('a write to a server that became read-only does not cost the connection', async t => {
  const master = await startRedis()
  const server = await startRedis()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url })
  let connections = 0
  app.redis.on('ready', () => connections++)
  await server.client().replicaof('127.0.0.1', master.port)
  for (let i = 0; i < 5; i++) await t.rejects(app.redis.set('key', 'value'))
  await new Promise(resolve => setTimeout(resolve, 100))
  t.equal(connections, 0)
  await server.client().replicaof('NO', 'ONE')
  t.equal(await app.redis.set('key', 'value'), 'OK')
})

t.test('after a failover behind one address a refused write leads to the new master', async t => {
  const [old, master] = [await startRedis(), await startRedis()]
  const proxy = await startProxy(old.port)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { host: proxy.host, port: proxy.port })
  await old.client().replicaof('127.0.0.1', master.port)
  proxy.target(master.port)
  await t.rejects(app.redis.set('key', 'value'), /READONLY/)
  await until('writes arrive', async () => await app.redis.set('key', 'value').catch(() => undefined) === 'OK')
  t.equal(await master.client().get('key'), 'value')
})

t.test('a command does not wait for the answers to others', async t => {
  const proxy = await startProxy((await startRedis()).port)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { host: proxy.host, port: proxy.port })
  proxy.delay(200)
  const order: string[] = []
  const first = app.redis.set('order', '1').then(() => order.push('first'))
  await new Promise(resolve => setTimeout(resolve, 20))
  const sinceStart = stopwatch()
  const second = app.redis.get('order').then(value => { order.push(`then ${value}`) })
  await Promise.all([first, second])
  t.same(order, ['first', 'then 1'])
  t.ok(sinceStart() < 330, 'one round trip of 200 ms, not what is left of one and another')
})
