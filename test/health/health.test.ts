import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { health, measurements, type HealthPluginOptions } from '../../plugins/health/index.js'
import { redis } from '../../plugins/redis/index.js'
import { startCluster, startRedis, until } from '../helpers/index.js'

async function build (t: Test, options: HealthPluginOptions = {}, redisUrl?: string) {
  const app = Fastify()
  t.teardown(() => app.close())
  if (redisUrl) await app.register(redis, { url: redisUrl })
  await app.register(health, options)
  return app
}

t.test('without checks all routes pass and are never stored', async t => {
  const app = await build(t)
  for (const url of ['/health', '/health/live', '/health/ready', '/health/startup']) {
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
    status: 'warn', checks: { mail: [{ status: 'warn', output: 'no route' }], database: [{ status: 'pass', observedValue: Number, observedUnit: 'ms', time: /Z$/ }] }
  }])
  critical = false
  t.match(await app.inject('/health/ready').then(r => [r.statusCode, r.json()]), [503, { status: 'fail' }])
  t.equal((await app.inject('/health/live')).statusCode, 200)
})

t.test('a check that hangs counts as failed after its time-out', async t => {
  const app = await build(t)
  app.health.addCheck('slow', () => new Promise(() => {}), { timeout: 30 })
  t.match((await app.inject('/health')).json(), { checks: { slow: [{ status: 'fail', output: /30 ms/ }] } })
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
  await until('the result is stale', async () => (await app.inject('/health')).json().checks.counted[0].observedValue === 2)
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
  t.match((await tolerant.inject('/health')).json(), { status: 'pass', checks: { 'redis:responseTime': [{ status: 'pass', observedUnit: 'ms' }] } })
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
  for (const options of [{ prefix: 'health' }, { prefix: '/health/' }, { details: 'all' }, { redisCritical: 1 }, { logLevel: 'loud' }, { redis: {} }, { paths: 'x' }, { paths: { live: 'live' } }, { paths: { lvie: '/live' } }, { drainDelay: -1 }, { cacheFor: 'soon' },
    { underPressure: 5 }, { underPressure: { maxDelay: 1 } }, { version: 1 }]) {
    await t.rejects(async () => { await build(t, options as HealthPluginOptions) }, { code }, JSON.stringify(options))
  }
  const app = await build(t)
  app.health.addCheck('a', () => {})
  t.throws(() => app.health.addCheck('a', () => {}), { code: 'FST_REDIS_SUITE_HEALTH_DUPLICATE_CHECK' })
  t.throws(() => app.health.addCheck('b', () => {}, { timeout: 0 }), { code })
  t.throws(() => app.health.addCheck('b', 'no' as never), { code })
  for (const name of ['', 'a b', 'a:b', 5]) t.throws(() => app.health.addCheck(name as string, () => {}), { code })
})

t.test('the details are those of the draft: who it is, and each check with value, unit and time', async t => {
  const app = await build(t, { version: '1', releaseId: '1.2.3', serviceId: 'shop', description: 'a shop' })
  app.health.addCheck('queue', () => measurements({ length: { observedValue: 5, observedUnit: 'jobs' }, age: { observedValue: 90, observedUnit: 's', status: 'fail', output: 'old' } }), { critical: false })
  t.match((await app.inject('/health')).json(), {
    status: 'warn',
    version: '1',
    releaseId: '1.2.3',
    serviceId: 'shop',
    description: 'a shop',
    checks: {
      'queue:length': [{ status: 'pass', observedValue: 5, observedUnit: 'jobs', time: /Z$/ }],
      'queue:age': [{ status: 'warn', output: 'old' }],
      'process:eventLoopDelay': [{ componentType: 'system', observedUnit: 'ms' }],
      'process:heapUsed': [{ observedValue: Number, observedUnit: 'bytes' }]
    }
  })
})

t.test('startup passes once the app has been ready, and whatever comes after', async t => {
  const app = await build(t)
  let isWarm = false
  app.health.addCheck('warm', () => { if (!isWarm) throw new Error('cold') }, { cacheFor: 0 })
  t.equal((await app.inject('/health/startup')).statusCode, 503)
  isWarm = true
  t.equal((await app.inject('/health/startup')).statusCode, 200)
  isWarm = false
  t.equal((await app.inject('/health/startup')).statusCode, 200)
  t.equal((await app.inject('/health/ready')).statusCode, 503)
})

t.test('each route can be moved, or left out', async t => {
  const app = await build(t, { prefix: '/internal', paths: { live: '/healthz', startup: false, details: '/all' } })
  const statuses = await Promise.all(['/internal/healthz', '/internal/ready', '/internal/all', '/internal/startup', '/internal', '/internal/live'].map(async url => (await app.inject(url)).statusCode))
  t.same(statuses, [200, 200, 200, 404, 404, 404])
})

