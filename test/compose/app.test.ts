import cluster from 'node:cluster'
import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import autoload from '@fastify/autoload'
import fastifyCookie from '@fastify/cookie'
import httpProxy from '@fastify/http-proxy'
import fastifyRedis from '@fastify/redis'
import swagger from '@fastify/swagger'
import underPressure from '@fastify/under-pressure'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import mercurius, { type MercuriusContext } from 'mercurius'
import { AggregatorRegistry } from 'prom-client'
import t, { type Test } from 'tap'
import type { HealthPluginOptions } from '../../plugins/health/index.js'
import { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } from '../../plugins/index.js'
import type { MetricsPluginOptions } from '../../plugins/metrics/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { ask } from '../helpers/cache/cache-app.js'
import { TYPESCRIPT } from '../helpers/compiled/exec-argv.js'
import { closeApp, createTestApp, SECRET, startRedis, until } from '../helpers/index.js'
import { Scrape } from '../helpers/metrics/scrape.js'

declare module 'fastify' {
  interface Session { n?: number }
}

const server = await startRedis()
const commands = server.client()
const FIXTURE = join(import.meta.dirname, '../fixtures/autoload')
// No test here waits for time to pass, and no deadline passes.
const clock = createTestClock()

function build (t: Test): FastifyInstance {
  const app = Fastify()
  t.teardown(() => closeApp(app, clock))
  return app
}

const isHit = (app: FastifyInstance, url: string) => until(`${url} is a hit`, async () => (await ask(app, url)).cache === 'HIT')

/** All plugins by name: a user may register them in any order after redis. */
const ALL: Record<string, (app: FastifyInstance) => unknown> = {
  metrics: app => app.register(metrics, { clock }),
  rateLimit: app => app.register(rateLimit, { max: 1000, clock }),
  session: app => app.register(session, { secret: SECRET, cookie: { secure: false }, clock }),
  cache: app => app.register(cache, { clock }),
  idempotency: app => app.register(idempotency, { scope: request => request.ip, clock }),
  events: app => app.register(events, { clock }),
  lock: app => app.register(lock, { clock }),
  health: app => app.register(health, { details: true, clock })
}

