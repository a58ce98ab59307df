import { hasSubscribers } from 'node:diagnostics_channel'
import dns from 'node:dns'
import { Agent, get as httpGet } from 'node:http'
import { connect } from 'node:http2'
import { Agent as HttpsAgent, get as httpsGet } from 'node:https'
import type { AddressInfo } from 'node:net'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { health, measurements, type HealthPluginOptions } from '../../plugins/health/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { advanceUntil, advanceWhile, createTestApp, startRedis, until, type TestApp, type TestAppOptions } from '../helpers/index.js'
import { makeCertificate } from '../helpers/servers/certificate.js'

const build = (t: Test, options: HealthPluginOptions = {}, more: TestAppOptions = {}): Promise<TestApp> =>
  createTestApp(t, { plugins: { health: options }, ...more })

async function ready (app: FastifyInstance): Promise<[status: number, body: Record<string, unknown>]> {
  const response = await app.inject('/health/ready')
  return [response.statusCode, response.json()]
}

t.test('without checks all routes pass and are never stored', async t => {
  const { app } = await build(t)
  for (const url of ['/health', '/health/live', '/health/ready', '/health/startup']) {
    const response = await app.inject(url)
    t.equal(response.statusCode, 200)
    t.match(response.json(), { status: 'pass' })
    t.match(response.headers, { 'content-type': 'application/health+json', 'cache-control': 'no-store' })
  }
})

t.test('a critical check that fails makes readiness fail, another one is a warning, and liveness passes', async t => {
  const { app } = await build(t)
  let critical = true
  app.health.addCheck('mail', () => { throw new Error('no route') }, { critical: false, cacheFor: 0 })
  app.health.addCheck('database', async () => { if (!critical) throw new Error('gone') }, { cacheFor: 0 })
  t.match(await ready(app), [200, {
    status: 'warn', checks: { mail: [{ status: 'warn', output: 'no route' }], database: [{ status: 'pass', observedValue: Number, observedUnit: 'ms', time: /Z$/ }] }
  }])
  critical = false
  t.match(await ready(app), [503, { status: 'fail' }])
  t.equal((await app.inject('/health/live')).statusCode, 200)
})

t.test('a result of false, an error, a status or a response that is not ok is a status, and other values are observed values', async t => {
  const cyclic: Record<string, unknown> = {}
  cyclic['self'] = cyclic
  const table: Array<[name: string, result: unknown, expected: object]> = [
    ['nothing', undefined, { status: 'pass', observedUnit: 'ms' }],
    ['true', true, { status: 'pass', observedValue: true }],
    ['false', false, { status: 'fail', output: 'the check returned false' }],
    ['error', new Error('gone'), { status: 'fail', output: 'gone' }],
    ['fail', { status: 'fail', output: 'disk full' }, { status: 'fail', output: 'disk full' }],
    ['warn', { status: 'warn', observedValue: 91, observedUnit: 'percent' }, { status: 'warn', observedValue: 91, observedUnit: 'percent' }],
    ['pass', { status: 'PASS' }, { status: 'pass' }],
    ['down', { status: 'down' }, { status: 'fail' }],
    ['up', { status: 'up' }, { status: 'pass' }],
    ['another', { status: 'idle' }, { status: 'pass', observedValue: { status: 'idle' } }],
    ['inherited', { status: 'constructor' }, { status: 'pass', observedValue: { status: 'constructor' } }],
    ['response-ok', new Response('x'), { status: 'pass', observedValue: 200 }],
    ['response-failed', new Response('x', { status: 503 }), { status: 'fail', observedValue: 503, output: 'HTTP 503' }],
    ['bigint', 5n, { status: 'pass', observedValue: '5' }],
    ['cyclic', { status: 'warn', observedValue: cyclic }, { status: 'warn', observedValue: '[object Object]' }],
    ['misspelt', measurements({ queue: { status: 'bad' as never } }), { status: 'fail', output: /"queue" is the string "bad"; allowed: 'pass', 'warn', 'fail'/ }]
  ]
  const { app } = await build(t)
  for (const [name, result] of table) app.health.addCheck(name, async () => result)
  const [statusCode, { checks }] = await ready(app)
  t.equal(statusCode, 503)
  for (const [name, , expected] of table) t.match((checks as Record<string, object>)[name], [expected], name)
})

