import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { health, type HealthPluginOptions } from '../../plugins/health/index.js'
import { redis } from '../../plugins/redis/index.js'
import { startRedis, until } from '../helpers/index.js'

async function build (t: Test, options: HealthPluginOptions = {}, redisUrl?: string) {
  const app = Fastify()
  t.teardown(() => app.close())
  if (redisUrl) await app.register(redis, { url: redisUrl })
  await app.register(health, options)
  return app
}

t.test('without checks all routes pass and are never stored', async t => {
  const app = await build(t)
  for (const url of ['/health', '/health/live', '/health/ready']) {
    const response = await app.inject(url)
    t.equal(response.statusCode, 200)
    t.match(response.json(), { status: 'pass' })
    t.match(response.headers, { 'content-type': 'application/health+json', 'cache-control': 'no-store' })
  }
})

t.test('a critical check that fails turns readiness red, another one is a warning, and liveness stays green', async t => {
  const app = await build(t)
  let critical = true
  app.health.addCheck('mail', () => { throw new Error('no route') }, { critical: false, cacheFor: 0 })
  app.health.addCheck('database', async () => { if (!critical) throw new Error('gone') }, { cacheFor: 0 })
  t.match(await app.inject('/health/ready').then(r => [r.statusCode, r.json()]), [200, {
    status: 'warn', checks: { mail: { status: 'warn', output: 'no route' }, database: { status: 'pass' } }
  }])
  critical = false
  t.match(await app.inject('/health/ready').then(r => [r.statusCode, r.json()]), [503, { status: 'fail' }])
  t.equal((await app.inject('/health/live')).statusCode, 200)
})

t.test('a check that hangs counts as failed after its time-out', async t => {
  const app = await build(t)
  app.health.addCheck('slow', () => new Promise(() => {}), { timeout: 30 })
  t.match((await app.inject('/health')).json(), { checks: { slow: { status: 'fail', output: /30 ms/ } } })
})

t.test('a flood of probes asks once', async t => {
  const app = await build(t)
  let asked = 0
  app.health.addCheck('counted', async () => { asked++ }, { cacheFor: '1 minute' })
  await Promise.all(Array.from({ length: 200 }, () => app.inject('/health/ready')))
  t.equal(asked, 1)
})

t.test('a result is asked for anew when cacheFor is over', async t => {
  const app = await build(t)
  let asked = 0
  app.health.addCheck('counted', () => ++asked, { cacheFor: 20 })
  await app.inject('/health')
  await until('the result is stale', async () => (await app.inject('/health')).json().checks.counted.observedValue === 2)
})

t.test('after drain() readiness is red while requests are still answered', async t => {
  const app = await build(t)
  app.get('/', async () => 'hello')
  app.health.drain()
  t.match(await app.inject('/health/ready').then(r => [r.statusCode, r.json()]), [503, { status: 'fail', draining: true }])
  t.equal((await app.inject('/health/live')).statusCode, 200)
  t.equal((await app.inject('/')).body, 'hello')
})

t.test('details are for those who are allowed to see them', async t => {
  const table: Array<[HealthPluginOptions['details'], string, boolean]> = [
    [undefined, '127.0.0.1', true], [undefined, '10.0.0.9', false], [true, '10.0.0.9', true], [false, '127.0.0.1', false],
    [request => request.headers['x-key'] === 'k', '10.0.0.9', true], [() => false, '127.0.0.1', false]
  ]
  for (const [details, remoteAddress, shown] of table) {
    const app = await build(t, { details })
    app.health.addCheck('c', () => {})
    const body = (await app.inject({ url: '/health', remoteAddress, headers: { 'x-key': 'k', 'x-forwarded-for': '127.0.0.1' } })).json()
    t.equal('checks' in body, shown)
  }
})

t.test('Redis is checked where there is one: its loss is a warning, or critical by option, and it is noticed when it is back', async t => {
  const server = await startRedis()
  const tolerant = await build(t, {}, server.url)
  const strict = await build(t, { redisCritical: true }, server.url)
  t.match((await tolerant.inject('/health')).json(), { status: 'pass', checks: { redis: { status: 'pass' } } })
  server.pause()
  await until('the loss is noticed', async () => (await tolerant.inject('/health')).json().status === 'warn')
  t.equal((await tolerant.inject('/health/ready')).statusCode, 200)
  await until('the loss is noticed', async () => (await strict.inject('/health/ready')).statusCode === 503)
  server.resume()
  await until('it is back', async () => (await strict.inject('/health/ready')).statusCode === 200)
})

t.test('the path can be moved', async t => {
  const app = await build(t, { prefix: '/internal/healthz' })
  t.equal((await app.inject('/internal/healthz/live')).statusCode, 200)
  t.equal((await app.inject('/health/live')).statusCode, 404)
})

t.test('wrong options and checks fail with a coded error', async t => {
  const code = 'FST_REDIS_SUITE_HEALTH_INVALID_OPTION'
  for (const options of [{ prefix: 'health' }, { prefix: '/health/' }, { details: 'all' }, { redisCritical: 1 }, { logLevel: 'loud' }, { redis: {} }, { paths: [] }]) {
    await t.rejects(async () => { await build(t, options as HealthPluginOptions) }, { code }, JSON.stringify(options))
  }
  const app = await build(t)
  app.health.addCheck('a', () => {})
  t.throws(() => app.health.addCheck('a', () => {}), { code: 'FST_REDIS_SUITE_HEALTH_DUPLICATE_CHECK' })
  t.throws(() => app.health.addCheck('b', () => {}, { timeout: 0 }), { code })
})
