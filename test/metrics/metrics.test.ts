import { readFile } from 'node:fs/promises'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { Counter, Registry } from 'prom-client'
import t, { type Test } from 'tap'
import { cache, health, metrics, rateLimit, redis, session } from '../../plugins/index.js'
import type { MetricsPluginOptions } from '../../plugins/metrics/index.js'
import { METRICS } from '../../plugins/metrics/names.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { advanceUntil, advanceWhile, closeApp, createTestApp, newPrefix, SECRET, sharedCluster, sharedRedis, startRedis } from '../helpers/index.js'
import { requestAtRandom } from '../helpers/metrics/random-requests.js'
import { scrape, Scrape } from '../helpers/metrics/scrape.js'
import { countListeners } from '../helpers/rate-limit/listening.js'
import { Browser } from '../helpers/session/session-app.js'

const server = await sharedRedis()

declare module 'fastify' {
  interface Session {
    visits?: number
  }
}

async function plain (t: Test, options: MetricsPluginOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(metrics, options)
  return app
}

/** All plugins. Metrics is the first, so that no other one is registered before it. */
async function whole (t: Test, options: MetricsPluginOptions = {}, connection: object = { url: server.url }, clock = createTestClock()): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => closeApp(app, clock))
  await app.register(metrics, { clock, ...options })
  await app.register(redis, { ...connection, prefix: newPrefix() })
  await app.register(rateLimit, { max: 1000, timeWindow: '1 minute', clock })
  await app.register(session, { secret: SECRET, clock })
  await app.register(cache, { ttl: '1m', unkeyed: false, clock })
  await app.register(health, { clock })
  app.get('/products/:id', { config: { cache: { ttl: '1m' } } }, async request => request.params)
  app.get('/bare', async () => 'x')
  app.post('/visit', async request => { request.session.visits = (request.session.visits ?? 0) + 1 })
  app.post('/logout', async request => { await request.logout() })
  app.get('/limited', { config: { rateLimit: { max: 2, timeWindow: '1 minute' } } }, async () => 'x')
  return app
}

t.test('the histogram counts requests by route, method and status, and its buckets add up', async t => {
  const app = await plain(t)
  app.get('/a/:id', async () => 'x')
  app.post('/a/:id', async (_request, reply) => await reply.code(201).send('x'))
  app.get('/bad', async () => { throw new Error('x') })
  await Promise.all(Array.from({ length: 30 }, (_, i) => app.inject(`/a/${i}`)))
  await Promise.all(Array.from({ length: 7 }, (_, i) => app.inject({ method: 'POST', url: `/a/${i}` })))
  await app.inject('/bad')
  await app.inject('/nowhere')
  const found = await scrape(app)
  const count = (labels: Record<string, string>) => found.sum('http_request_duration_seconds_count', labels)
  t.equal(count({ method: 'GET', route: '/a/:id', status_code: '200' }), 30)
  t.equal(count({ method: 'POST', route: '/a/:id', status_code: '201' }), 7)
  t.equal(count({ route: '/bad', status_code: '500' }), 1)
  t.equal(count({ route: 'unmatched', status_code: '404' }), 1)
  t.equal(found.sum('http_request_duration_seconds_bucket', { le: '+Inf' }), 39)
  t.equal(found.sum('http_request_duration_seconds_bucket', { le: '10', route: '/a/:id' }), 37, 'the last bucket has them all')
  t.ok(found.sum('http_request_duration_seconds_sum')! > 0)
})