/** Asserts what each plugin promises, of a route with all plugins. */
async function tryAll (t: Test, app: FastifyInstance, prefix = ''): Promise<void> {
  const url = `${prefix}/products/1`
  await isHit(app, url)
  const { body, headers } = await ask(app, url)
  t.equal(headers['x-ratelimit-limit'], '1000', 'a hit is counted')
  const post = () => ask(app, `${prefix}/products`, { 'idempotency-key': 'k' }, { method: 'POST' })
  const first = await post()
  t.match(first, { status: 200, headers: { 'set-cookie': /^sid=/ } })
  const again = await post()
  t.same([again.body, again.headers['idempotency-replayed']], [first.body, 'true'])
  await until('what was stored is gone', async () => (await ask(app, url)).body !== body)
  t.equal((await ask(app, `${prefix}/health`)).status, 200)
  const text = (await ask(app, `${prefix}/metrics`)).body
  t.match(text, `http_request_duration_seconds_count{method="GET",route="${prefix}/products/:id",status_code="200"}`)
  t.match(text, /fastify_cache_requests_total\{.*result="hit"/)
}

function addRoutes (app: FastifyInstance): void {
  let runs = 0
  app.get('/products/:id', { config: { cache: { tags: ['products'] } } }, async () => ({ run: ++runs }))
  app.post('/products', { config: { cache: { invalidates: ['products'] }, idempotency: true } }, async ({ session }) => {
    Reflect.set(session, 'orders', 1)
    return await app.locks.using('stock', async () => ({ run: ++runs }))
  })
}

async function buildAutoloaded (t: Test): Promise<FastifyInstance> {
  process.env['REDIS_URL'] = server.url
  const app = build(t)
  // The package recognizes some ways in which Node.js reads TypeScript, and has a setting for others.
  process.env['FASTIFY_AUTOLOAD_TYPESCRIPT'] = '1'
  await app.register(autoload, { dir: join(FIXTURE, 'plugins'), forceESM: true })
  await app.register(autoload, { dir: join(FIXTURE, 'routes'), forceESM: true, autoHooks: true, options: { prefix: '/api' } })
  await app.ready()
  return app
}

t.test('@fastify/autoload loads the plugins and the routes that use them from folders', async t => {
  const app = await buildAutoloaded(t)
  await isHit(app, '/api/products/1')
  const keys = await server.client().keys('autoload:*')
  t.ok(keys.some(key => key.startsWith('autoload:cache:')))
  const post = () => ask(app, '/api/products', { 'idempotency-key': 'k' }, { method: 'POST' })
  t.same((await post()).body, (await post()).body)
})

t.test('with the autohooks of @fastify/autoload a login comes before cache and limit: each user has separate responses and limits, and guests have none', async t => {
  const app = await buildAutoloaded(t)
  const get = async (path: string, user?: string) => await ask(app, `/api/account/${path}`, user === undefined ? {} : { authorization: `Bearer ${user}` })
  for (const user of ['ann', 'bob']) {
    await until(`${user} has a hit`, async () => (await get('owned', user)).cache === 'HIT')
    t.equal((await get('owned', user)).body, user)
    t.match([await get('shared', user), await get('shared', user)], [{ body: user, cache: /MISS|BYPASS/ }, { body: user, cache: /MISS|BYPASS/ }], 'without an owner it is not stored')
    t.same([(await get('limited', user)).status, (await get('limited', user)).status, (await get('limited', user)).status], [200, 200, 429])
  }
  for (const path of ['owned', 'shared']) t.equal((await get(path)).status, 401)
  t.equal((await ask(app, '/api/products/1')).status, 200, 'the hooks are of their folder alone')
})

/** A request on its own connection, which the primary process passes to one of the workers. */
async function askWorkers (port: number, path: string, { method = 'GET', headers = {} }: { method?: string, headers?: Record<string, string> } = {}) {
  const asked = httpRequest({ port, host: '127.0.0.1', path, method, headers, agent: false })
  asked.end()
  const [response] = await once(asked, 'response') as [IncomingMessage]
  const body = await text(response)
  return { status: response.statusCode, body, worker: Number(response.headers['x-worker']), cache: response.headers['x-cache'], cookie: response.headers['set-cookie']?.[0]?.split(';')[0] }
}

t.test('three workers of a Node.js cluster share one limit, cache, lock, session and channel, and their metrics are combined', async t => {
  cluster.setupPrimary({ exec: join(import.meta.dirname, '../fixtures/cluster-worker.ts'), execArgv: [...TYPESCRIPT] })
  t.teardown(() => { for (const worker of Object.values(cluster.workers ?? {})) worker?.process.kill('SIGKILL') })
  const workers = Array.from({ length: 3 }, () => cluster.fork({ REDIS_URL: server.url }))
  const [address] = await Promise.all(workers.map(async worker => (await once(worker, 'listening'))[0] as { port: number }))
  const request = async (path: string, options?: Parameters<typeof askWorkers>[2]) => await askWorkers(address?.port ?? 0, path, options)
  /** Waits until each worker's response passes. */
  const untilAll = async (what: string, path: string, check: (response: Awaited<ReturnType<typeof request>>) => unknown) => {
    const passed = new Set<number>()
    await until(what, async () => {
      const response = await request(path)
      if (check(response)) passed.add(response.worker)
      return passed.size === workers.length
    })
  }

  const statuses = (await Promise.all(Array.from({ length: 30 }, () => request('/limited')))).map(({ status }) => status)
  t.same([200, 429].map(status => statuses.filter(each => each === status).length), [10, 20], 'of all requests as many pass as one limit allows')

  await untilAll('each worker has the page from the cache', '/page', ({ cache }) => cache === 'HIT')
  t.equal((await request('/page')).body, '{"made":1}', 'one worker made the page for all')

  const order = async (key: number) => (await request('/orders', { method: 'POST', headers: { 'idempotency-key': `k${key}` } })).body
  const orders = await Promise.all([1, 2, 3, 4].map(order))
  t.same(orders.toSorted(), [1, 2, 3, 4].map(orders => `{"orders":${orders}}`), 'the lock lets one worker in at a time')
  t.same(await Promise.all([1, 2, 3, 4].map(order)), orders, 'what one worker has answered another one replays')
  await untilAll('each worker has the page that was made after the invalidation', '/page', ({ cache, body }) => cache === 'HIT' && body !== '{"made":1}')
  await untilAll('each worker has heard the message', '/worker', ({ body }) => JSON.parse(body).heard === 'order')

  const { cookie = '' } = await request('/visits')
  const visits = []
  for (let visit = 2; visit <= 7; visit++) visits.push(Number((await request('/visits', { headers: { cookie } })).body))
  t.same(visits, [2, 3, 4, 5, 6, 7], 'a session goes on at whichever worker')

  let metrics = ''
  // The package gives workers 5 s of real time.
  const all = new AggregatorRegistry()
  await until('the metrics of all workers', async () => { metrics = await all.clusterMetrics().catch(() => ''); return metrics !== '' })
  const found = new Scrape(metrics)
  const expected: Array<[name: string, labels: Record<string, string>, value: number]> = [
    ['http_request_duration_seconds_count', { route: '/limited' }, 30],
    ['http_request_duration_seconds_bucket', { route: '/limited', le: '+Inf' }, 30],
    ['fastify_rate_limit_decisions_total', { result: 'refused' }, 20],
    ['fastify_session_created_total', {}, 1],
    ['fastify_redis_up', {}, 1],
    ['fastify_redis_circuit_open', {}, 0],
    ['fastify_metrics_source_up', { source: 'health' }, 1],
    ['fastify_health_check_status', { check: 'process:uptime' }, 1],
    ['fastify_health_check_status', { check: 'disk' }, 0]
  ]
  t.same(expected.map(([name, labels]) => found.sum(name, labels)), expected.map(([, , value]) => value))
})

const names = Object.keys(ALL)
for (const [title, order] of Object.entries({ 'the order of the documentation': names, 'the other way round': names.toReversed() })) {
  t.test(`all plugins together, registered in ${title}, keep their promises`, async t => {
    const app = build(t)
    await app.register(redis, { url: server.url, prefix: title.replaceAll(' ', '-') })
    for (const name of order) await ALL[name]?.(app)
    addRoutes(app)
    await tryAll(t, app)
  })
}

t.test('all plugins together in a child with a prefix serve the child alone', async t => {
  const app = build(t)
  await app.register(async child => {
    await child.register(redis, { url: server.url, prefix: 'child' })
    for (const register of Object.values(ALL)) await register(child)
    addRoutes(child)
  }, { prefix: '/api' })
  app.get('/', { config: { cache: true } }, async () => 'x')
  t.notOk(app.hasDecorator('redis') || app.hasDecorator('cache') || app.hasRequestDecorator('session'))
  await tryAll(t, app, '/api')
  const { headers } = await ask(app, '/')
  t.match([headers['x-cache'], headers['x-ratelimit-limit']], [undefined, undefined])
})

t.test('two children beside each other have their own plugins, which share nothing', async t => {
  const app = build(t)
  for (const name of ['a', 'b']) {
    await app.register(async child => {
      await child.register(redis, { url: server.url, prefix: name })
      await child.register(rateLimit, { max: name === 'a' ? 1 : 2, clock })
      await child.register(session, { secret: SECRET, cookie: { secure: false, path: `/${name}` }, clock })
      await child.register(cache, { clock })
      child.get('/', { config: { cache: true, rateLimit: false } }, async () => name)
      child.get('/limited', async () => name)
    }, { prefix: `/${name}` })
  }
  for (const name of ['a', 'b']) {
    await isHit(app, `/${name}`)
    t.equal((await ask(app, `/${name}`)).body, name)
  }
  const statuses = []
  for (const url of ['/a', '/a', '/b', '/b', '/b']) statuses.push((await ask(app, `${url}/limited`)).status)
  t.same(statuses, [200, 429, 200, 200, 429])
})

for (const order of ['before', 'after'] as const) {
  t.test(`with @fastify/swagger registered ${order} them, the plugins' own routes are hidden and the app's are documented`, async t => {
    const app = build(t)
    const document = async () => await app.register(swagger, { openapi: { info: { title: 'shop', version: '1' } } })
    if (order === 'before') await document()
    for (const register of Object.values(ALL)) await register(app)
    if (order === 'after') await document()
    await app.register(async child => addRoutes(child))
    await app.ready()
    t.same(Object.keys(app.swagger().paths ?? {}).sort(), ['/products', '/products/{id}'])
  })
}

async function keysOf (prefix: string): Promise<string[]> {
  return (await commands.keys(`${prefix}:*`)).map(key => key.split(':')[1] ?? '')
}

t.test('all plugins of an app on database 1 use channels of that number, which an app with the same prefix on database 0 does not receive', async t => {
  const apps = await Promise.all([0, 1].map(async db => {
    const app = build(t)
    await app.register(redis, { url: server.url, prefix: 'databases', db })
    for (const register of Object.values(ALL)) await register(app)
    await app.ready()
    return app
  }))
  const [zero = t.fail() as never, one = t.fail() as never] = apps
  const channels = async () => (await commands.pubsub('CHANNELS', 'databases:*') as string[]).toSorted()
  for (const app of apps) {
    await app.events.subscribe('orders', () => {})
    // One waits for the lock, and one reads a stream.
    const held = await app.locks.acquire('stock')
    app.locks.acquire('stock').then(async lock => await lock.release(), () => {})
    t.teardown(async () => await held.release())
    const reader = app.events.stream('orders').read()[Symbol.asyncIterator]()
    reader.next().catch(() => {})
    t.teardown(() => reader.return?.())
  }
  const expected = ['cache:invalidated', 'events:#orders', 'events:stream', 'lock:calls:', 'rate-limit:reset']
  const ofZero = expected.map(name => `databases:${name}`)
  const ofOne = ofZero.map(name => name.replace(/(?=#)|(?<!#.*)$/, '@1'))
  await until('all channels are subscribed to', async () => (await channels()).length >= 10).catch(() => {})
  t.same(await channels(), [...ofZero, ...ofOne].toSorted())
  let heard = 0
  zero.cache.on('invalidate', () => { heard++ })
  await one.cache.invalidateTags(['products'])
  await zero.cache.invalidateTags(['others'])
  await until('it has heard its own', () => heard > 0)
  t.equal(heard, 1)
})

t.test('all plugins run on a client of @fastify/redis that the user registered, one of a namespace by the option redis', async t => {
  for (const namespace of [undefined, 'shop']) {
    const app = build(t)
    await app.register(fastifyRedis, { url: server.url, ...namespace && { namespace } })
    // A namespaced connection is a property that the types of @fastify/redis do not declare.
    const client = namespace === undefined ? app.redis : app.redis[namespace]
    const options = { clock, ...namespace && { redis: client } }
    if (namespace !== undefined) {
      await t.rejects(async () => await app.register(async child => { await child.register(lock) }), { code: 'FST_REDIS_SUITE_LOCK_INVALID_OPTION', message: /shop/ })
    }
    await commands.flushall()
    const own = build(t)
    own.decorate<unknown>('redis', namespace === undefined ? client : { [namespace]: client })
    await own.register(rateLimit, options)
    await own.register(session, { ...options, secret: SECRET, saveUninitialized: true, cookie: { secure: false } })
    await own.register(cache, options)
    await own.register(idempotency, { ...options, scope: request => request.ip })
    await own.register(lock, options)
    await own.register(health, { clock, ...namespace && { redis: client } })
    own.get('/', { config: { cache: true, session: false } }, async () => 'x')
    own.post('/', { config: { idempotency: true } }, async ({ session }) => { session.n = 1; return await own.locks.using('a', async () => 'done') })
    await until('it is a hit', async () => (await ask(own, '/')).cache === 'HIT')
    t.equal((await ask(own, '/', { 'idempotency-key': 'k' }, { method: 'POST' })).body, 'done')
    const plugins = new Set(await keysOf('fastify'))
    t.same(plugins, new Set(['cache', 'session', 'rate-limit', 'idempotency', 'lock']), 'each has its keys there')
    t.match((await own.inject('/health')).json().checks, { 'redis:responseTime': [{ status: 'pass' }] })
  }
})

t.test('beside a client of @fastify/redis the plugin redis adds a second one under a namespace', async t => {
  const app = build(t)
  await app.register(fastifyRedis, { url: server.url })
  await app.register(redis, { url: server.url, namespace: 'second', prefix: 'second' })
  await app.register(cache, { redis: app.redis['second'], clock })
  await app.cache.set('a', 1)
  t.ok((await keysOf('second')).includes('cache'))
})

t.test('with @fastify/cookie registered by the user before it, the session has its cookie and the app keeps its own', async t => {
  const app = build(t)
  await app.register(fastifyCookie, { secret: 'of the user' })
  await app.register(session, { secret: SECRET, redis: false, clock, cookie: { secure: false } })
  app.get('/', async (request, reply) => {
    request.session.n = (request.session.n ?? 0) + 1
    reply.setCookie('own', 'signed', { signed: true })
    return { n: request.session.n, own: request.cookies['own'] && request.unsignCookie(request.cookies['own']).value }
  })
  const first = await app.inject('/')
  const cookies = Object.fromEntries(first.cookies.map(({ name, value }) => [name, value]))
  t.same(Object.keys(cookies).sort(), ['own', 'sid'])
  t.same((await app.inject({ url: '/', cookies })).json(), { n: 2, own: 'signed' })
})

t.test('with @fastify/under-pressure registered by the user, its limits hold, and probes are still served', async t => {
  const app = build(t)
  await app.register(underPressure, { maxHeapUsedBytes: 1, sampleInterval: 10 })
  await app.register(health, { redis: false, clock })
  app.get('/', async () => 'x')
  await until('there is pressure', async () => (await app.inject('/')).statusCode === 503)
  t.equal((await app.inject('/health/live')).statusCode, 200)
  t.match((await app.inject('/health')).json().checks, { 'process:heapUsed': [{}] })
})

const SCHEMA = `
  type Query { price(id: Int!): Int, me: String, broken: Int }
  type Mutation { login(user: String!, password: String!): String, setPrice(id: Int!, price: Int!): Int }`

/** A shop with mercurius, whose responses to GET are cached. */
async function buildGraphql (t: Test): Promise<{ app: FastifyInstance, resolved: { broken: number, price: number } }> {
  const resolved = { broken: 0, price: 0 }
  const prices = new Map<number, number>()
  const { app } = await createTestApp(t, {
    store: server,
    plugins: { rateLimit: { max: 1000, timeout: '1h' }, session: { cookie: { secure: false }, timeout: '1h' }, cache: { ttl: '1h', timeout: '1h' } },
    async routes (app) {
      await app.register(mercurius, {
        schema: SCHEMA,
        allowBatchedQueries: true,
        additionalRouteOptions: { config: { cache: true, rateLimit: { max: 200, timeWindow: '1h', groupId: 'graphql' } } },
        resolvers: {
          Query: {
            price: (_root: unknown, { id }: { id: number }) => { resolved.price++; return prices.get(id) ?? id * 100 },
            me: (_root: unknown, _arguments: unknown, { reply }: MercuriusContext) => reply.request.session.userId ?? 'nobody',
            broken () { resolved.broken++; throw new Error('the database is unavailable') }
          },
          Mutation: {
            async login (_root: unknown, { user, password }: { user: string, password: string }, { app, reply }: MercuriusContext) {
              // The route's limit counts requests, and one request may try many passwords.
              const { allowed } = await app.rateLimiter.consume(user, { name: 'login', max: 5, timeWindow: '1h' })
              if (!allowed) throw new Error('too many attempts')
              if (password !== `${user}'s`) throw new Error('wrong password')
              await reply.request.login(user)
              return user
            },
            setPrice: (_root: unknown, { id, price }: { id: number, price: number }) => { prices.set(id, price); return price }
          }
        }
      })
      // GraphQL's errors are a 200.
      app.graphql.addHook('onResolution', async ({ errors }, { reply }) => { if (errors !== undefined) reply.noCache() })
    }
  })
  return { app, resolved }
}

t.test('public GET queries of mercurius are cached by query and variables, and errors and mutations are not', async t => {
  const { app, resolved } = await buildGraphql(t)
  const get = (query: string, variables = {}) => ask(app, `/graphql?${new URLSearchParams({ query, variables: JSON.stringify(variables) })}`)
  const post = (query: string) => ask(app, '/graphql', {}, { method: 'POST', payload: { query } })
  const price = (id: number) => get('query ($id: Int!) { price(id: $id) }', { id })
  for (const id of [1, 2]) {
    await until(`the price of ${id} is a hit`, async () => (await price(id)).cache === 'HIT')
    t.equal((await price(id)).body, `{"data":{"price":${id}00}}`)
  }
  const before = resolved.price
  for (const id of [1, 2]) await price(id)
  t.equal(resolved.price, before, 'a hit runs no resolver')

  for (let asked = 1; asked <= 3; asked++) {
    t.match(await get('{ broken }'), { status: 200, cache: 'MISS', body: /the database is unavailable/ })
    t.equal(resolved.broken, asked, 'an error is not stored')
  }
  for (const query of ['{ unknown }', '{', 'mutation { setPrice(id: 1, price: 5) }']) {
    for (let asked = 0; asked < 2; asked++) t.match(await get(query), { status: /^40/, cache: 'MISS' }, query)
  }
  t.equal((await post('mutation { setPrice(id: 1, price: 7) }')).cache, 'BYPASS')
  t.match(await price(1), { cache: 'MISS', body: '{"data":{"price":7}}' }, 'a mutation invalidates the responses to GET of the path')
})

t.test('users of mercurius never share results with each other or with guests, also in concurrent requests', async t => {
  const { app } = await buildGraphql(t)
  const login = async (user: string) => {
    const { headers, body } = await ask(app, '/graphql', {}, { method: 'POST', payload: { query: `mutation { login(user: "${user}", password: "${user}'s") }` } })
    t.equal(body, `{"data":{"login":"${user}"}}`)
    return String(headers['set-cookie']).split(';')[0] ?? ''
  }
  const cookies = { nobody: undefined, ann: await login('ann'), bob: await login('bob') }
  const me = async (user: keyof typeof cookies) => {
    const { body } = await ask(app, `/graphql?query=${encodeURIComponent('{ me price(id: 1) }')}`, cookies[user] === undefined ? {} : { cookie: cookies[user] })
    return [user, JSON.parse(body).data.me]
  }
  const users = (['nobody', 'ann', 'bob'] as const).flatMap(user => Array.from({ length: 5 }, () => user))
  for (let round = 0; round < 3; round++) t.same(await Promise.all(users.map(me)), users.map(user => [user, user]))
})

t.test('GET and POST of mercurius share the limit of the route, and a resolver limits what one request may try many times', async t => {
  const { app } = await buildGraphql(t)
  const remaining = async (method: 'GET' | 'POST', more: object) => Number((await ask(app, '/graphql?query={me}', {}, { method, ...more })).headers['x-ratelimit-remaining'])
  t.same([await remaining('GET', {}), await remaining('POST', { payload: { query: '{ me }' } })], [199, 198])
  const tries = (name: (at: number) => string) => Array.from({ length: 10 }, (_, at) => `${name(at)}: login(user: "ann", password: "${at}")`)
  const answers = (body: string): string[] => [JSON.parse(body)].flat().flatMap(({ errors }) => errors.map(({ message }: { message: string }) => message))
  const aliased = await ask(app, '/graphql', {}, { method: 'POST', payload: { query: `mutation { ${tries(at => `a${at}`).join(' ')} }` } })
  t.same(answers(aliased.body), [...Array(5).fill('wrong password'), ...Array(5).fill('too many attempts')])
  const batched = await ask(app, '/graphql', {}, { method: 'POST', payload: tries(() => 'a').map(query => ({ query: `mutation { ${query} }` })) })
  t.same(answers(batched.body), Array(10).fill('too many attempts'))
})

t.test('with @fastify/websocket a path has a cached page and a websocket: an upgrade never receives the page', async t => {
  const app = build(t)
  await app.register(websocket)
  await app.register(cache, { clock, ttl: '1m', staleWhileRevalidate: '1h', explain: () => true })
  for (const hook of ['onRequest', 'preHandler'] as const) {
    app.route({ method: 'GET', url: `/${hook}`, config: { cache: { hook } }, handler: async () => 'page', wsHandler: (socket: { send: (text: string) => void }) => { socket.send('hello') } })
  }
  await app.listen({ port: 0, host: '127.0.0.1' })
  const address = `127.0.0.1:${(app.server.address() as AddressInfo).port}`
  const get = async (url: string) => { const response = await fetch(`http://${address}${url}`); return `${response.headers.get('x-cache')} ${await response.text()}` }
  for (const url of ['/onRequest', '/preHandler']) {
    await get(url)
    await until('it is a hit', async () => await get(url) === 'HIT page')
    const headers = { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': Buffer.alloc(16).toString('base64') }
    const [response, socket, head] = await once(httpRequest(`http://${address}${url}`, { headers }).end(), 'upgrade') as [IncomingMessage, Socket, Buffer]
    t.equal(response.statusCode, 101)
    const sent = head.length > 0 ? head : (await once(socket, 'data') as [Buffer])[0]
    t.match(String(sent), 'hello')
    socket.destroy()
    const injected = await app.injectWS(url)
    injected.terminate()
    t.equal(await get(url), 'HIT page', 'the websocket leaves the page as it is')
  }
})

t.test('a server without upgrades serves a request with Upgrade from the cache, as a server that ignores the header may', async t => {
  const app = build(t)
  await app.register(cache, { clock })
  app.get('/', { config: { cache: true } }, async () => 'page')
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const get = async () => {
    const [response] = await once(httpRequest({ port, host: '127.0.0.1', headers: { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': '' } }).end(), 'response') as [IncomingMessage]
    response.resume()
    return response.headers['x-cache']
  }
  await get()
  await until('it is a hit', async () => await get() === 'HIT')
  t.equal((await ask(app, '/', { connection: 'upgrade', upgrade: 'websocket' })).cache, 'BYPASS', 'a request that was made by hand is taken as an upgrade')
})

t.test('requests that @fastify/http-proxy forwards are limited, timed and cached as those of any route', async t => {
  const origin = build(t)
  let runs = 0
  origin.get('/things', async (_, reply) => await reply.header('cache-control', 'max-age=60').send({ run: ++runs }))
  origin.post('/things', async ({ body }) => body)
  const upstream = await origin.listen({ port: 0 })

  const app = build(t)
  await app.register(redis, { url: server.url, prefix: 'proxy' })
  await app.register(metrics, { clock })
  await app.register(rateLimit, { max: 1000, clock })
  // A forwarding handler reads all request headers.
  await app.register(cache, { ttl: 'headers', global: true, unkeyed: false, clock })
  await app.register(httpProxy, { upstream, prefix: '/api' })
  const address = await app.listen({ port: 0 })
  const get = async () => await fetch(`${address}/api/things`)
  await until('it is a hit', async () => (await get()).headers.get('x-cache') === 'HIT')
  const before = runs
  const response = await get()
  t.match(response.headers.get('x-ratelimit-limit'), '1000')
  t.same([await response.json(), runs], [{ run: before }, before])
  const posted = await fetch(`${address}/api/things`, { method: 'POST', body: '{"a":1}', headers: { 'content-type': 'application/json' } })
  t.same(await posted.json(), { a: 1 })
  await until('what was changed is fetched again', async () => { await get(); return runs > before })
  t.match(await (await fetch(`${address}/metrics`)).text(), /http_request_duration_seconds_count\{method="GET",route="\/api\/\*",status_code="200"\}/)
})

// One rule for the pages of operators: the metrics, and the details of health.

type Audience = MetricsPluginOptions['expose'] & HealthPluginOptions['details']

interface Caller { remoteAddress?: string, headers?: Record<string, string> }

async function buildFor (t: Test, audience: Audience | undefined, server: FastifyServerOptions = {}) {
  const { app, lines } = await createTestApp(t, { server, plugins: { metrics: { expose: audience }, health: { details: audience } } })
  const sees = async (caller: Caller = {}) => {
    const metrics = await app.inject({ url: '/metrics', ...caller })
    const health = await app.inject({ url: '/health', ...caller })
    t.equal(health.statusCode, 200, 'the status itself is for everyone')
    t.match(metrics.statusCode === 200 ? { metrics: metrics.body } : metrics.json(), metrics.statusCode === 200 ? { metrics: /http_request_duration/ } : { statusCode: 404, message: 'Route GET:/metrics not found' })
    t.equal('checks' in health.json(), metrics.statusCode === 200, 'one rule for both')
    return metrics.statusCode === 200
  }
  return { app, lines, sees }
}

const FORWARDING = ['forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-port', 'x-forwarded', 'x-real-ip', 'via', 'x-client-ip', 'client-ip',
  'true-client-ip', 'x-cluster-client-ip', 'cf-connecting-ip', 'fastly-client-ip', 'x-original-forwarded-for', 'x-envoy-external-address', 'x-azure-clientip', 'cdn-loop',
  'x-appengine-user-ip', 'wl-proxy-client-ip', 'x-amzn-trace-id']

t.test('by default /metrics and the details of health are shown to this machine alone, by its socket', async t => {
  const { sees } = await buildFor(t, undefined)
  for (const remoteAddress of ['127.0.0.1', '::1', '::ffff:127.0.0.1']) t.equal(await sees({ remoteAddress }), true, remoteAddress)
  for (const remoteAddress of ['127.0.0.6', '10.0.0.1', '192.168.1.5', '172.17.0.1', '169.254.1.1', '128.0.0.1', '::ffff:10.0.0.1', '2001:db8::1', 'fe80::1', '::', '0.0.0.0']) t.equal(await sees({ remoteAddress }), false, remoteAddress)
})

t.test('by default a request that a proxy on this machine forwarded is not of this machine, with or without trustProxy', async t => {
  for (const trustProxy of [false, true, '127.0.0.1', () => true]) {
    const { sees } = await buildFor(t, undefined, { trustProxy })
    t.equal(await sees(), true, 'without a proxy')
    for (const name of FORWARDING) t.equal(await sees({ headers: { [name]: '127.0.0.1' } }), false, `${String(trustProxy)} ${name}`)
    t.equal(await sees({ headers: { 'x-forwarded-for': '' } }), false, 'an empty one')
    t.equal(await sees({ headers: { 'user-agent': 'curl', accept: '*/*', 'x-request-id': '1', traceparent: '00-1-1-01', authorization: 'Bearer a', cookie: 'a=b', origin: 'http://localhost' } }), true, 'a client\'s own headers')
  }
})

t.test('by default a request for another host name is not of this machine, whichever proxy forwarded it', async t => {
  const { sees } = await buildFor(t, undefined)
  for (const host of ['localhost', 'localhost:3000', 'LOCALHOST', 'shop.localhost:80', '127.0.0.1:3000', '[::1]:3000', '[::1]']) t.equal(await sees({ headers: { host } }), true, host)
  for (const host of ['shop.example', 'localhost.shop.example', '127.0.0.1.nip.io:3000', '10.0.0.1', '[2001:db8::1]']) t.equal(await sees({ headers: { host } }), false, host)
})

t.test('an option exposes them to all requests, to none, or to those that a function allows', async t => {
  const callers: Caller[] = [{}, { remoteAddress: '10.0.0.1' }, { headers: { 'x-forwarded-for': '192.0.2.1' } }, { headers: { authorization: 'Bearer secret' } }]
  const table: Array<[string, Audience, boolean[]]> = [
    ['true', true, [true, true, true, true]],
    ['false', false, [false, false, false, false]],
    ['loopback', 'loopback', [true, false, false, true]],
    ['a function', request => request.headers.authorization === 'Bearer secret', [false, false, false, true]],
    ['an async function', async request => request.ip === '10.0.0.1', [false, true, false, false]]
  ]
  for (const [what, audience, expected] of table) {
    const { sees } = await buildFor(t, audience)
    const seen = []
    for (const caller of callers) seen.push(await sees(caller))
    t.same(seen, expected, what)
  }
})

t.test('a function that throws or rejects shows nothing, fails no readiness probe, and is logged once', async t => {
  const wrong: Audience[] = [() => { throw new Error('no key') }, async () => { throw new Error('no key') }]
  for (const audience of wrong) {
    const { app, lines, sees } = await buildFor(t, audience)
    for (let i = 0; i < 3; i++) t.equal(await sees(), false)
    t.equal((await app.inject('/health/ready')).statusCode, 200)
    for (const plugin of ['metrics', 'health']) t.equal(lines.filter(line => line['plugin'] === plugin && line['level'] === 50 && line['reason'] === 'no key').length, 1)
  }
})

t.test('a scrape that is refused by default is logged once, with what to do', async t => {
  const { lines, sees } = await buildFor(t, undefined)
  const warned = () => lines.filter(({ msg, level }) => level === 40 && /metrics: .*"expose"/.test(String(msg)))
  await sees()
  t.equal(warned().length, 0)
  for (let i = 0; i < 3; i++) await sees({ remoteAddress: '10.0.0.1' })
  t.match(warned(), [{ plugin: 'metrics', address: '10.0.0.1' }])
  t.equal(warned().length, 1)
  const chosen = await buildFor(t, 'loopback')
  await chosen.sees({ remoteAddress: '10.0.0.1' })
  t.same(chosen.lines.filter(({ msg }) => /"expose"/.test(String(msg))), [], 'not where the option is given')
})

t.test('over TCP, a client on this machine reads them, and the same client through a proxy does not', async t => {
  const { app } = await buildFor(t, undefined)
  const address = await app.listen({ port: 0, host: '127.0.0.1' })
  const asked = async (headers: Record<string, string> = {}) => {
    const metrics = await fetch(`${address}/metrics`, { headers })
    const health = await (await fetch(`${address}/health`, { headers })).json() as object
    return [metrics.status, 'checks' in health]
  }
  t.same(await asked(), [200, true])
  t.same(await asked({ 'X-Forwarded-For': '127.0.0.1' }), [404, false])
  t.same(await asked({ Via: '1.1 caddy' }), [404, false])
})

t.test('nginx with no more than proxy_pass, so by HTTP/1.0 and with the address of the app as Host, is no client of this machine', async t => {
  const { app } = await buildFor(t, undefined)
  const { port } = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
  const asked = async (version: string) => {
    const socket = connect(Number(port), '127.0.0.1')
    socket.write(`GET /metrics HTTP/${version}\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`)
    return (await text(socket)).slice(9, 12)
  }
  t.same([await asked('1.0'), await asked('1.1')], ['404', '200'])
})