t.test('a result with the status fail makes readiness fail, or is a warning if the check is not critical', async t => {
  const { app } = await build(t)
  app.health.addCheck('mail', () => false, { critical: false })
  t.match(await ready(app), [200, { status: 'warn' }])
  app.health.addCheck('disk', () => ({ status: 'fail' }))
  t.match(await ready(app), [503, { status: 'fail' }])
})

t.test('a check that hangs counts as failed after its timeout', async t => {
  const { app, clock } = await build(t)
  app.health.addCheck('slow', () => new Promise(() => {}), { timeout: 30_000 })
  let isAnswered = false
  const answer = app.inject('/health').finally(() => { isAnswered = true })
  await clock.advance(29_999)
  t.equal(isAnswered, false)
  await clock.advance(1)
  t.match((await answer).json(), { checks: { slow: [{ status: 'fail', output: /30000 ms/ }] } })
})

t.test('a flood of probes runs a check once, and again after cacheFor', async t => {
  const { app, clock } = await build(t)
  let runs = 0
  app.health.addCheck('counted', async () => ++runs, { cacheFor: '1 minute' })
  const flood = async () => await Promise.all(Array.from({ length: 200 }, () => app.inject('/health/ready')))
  t.same((await flood()).filter(({ statusCode }) => statusCode !== 200), [])
  await clock.advance(59_999)
  await flood()
  t.equal(runs, 1)
  await clock.advance(1)
  await flood()
  t.equal(runs, 2)
  t.match((await app.inject('/health')).json(), { checks: { counted: [{ observedValue: 2, time: new Date(clock.now()).toISOString() }] } })
})

t.test('after drain() readiness fails while requests are still served, and it resolves after drainDelay', async t => {
  const { app, clock } = await build(t, { drainDelay: '30s' }, { routes: app => app.get('/', async () => 'hello') })
  let isDrained = false
  const drained = app.health.drain().then(() => { isDrained = true })
  t.match(await ready(app), [503, { status: 'fail', draining: true }])
  t.equal((await app.inject('/health/live')).statusCode, 200)
  t.equal((await app.inject('/')).body, 'hello')
  await clock.advance(29_999)
  t.equal(isDrained, false)
  await clock.advance(1)
  await drained
  t.equal(isDrained, true)
})

t.test('requests that the option details allows get the checks, others the status', async t => {
  const table: Array<[HealthPluginOptions['details'], string, boolean]> = [
    [undefined, '127.0.0.1', true], [undefined, '10.0.0.9', false], [true, '10.0.0.9', true], [false, '127.0.0.1', false],
    [request => request.headers['x-key'] === 'k', '10.0.0.9', true], [() => false, '127.0.0.1', false]
  ]
  for (const [details, remoteAddress, shown] of table) {
    const { app } = await build(t, { details })
    app.health.addCheck('c', () => {})
    const body = (await app.inject({ url: '/health', remoteAddress, headers: { 'x-key': 'k' } })).json()
    t.equal('checks' in body, shown)
  }
})

t.test('an outage of Redis is a warning, or critical by option, and ends with the outage', async t => {
  const server = await startRedis()
  const tolerant = await build(t, {}, { store: server })
  const strict = await build(t, { redisCritical: true }, { store: server })
  t.match((await tolerant.app.inject('/health')).json(), { status: 'pass', checks: { 'redis:responseTime': [{ status: 'pass', observedUnit: 'ms' }] } })
  t.match(await ready(strict.app), [200, { status: 'pass' }])
  server.pause()
  for (const [{ app, clock }, status, statusCode] of [[tolerant, 'warn', 200], [strict, 'fail', 503]] as const) {
    // Earlier results are not shown any more.
    await clock.advance(1000)
    t.match((await advanceWhile(clock, ready(app))).value, [statusCode, { status }])
  }
  server.resume()
  const { app, clock } = strict
  await advanceUntil(clock, 'Redis is ready again', async () => (await advanceWhile(clock, ready(app))).value[0] === 200, { step: 1000 })
  t.match(await ready(app), [200, { status: 'pass', checks: { 'redis:responseTime': [{ status: 'pass' }] } }])
})