t.test('requests of routes that exclude lists, by URL or prefix, are not counted; "unmatched" excludes requests without a route', async t => {
  const app = await plain(t, { exclude: ['/metrics', '/internal*', '/users/:id', 'unmatched'] })
  await app.register(async child => {
    for (const url of ['/a', '/b/:id']) child.get(url, async () => 'x')
  }, { prefix: '/internal' })
  for (const url of ['/users/:id', '/users', '/metrics-of-users']) app.get(url, async () => 'x')
  for (const url of ['/internal/a', '/internal/b/1', '/users/1', '/users/2', '/nowhere', '/users', '/metrics-of-users', '/metrics']) await app.inject(url)
  const found = await scrape(app)
  const counted = [...found.text.matchAll(/^http_request_duration_seconds_count\{.*route="(.*?)"/gm)].map(([, route]) => route)
  t.same(counted, ['/users', '/metrics-of-users'])
})

t.test('durations are measured: a request of 30 ms is above the bucket of 25 ms', async t => {
  const app = await plain(t)
  app.get('/slow', async () => { await new Promise(resolve => setTimeout(resolve, 30)) })
  await app.inject('/slow')
  const found = await scrape(app)
  t.equal(found.sum('http_request_duration_seconds_bucket', { route: '/slow', le: '0.025' }), 0)
  t.equal(found.sum('http_request_duration_seconds_bucket', { route: '/slow', le: '10' }), 1)
})

t.test('each plugin updates its metrics, and a scrape is neither limited nor cached and starts no session', async t => {
  const clock = createTestClock()
  const app = await whole(t, {}, undefined, clock)
  const before = await scrape(app)
  t.equal(before.sum('fastify_rate_limit_decisions_total'), undefined)

  for (let i = 0; i < 5; i++) await app.inject('/products/1')
  for (let i = 0; i < 4; i++) await app.inject('/limited')
  const browser = new Browser(app)
  await browser.send('POST', '/visit')
  await browser.send('POST', '/logout')
  const other = new Browser(app)
  await other.send('POST', '/visit')
  const found = await scrape(app)

  t.equal(found.sum('fastify_cache_requests_total', { result: 'hit', name: '/products/:id' }), 4)
  t.equal(found.sum('fastify_cache_requests_total', { result: 'miss', name: '/products/:id' }), 1)
  t.equal(found.sum('fastify_cache_stored_bytes_total'), Buffer.byteLength('{"id":"1"}'))
  t.equal(found.sum('fastify_cache_l1_entries'), 1)
  await advanceUntil(clock, 'L1 answers', async () => {
    await app.inject('/products/1')
    return (await scrape(app)).sum('fastify_cache_requests_total', { tier: 'l1' })! > 0
  }, { step: 1000 })
  t.equal(found.sum('fastify_rate_limit_decisions_total', { result: 'allowed', scope: 'global' }), 8)
  t.equal(found.sum('fastify_rate_limit_decisions_total', { result: 'allowed', scope: 'route:GET:/limited' }), 2)
  t.equal(found.sum('fastify_rate_limit_decisions_total', { result: 'refused' }), 2)
  t.equal(found.sum('fastify_session_created_total'), 2)
  t.equal(found.sum('fastify_session_destroyed_total'), 1)
  t.equal(found.sum('fastify_session_active'), 2)
  t.equal(found.sum('fastify_redis_up', { client: 'default' }), 1)
  t.equal(found.sum('fastify_redis_circuit_open'), 0)
  t.ok(found.sum('fastify_redis_command_duration_seconds_count', { command: 'evalsha' })! >= 5)
  t.equal(found.sum('fastify_health_check_status', { check: 'redis:responseTime' }), 1)
  t.equal(found.sum('fastify_metrics_source_up', { source: 'health' }), 1)
  t.equal(found.types.get('fastify_cache_requests_total'), 'counter')
  t.ok(found.sum('process_resident_memory_bytes')! > 0)
})

t.test('each command is timed once: single, in a pipeline or failing, on one node and on a Cluster', async t => {
  for (const connection of [{ url: server.url }, { cluster: { nodes: (await sharedCluster()).startupNodes } }]) {
    const app = await whole(t, {}, connection)
    await app.ready()
    const key = newPrefix()
    await Promise.all(Array.from({ length: 50 }, (_, i) => app.redis.set(`${key}:${i}`, i)))
    await app.redis.pipeline().set(`{${key}}1`, 1).set(`{${key}}2`, 2).exec()
    await t.rejects(app.redis.lpush(`${key}:1`, 'x'))
    const found = await scrape(app)
    t.equal(found.sum('fastify_redis_command_duration_seconds_count', { command: 'set' }), 52)
    t.equal(found.sum('fastify_redis_command_errors_total', { command: 'lpush' }), 1)
    t.equal(found.sum('fastify_redis_command_errors_total', { command: 'set' }), 0)
  }
})

t.test('1,000 requests with random URLs, methods and statuses create no more series than routes, methods and statuses allow', async t => {
  await requestAtRandom(t, await plain(t, { maxRoutes: 5, defaultMetrics: false }), 1000)
})

t.test('cache names and policies beyond maxRoutes share one series, and no count is lost', async t => {
  const app = await whole(t, { maxRoutes: 3 })
  await app.ready()
  for (let i = 0; i < 50; i++) {
    await app.cache.withPrefix(`p${i}`).getOrSet('k', () => i)
    await app.rateLimiter.consume('k', { name: `policy ${i}`, max: 10, timeWindow: 1000 })
  }
  const found = await scrape(app)
  t.equal(found.sum('fastify_cache_requests_total', { result: 'miss' }), 50)
  t.ok(found.sum('fastify_cache_requests_total', { result: 'miss', name: 'other' })! >= 46)
  t.equal(found.sum('fastify_rate_limit_decisions_total'), 50)
  t.equal(found.sum('fastify_rate_limit_decisions_total', { scope: 'other', result: 'allowed' }), 47)
})

t.test('during an outage a scrape takes at most the timeout and shows the open circuit; after it, the scrape shows the reconnection', async t => {
  const own = await startRedis()
  const clock = createTestClock()
  const app = await whole(t, { timeout: 300 }, { url: own.url }, clock)
  const backlog = app.cache.writeBehind('views', { write: async () => {} })
  await backlog.add('k', 1)
  await advanceUntil(clock, 'it is written', async () => (await scrape(app)).sum('fastify_cache_write_behind_writes_total', { result: 'written' }) === 1)
  t.equal((await scrape(app)).sum('fastify_cache_write_behind_dead_letters', { name: 'views' }), 0)

  own.pause()
  const hung = await advanceWhile(clock, scrape(app))
  t.ok(hung.passed <= 400, `${hung.passed} ms`)
  own.resume()
  await own.kill()
  await advanceWhile(clock, Promise.all(Array.from({ length: 10 }, () => app.inject('/bare'))))
  const { value: found, passed } = await advanceWhile(clock, scrape(app))
  t.ok(passed <= 400, `${passed} ms`)
  t.same(['redis_up', 'redis_circuit_open', 'redis_circuit_opened_total'].map(name => found.sum(`fastify_${name}`)), [0, 1, 1])
  t.ok(found.sum('fastify_rate_limit_store_errors_total')! > 0)

  await own.restart()
  await advanceUntil(clock, 'it is back', async () => {
    const { value: back } = await advanceWhile(clock, scrape(app))
    return back.sum('fastify_redis_up') === 1 && back.sum('fastify_redis_circuit_open') === 0
  })
  t.equal((await advanceWhile(clock, scrape(app))).value.sum('fastify_redis_reconnects_total'), 1)
})

t.test('a source that never replies, or throws, costs the timeout and only its own metrics', async t => {
  const clock = createTestClock()
  const app = await plain(t, { timeout: '10s', clock })
  app.decorate('events', { stats: () => new Promise(() => {}) } as never)
  app.decorate('health', { results: () => { throw new Error('x') } } as never)
  app.decorate('cache', 'of another plugin' as never)
  app.decorate('rateLimiter', { on: () => () => {} } as never)
  let isAnswered = false
  const scraped = scrape(app).finally(() => { isAnswered = true })
  await clock.advance(9999)
  t.equal(isAnswered, false)
  await clock.advance(1)
  const found = await scraped
  t.same(['events', 'health', 'rateLimit'].map(source => found.sum('fastify_metrics_source_up', { source })), [0, 0, 1])
  t.equal(found.sum('fastify_rate_limit_store_errors_total'), 0)
})

t.test('streams have their lag, pending events and dead letters from fastify.events', async t => {
  const { app, clock } = await createTestApp(t, { plugins: { metrics: {}, events: {} } })
  const stream = app.events.stream('orders')
  const group = await stream.consume({ group: 'mail', retries: 0, handler: () => { throw new Error('never') } })
  await stream.append({})
  await advanceUntil(clock, 'it is given up', async () => (await app.events.stats())[0]?.deadLetters === 1)
  await advanceWhile(clock, group.close())
  for (let i = 0; i < 3; i++) await stream.append({})
  const found = await scrape(app)
  t.same(['lag', 'pending', 'dead_letters'].map(what => found.sum(`fastify_events_stream_${what}`, { stream: 'orders', group: 'mail' })), [3, 0, 1])
})

t.test('apps in one process count separately; with one registry they count together, once', async t => {
  const [a, b] = [await plain(t), await plain(t)]
  for (const app of [a, b]) app.get('/x', async () => 'x')
  await a.inject('/x')
  t.equal((await scrape(a)).sum('http_request_duration_seconds_count', { route: '/x' }), 1)
  t.equal((await scrape(b)).sum('http_request_duration_seconds_count', { route: '/x' }), undefined)

  const registry = new Registry()
  const [c, d] = [await whole(t, { registry }), await whole(t, { registry })]
  await c.inject('/products/1')
  await d.inject('/products/1')
  const found = await scrape(c)
  t.equal(found.sum('http_request_duration_seconds_count', { route: '/products/:id' }), 2)
  t.equal(found.sum('fastify_cache_requests_total', { result: 'miss' }), 2)
  t.equal(found.sum('fastify_redis_up'), 1, 'a state is not added up')
})

t.test('a second registration, in the same context, below it or beside it, neither fails nor counts twice', async t => {
  const app = await plain(t)
  await app.register(metrics)
  await app.register(metrics, { path: '/more' })
  await app.register(async child => {
    await child.register(metrics)
    child.get('/x', async () => 'x')
  }, { prefix: '/child' })
  const registry = new Registry()
  for (const name of ['one', 'two']) {
    await app.register(async child => {
      await child.register(metrics, { registry })
      child.get('/x', async () => 'x')
    }, { prefix: `/${name}` })
  }
  for (const url of ['/child/x', '/one/x', '/two/x']) await app.inject(url)
  const found = await scrape(app)
  for (const route of ['/child/x', '/one/x', '/two/x']) t.equal(found.sum('http_request_duration_seconds_count', { route }), 1, route)
  t.equal((await scrape(app, '/more')).sum('http_request_duration_seconds_count', { route: '/child/x' }), 1)
  const own = await scrape(app, '/one/metrics')
  t.equal(own.sum('http_request_duration_seconds_count', { route: '/one/x' }), 1)
  t.equal(own.sum('http_request_duration_seconds_count', { route: '/two/x' }), 1)
  t.equal(own.sum('http_request_duration_seconds_count', { route: '/child/x' }), undefined)
})

t.test('closing the app removes all that it added to the registry, the client and the limiter', async t => {
  const registry = new Registry()
  const mine = new Counter({ name: 'mine_total', help: 'mine', registers: [registry] })
  mine.inc()
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  const app = await whole(t, { registry }, { client, closeClient: false })
  const listeners = countListeners(app)
  await app.ready()
  t.ok(listeners() > 0)
  t.ok(Object.hasOwn(client, 'sendCommand'))
  const other = await plain(t, { registry })
  await app.close()
  t.equal(listeners(), 0)
  t.notOk(Object.hasOwn(client, 'sendCommand'))
  t.match(await scrape(other), { text: /mine_total 1/ })
  t.match(await scrape(other), { text: /process_cpu_seconds_total/ }, 'what the other one needs as well is still there')
  await other.close()
  t.same(registry.getMetricsAsArray().map(({ name }) => name), ['mine_total'])
  t.equal(await client.ping(), 'PONG')
})

t.test('all metrics have the labels, the suite\'s own have the prefix, and the app\'s own metrics are exposed as well', async t => {
  const app = await plain(t, { labels: { service: 'shop' }, prefix: 'shop_' })
  await app.register(cache)
  new Counter({ name: 'orders_total', help: 'orders', registers: [app.metrics.registry] }).inc(3)
  const found = await scrape(app)
  t.equal(found.sum('shop_cache_store_errors_total', { service: 'shop' }), 0)
  t.equal(found.sum('orders_total', { service: 'shop' }), 3)
})

t.test('the route responds to the requests that expose allows; without a route the registry can be read', async t => {
  const nobody = await plain(t, { expose: async () => false })
  t.equal((await nobody.inject('/metrics')).statusCode, 404)
  const loopback = await plain(t)
  t.equal((await loopback.inject({ url: '/metrics', remoteAddress: '10.0.0.1', headers: { 'x-forwarded-for': '127.0.0.1' } })).statusCode, 404)
  const shown = await loopback.inject('/metrics')
  t.match(shown.headers, { 'content-type': /^text\/plain; version=0\.0\.4/, 'cache-control': 'no-store' })
  const none = await plain(t, { path: false })
  t.equal((await none.inject('/metrics')).statusCode, 404)
  t.ok(new Scrape(await none.metrics.registry.metrics()).size > 0)
})

t.test('invalid options fail at registration', async t => {
  const taken = new Registry()
  taken.registerMetric(new Counter({ name: 'http_request_duration_seconds', help: 'taken', registers: [] }))
  const wrong: Array<Record<string, unknown>> = [
    { path: 'metrics' }, { path: null }, { expose: 'all' }, { expose: null }, { prefix: '1-' }, { registry: {} }, { buckets: [2, 1] }, { redisBuckets: [] }, { labels: { le: 'x' } },
    { maxRoutes: 0 }, { timeout: 'soon' }, { tracing: 1 }, { defaultMetrics: 'yes' }, { logLevel: 'loud' }, { unknown: 1 }, { clock: {} }, { registry: taken },
    { exclude: '/metrics' }, { exclude: ['metrics'] }, { exclude: ['/a*b'] }, { exclude: ['*'] }, { exclude: [/metrics/] }
  ]
  for (const options of wrong) {
    const app = Fastify()
    t.teardown(() => app.close().catch(() => {}))
    await t.rejects(Promise.resolve(app.register<Record<string, unknown>>(metrics as never, options)), { code: 'FST_REDIS_SUITE_METRICS_INVALID_OPTION' }, JSON.stringify(Object.keys(options)))
  }
})

t.test('lists, buckets and labels that are null count as left out', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  const options: Record<string, unknown> = { exclude: null, buckets: null, redisBuckets: null, labels: null }
  await app.register<Record<string, unknown>>(metrics as never, options)
  app.get('/', async () => 'x')
  await app.inject('/')
  t.equal((await app.inject('/metrics')).statusCode, 200)
})