t.test('under pressure requests are answered 503 and readiness fails, but probes are answered', async t => {
  const app = await build(t, { cacheFor: 0, underPressure: { maxHeapUsedBytes: 1, sampleInterval: 10, retryAfter: 7 } })
  app.get('/', async () => 'ok')
  await until('it is felt', async () => (await app.inject('/')).statusCode === 503)
  t.equal((await app.inject('/')).headers['retry-after'], '7')
  t.match(await app.inject('/health/ready').then(r => [r.statusCode, r.json()]), [503, { checks: { 'process:eventLoopDelay': [{ status: 'fail', output: 'under pressure' }] } }])
  t.equal((await app.inject('/health/live')).statusCode, 200)
})

t.test('what Redis tells of itself is shown, with a warning where it is nearly full, and nothing but the PING where it may not be asked', async t => {
  const server = await startRedis()
  const app = await build(t, { cacheFor: 0 }, server.url)
  const client = server.client()
  const checks = async () => (await app.inject('/health')).json().checks
  t.match(await checks(), {
    'redis:circuit': [{ observedValue: 'closed' }],
    'redis:role': [{ observedValue: 'master', status: 'pass' }],
    'redis:connectedClients': [{ observedValue: Number }],
    'redis:usedMemory': [{ observedUnit: 'bytes' }],
    'redis:memoryUtilization': [{ observedValue: 0, status: 'pass' }],
    'redis:maxMemoryPolicy': [{ observedValue: 'noeviction' }],
    'redis:evictedKeys': [{ observedValue: 0 }],
    'redis:hitRatio': [{ observedUnit: 'percent' }]
  })
  await client.config('SET', 'maxmemory', '1mb')
  t.match(await checks(), { 'redis:memoryUtilization': [{ status: 'warn', output: /noeviction/ }] })
  await client.config('SET', 'maxmemory', '0')
  await client.replicaof('127.0.0.1', '1')
  t.match(await checks(), { 'redis:role': [{ observedValue: 'slave', status: 'warn', output: /lost its master/ }] })
  await client.replicaof('NO', 'ONE')
  await client.acl('SETUSER', 'default', '-info')
  t.same(Object.keys(await checks()).filter(name => name.startsWith('redis')), ['redis:responseTime', 'redis:circuit'])
})

t.test('of a Cluster the state and the slots are shown', async t => {
  const cluster = await startCluster()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { cluster: { nodes: cluster.startupNodes } })
  await app.register(health, { cacheFor: 0 })
  t.match((await app.inject('/health')).json().checks, {
    'redis:clusterState': [{ observedValue: 'ok', status: 'pass' }],
    'redis:clusterSlots': [{ observedValue: 16384 }],
    'redis:replicas': [{ observedValue: 3 }],
    'redis:replicationLag': [{ observedUnit: 'bytes' }]
  })
})

t.test('10,000 probes at once ask Redis once', async t => {
  const server = await startRedis()
  const app = await build(t, { cacheFor: '1 minute' }, server.url)
  await app.ready()
  const pings = async () => Number(/cmdstat_ping:calls=(\d+)/.exec(await server.client().info('commandstats'))?.[1] ?? 0)
  const before = await pings()
  for (let i = 0; i < 10; i++) await Promise.all(Array.from({ length: 1000 }, () => app.inject('/health/ready')))
  t.equal(await pings() - before, 1)
})

t.test('in a rolling restart behind a load balancer none of 10,000 requests fails', async t => {
  const instances = new Map<string, FastifyInstance>()
  async function start (): Promise<string> {
    const app = Fastify()
    await app.register(health, { drainDelay: 300 })
    app.get('/', async () => { await new Promise(resolve => setTimeout(resolve, 5)); return 'ok' })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    instances.set(url, app)
    return url
  }
  t.teardown(async () => { await Promise.all([...instances.values()].map(app => app.close())) })
  // As load balancers do: it probes each one, and sends requests in turn to those that were ready when it last looked.
  let ready: string[] = []
  const probe = async () => {
    const states = await Promise.all([...instances.keys()].map(async url => [url, (await fetch(`${url}/health/ready`).catch(() => undefined))?.status === 200] as const))
    ready = states.filter(([, isReady]) => isReady).map(([url]) => url)
  }
  await Promise.all([start(), start(), start()])
  await probe()
  const prober = setInterval(() => { probe().catch(() => {}) }, 50)
  t.teardown(() => clearInterval(prober))

  let [sent, failed] = [0, 0]
  const user = async () => {
    while (sent < 10_000) {
      const url = ready[sent++ % ready.length] ?? ''
      const status = await fetch(url).then(async response => { await response.text(); return response.status }, () => 0)
      if (status !== 200) failed++
    }
  }
  const users = Promise.all(Array.from({ length: 30 }, user))
  for (const [url, app] of [...instances]) {
    const next = await start()
    await until('the new one gets requests', () => ready.includes(next))
    await app.health.drain()
    await app.close()
    instances.delete(url)
  }
  t.ok(sent < 10_000, 'all were restarted under load')
  await users
  t.same([sent >= 10_000, failed], [true, 0])
})