t.test('the path can be changed', async t => {
  const { app } = await build(t, { prefix: '/internal/healthz' })
  t.equal((await app.inject('/internal/healthz/live')).statusCode, 200)
  t.equal((await app.inject('/health/live')).statusCode, 404)
})

t.test('invalid options and checks fail with a coded error', async t => {
  const code = 'FST_REDIS_SUITE_HEALTH_INVALID_OPTION'
  for (const options of [{ prefix: 'health' }, { prefix: '/health/' }, { details: 'all' }, { redisCritical: 1 }, { logLevel: 'loud' }, { redis: {} }, { paths: 'x' }, { paths: { live: 'live' } }, { paths: { live: null } }, { paths: { lvie: '/live' } }, { drainDelay: -1 }, { cacheFor: 'soon' },
    { underPressure: 5 }, { underPressure: { maxDelay: 1 } }, { version: 1 }, { clock: {} }]) {
    await t.rejects(async () => { await Fastify().register(health, options as HealthPluginOptions) }, { code }, JSON.stringify(options))
  }
  const { app } = await build(t)
  app.health.addCheck('a', () => {})
  t.throws(() => app.health.addCheck('a', () => {}), { code: 'FST_REDIS_SUITE_HEALTH_DUPLICATE_CHECK' })
  t.throws(() => app.health.addCheck('b', () => {}, { timeout: 0 }), { code })
  t.throws(() => app.health.addCheck('b', 'no' as never), { code })
  for (const name of ['', 'a b', 'a:b', 5]) t.throws(() => app.health.addCheck(name as string, () => {}), { code })
})

t.test('details: null counts as left out', async t => {
  const { app } = await build(t, { details: null } as unknown as HealthPluginOptions)
  t.equal((await app.inject('/health')).statusCode, 200)
})