t.test('values that are not numbers, of an object that resembles a plugin of the suite, are left out, and the others are exposed', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.decorate<unknown>('sessions', { stats: () => ({ created: -1, destroyed: NaN, active: 3 }) })
  app.decorate<unknown>('cache', { stats: () => ({ names: { a: {} }, invalidations: undefined, storeErrors: 2 }) })
  await app.register(metrics)
  const { statusCode, body } = await app.inject('/metrics')
  t.equal(statusCode, 200)
  t.match(body, /^fastify_session_active 3$/m)
  t.match(body, /^fastify_cache_store_errors_total 2$/m)
})

const dashboard = JSON.parse(await readFile(new URL('../../docs/public/grafana.json', import.meta.url), 'utf8'))
const expressions: string[] = dashboard.panels.flatMap((panel: { targets?: Array<{ expr: string }> }) => (panel.targets ?? []).map(({ expr }) => expr))
const monitoring = await readFile(new URL('../../docs/operations/monitoring.md', import.meta.url), 'utf8')
const thresholds = [...monitoring.matchAll(/`([^`]*\b(?:fastify|nodejs)_\w+[^`]*)`/g)].map(([, expr = '']) => expr)
// Functions and clauses precede a parenthesis or are keywords; names of metrics have at least one underscore.
const namesIn = (expressions: string[]) =>
  new Set(expressions.flatMap(expr => expr.replaceAll(/\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)/g, '').match(/\b[a-z]\w*_\w+\b(?!\s*\()/g) ?? []))
const used = namesIn(expressions)
const watched = namesIn(thresholds)

t.test('an app with all plugins exposes each metric of the dashboard and the page on monitoring, with the labels of their queries', async t => {
  const { app } = await createTestApp(t, {
    store: 'redis',
    plugins: { metrics: {}, rateLimit: { max: 1000, timeWindow: '1 minute' }, session: {}, cache: { ttl: '1m', unkeyed: false }, health: {}, events: {} },
    routes: app => app.get('/', { config: { cache: true } }, async () => 'x')
  })
  await app.events.stream('orders').consume({ group: 'mail', handler: async () => {} })
  app.cache.writeBehind('views', { write: async () => {} })
  await app.inject('/')
  const found = await scrape(app)

  t.ok(used.size > 30, `${used.size} names`)
  t.ok(watched.size > 12, `${watched.size} names`)
  t.same([...used, ...watched].filter(name => !found.names.has(name)), [])
  const missing = [...expressions, ...thresholds].flatMap(expr => {
    const grouped = [...expr.matchAll(/by \(([^)]*)\)/g)].flatMap(([, labels]) => labels!.split(',').map(label => label.trim()))
    const [name] = expr.replaceAll(/\{[^}]*\}|by \([^)]*\)/g, '').match(/\b[a-z]\w*_\w+\b(?!\s*\()/) ?? []
    const line = found.text.split('\n').find(text => text.startsWith(`${name}{`)) ?? ''
    return grouped.filter(label => label !== 'instance' && !line.includes(`${label}="`)).map(label => `${name} without ${label}`)
  })
  t.same(missing, [])
})

t.test('each metric of the suite is on the dashboard', async t => {
  t.same(Object.values(METRICS).flatMap(Object.keys).filter(name => !used.has(`fastify_${name}`)), [])
})