t.test('the details have the form of the IETF draft: the service, and each check with value, unit and time', async t => {
  const { app } = await build(t, { version: '1', releaseId: '1.2.3', serviceId: 'shop', description: 'a shop' })
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

t.test('startup passes from the first time that the app is ready', async t => {
  const { app } = await build(t)
  let isWarm = false
  app.health.addCheck('warm', () => { if (!isWarm) throw new Error('cold') }, { cacheFor: 0 })
  t.equal((await app.inject('/health/startup')).statusCode, 503)
  isWarm = true
  t.equal((await app.inject('/health/startup')).statusCode, 200)
  isWarm = false
  t.equal((await app.inject('/health/startup')).statusCode, 200)
  t.equal((await app.inject('/health/ready')).statusCode, 503)
})

t.test('each route can have another path, or be left out', async t => {
  const { app } = await build(t, { prefix: '/internal', paths: { live: '/healthz', startup: false, details: '/all' } })
  const statuses = await Promise.all(['/internal/healthz', '/internal/ready', '/internal/all', '/internal/startup', '/internal', '/internal/live'].map(async url => (await app.inject(url)).statusCode))
  t.same(statuses, [200, 200, 200, 404, 404, 404])
})

t.test('under pressure requests get 503 and readiness fails, but probes are served', async t => {
  const underPressure = { maxHeapUsedBytes: 1, sampleInterval: 10, retryAfter: 7 }
  const { app } = await build(t, { cacheFor: 0, underPressure }, { routes: app => app.get('/', async () => 'ok') })
  await until('requests get 503', async () => (await app.inject('/')).statusCode === 503)
  t.equal((await app.inject('/')).headers['retry-after'], '7')
  t.match(await ready(app), [503, { checks: { 'process:eventLoopDelay': [{ status: 'fail', output: 'under pressure' }] } }])
  t.equal((await app.inject('/health/live')).statusCode, 200)
})

t.test('the state of Redis is shown, with a warning if it is nearly full, and only the PING if INFO is refused', async t => {
  const server = await startRedis()
  const { app } = await build(t, { cacheFor: 0 }, { store: server })
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
  const [, used] = /used_memory:(\d+)/.exec(await client.info('memory')) ?? []
  await client.config('SET', 'maxmemory', String(used))
  t.match(await checks(), { 'redis:memoryUtilization': [{ status: 'warn', output: /noeviction/ }] })
  await client.config('SET', 'maxmemory', '0')
  await client.replicaof('127.0.0.1', '1')
  t.match(await checks(), { 'redis:role': [{ observedValue: 'slave', status: 'warn', output: /disconnected from its master/ }] })
  await client.replicaof('NO', 'ONE')
  await client.acl('SETUSER', 'default', '-info')
  t.same(Object.keys(await checks()).filter(name => name.startsWith('redis')), ['redis:responseTime', 'redis:circuit'])
})

t.test('the state and the slots of a Cluster are shown', async t => {
  const { app } = await build(t, { cacheFor: 0 }, { store: 'cluster' })
  t.match((await app.inject('/health')).json().checks, {
    'redis:clusterState': [{ observedValue: 'ok', status: 'pass' }],
    'redis:clusterSlots': [{ observedValue: 16384 }],
    'redis:replicas': [{ observedValue: 3 }],
    'redis:replicationLag': [{ observedUnit: 'bytes' }]
  })
})

t.test('500 probes at once cause one PING', async t => {
  const server = await startRedis()
  const { app } = await build(t, { cacheFor: '1 minute' }, { store: server })
  const pings = async () => Number(/cmdstat_ping:calls=(\d+)/.exec(await server.client().info('commandstats'))?.[1] ?? 0)
  const before = await pings()
  const answers = await Promise.all(Array.from({ length: 500 }, () => app.inject('/health/ready')))
  t.same(answers.filter(({ statusCode }) => statusCode !== 200), [])
  t.equal(await pings() - before, 1)
})

t.test('in a rolling restart behind a load balancer no request fails', async t => {
  const clock = createTestClock()
  const instances = new Map<string, FastifyInstance>()
  async function start (): Promise<void> {
    const app = Fastify()
    await app.register(health, { drainDelay: '30s', clock })
    app.get('/', async () => { await new Promise(resolve => setTimeout(resolve, 5)); return 'ok' })
    instances.set(await app.listen({ port: 0, host: '127.0.0.1' }), app)
  }
  t.teardown(async () => { await Promise.all([...instances.values()].map(app => app.close())) })
  let targets: string[] = []
  /** As load balancers do: requests go in turn to the instances that were ready when it last looked. */
  const probe = async () => {
    const states = await Promise.all([...instances.keys()].map(async url => [url, (await fetch(`${url}/health/ready`)).status === 200] as const))
    targets = states.filter(([, isReady]) => isReady).map(([url]) => url)
  }
  await Promise.all([start(), start()])
  await probe()

  const over = new AbortController()
  const statuses: number[] = []
  const underWay: string[] = []
  const user = async () => {
    for (let sent = 0; !over.signal.aborted; sent++) {
      const url = targets[sent % targets.length] ?? ''
      underWay.push(url)
      const response = await fetch(url)
      await response.text()
      underWay.splice(underWay.indexOf(url), 1)
      statuses.push(response.status)
    }
  }
  const users = Promise.all(Array.from({ length: 5 }, user))
  const someMore = async () => { const before = statuses.length; await until('requests are served', () => statuses.length >= before + 20) }
  for (const [url, app] of [...instances]) {
    await start()
    await probe()
    await someMore()
    const drained = app.health.drain()
    t.ok(targets.includes(url), 'the load balancer does not know yet')
    await someMore()
    await probe()
    t.notOk(targets.includes(url))
    await until('earlier requests are served', () => !underWay.includes(url))
    await clock.advance('30s')
    await drained
    await app.close()
    instances.delete(url)
    await someMore()
  }
  over.abort()
  await users
  t.same(statuses.filter(status => status !== 200), [])
})

t.test('after drain() each response ends its connection, so that clients with keep-alive connect to other instances', async t => {
  const { app, clock } = await build(t, { drainDelay: '30s' }, { routes: app => app.get('/', async () => 'hello') })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const get = async () => await new Promise((resolve, reject) => {
    const request = httpGet({ port: (app.server.address() as AddressInfo).port, host: '127.0.0.1', agent }, response => {
      response.resume().on('end', () => resolve([response.statusCode, response.headers.connection, request.reusedSocket]))
    }).on('error', reject)
  })
  t.same([await get(), await get()], [[200, 'keep-alive', false], [200, 'keep-alive', true]])
  const drained = app.health.drain()
  t.same([await get(), await get()], [[200, 'close', true], [200, 'close', false]])
  await clock.advance('30s')
  await drained
})

t.test('drain() ends the connections to each address of localhost, and those of no other app', async t => {
  const { lookup } = dns
  t.teardown(() => { dns.lookup = lookup })
  const addresses = ['127.0.0.1', '127.0.0.2'].map(address => ({ address, family: 4 }))
  dns.lookup = ((name: string, ...rest: [(...results: unknown[]) => void] | [{ all?: boolean }, (...results: unknown[]) => void]) => {
    const [options, done] = rest.length === 1 ? [{ all: false }, rest[0]] : rest
    // Newer versions of Node.js look up each address that a server listens on as well.
    if (options.all === true) done(null, name === 'localhost' ? addresses : [{ address: name, family: 4 }])
    else done(null, name === 'localhost' ? '127.0.0.1' : name, 4)
  }) as typeof lookup
  const [drained, other] = await Promise.all([build(t), build(t)])
  for (const { app } of [drained, other]) await app.listen({ port: 0, host: 'localhost' })
  t.equal(drained.app.addresses().length, 2)
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  const get = async (app: FastifyInstance, host: string) => await new Promise((resolve, reject) => {
    httpGet({ port: (app.server.address() as AddressInfo).port, host, agent, path: '/health/live' }, response => {
      response.resume().on('end', () => resolve(response.headers.connection))
    }).on('error', reject)
  })
  const all = async () => {
    const connections: unknown[] = []
    for (const { app } of [drained, other]) for (const { address } of addresses) connections.push(await get(app, address))
    return connections
  }
  t.same(await all(), ['keep-alive', 'keep-alive', 'keep-alive', 'keep-alive'])
  await advanceWhile(drained.clock, drained.app.health.drain())
  t.same(await all(), ['close', 'close', 'keep-alive', 'keep-alive'])
  await drained.app.close()
  await drained.app.health.drain()
  t.notOk(hasSubscribers('http.server.request.start'))
})

t.test('drain() leaves a limit of requests per connection that the app has set', async t => {
  const { app, clock } = await build(t, {}, { server: { maxRequestsPerSocket: 100 } })
  await advanceWhile(clock, app.health.drain())
  t.equal(app.server.maxRequestsPerSocket, 100)
})

t.test('drain() on a server of HTTP/2 ends the connections of HTTP/1.1, and serves those of HTTP/2', async t => {
  const { cert, key } = await makeCertificate()
  const server = { http2: true, https: { allowHTTP1: true, cert, key } } as object
  const { app, clock } = await build(t, {}, { server, routes: app => app.get('/', async () => 'hello') })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const agent = new HttpsAgent({ keepAlive: true, maxSockets: 1, ca: cert })
  const session = connect(`https://127.0.0.1:${port}`, { ca: cert })
  t.teardown(() => { agent.destroy(); session.destroy() })
  const byHttp1 = async () => await new Promise((resolve, reject) => {
    httpsGet({ port, host: '127.0.0.1', agent }, response => {
      response.resume().on('end', () => resolve([response.statusCode, response.headers.connection]))
    }).on('error', reject)
  })
  const byHttp2 = async () => await new Promise((resolve, reject) => {
    session.request({ ':path': '/' }).on('response', headers => resolve(headers[':status'])).on('error', reject).resume().end()
  })
  t.same([await byHttp1(), await byHttp2()], [[200, 'keep-alive'], 200])
  await advanceWhile(clock, app.health.drain())
  t.same([await byHttp1(), await byHttp2(), await byHttp2()], [[200, 'close'], 200, 200])
  t.equal(await ready(app).then(([status]) => status), 503)
})
