import { mkdtempSync, rmSync } from 'node:fs'
import { request } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance, InjectOptions } from 'fastify'
import { parseList, type Item } from 'structured-headers'
import t, { type Test } from 'tap'
import type { CustomStoreCallback } from '../../plugins/rate-limit/options/custom-store.js'
import type { CustomStoreConstructor, RateLimitPluginOptions, RouteRateLimitOptions } from '../../plugins/rate-limit/index.js'
import { advanceWhile, createTestApp, forEachStore, until, type StoreName, type TestAppOptions } from '../helpers/index.js'

/** Builds an app with one limited route, to which a test may add more. */
async function build (t: Test, store: StoreName, options: RateLimitPluginOptions = {}, config?: RouteRateLimitOptions, server: TestAppOptions['server'] = {}) {
  const { app } = await createTestApp(t, {
    store,
    ready: false,
    server,
    plugins: { rateLimit: { timeWindow: '1 minute', ...options } },
    routes: app => app.get('/', { config: { ...(config && { rateLimit: config }) } }, async request => ({ remaining: request.rateLimit?.remaining }))
  })
  return app
}

const ask = async (app: FastifyInstance, options: InjectOptions | string = '/') => {
  const { statusCode, headers, body } = await app.inject(options)
  return { status: statusCode, headers, body }
}
const statuses = async (app: FastifyInstance, count: number, options: InjectOptions | string = '/') => {
  const received = []
  for (let i = 0; i < count; i++) received.push((await ask(app, options)).status)
  return received
}

forEachStore(['memory', 'redis'], store => {
  const feature = (name: string, test: (t: Test) => Promise<unknown>) => t.test(`${store}: ${name}`, test)

  feature('the tightest one of several limits is reported, and the fields of the IETF draft list all of them', async t => {
    const app = await build(t, store, {}, { limits: [{ max: 5, timeWindow: '1h', name: 'hourly' }, { max: 2, timeWindow: '10s' }] })
    const first = await ask(app)
    t.match(first.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '1' })
    const policies = parseList(String(first.headers['ratelimit-policy'])) as Item[]
    t.same(policies.map(([name, params]) => [name, params.get('q'), params.get('w')]), [['hourly', 5, 3600], ['10s', 2, 10]])
    const [[name, params]] = parseList(String(first.headers['ratelimit'])) as [Item]
    t.same([name, params.get('r'), params.get('t')], ['10s', 1, 10])
    await ask(app)
    const refused = await ask(app)
    t.equal(refused.status, 429)
    t.match(refused.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '0', 'retry-after': '10' })
  })

  feature('each header can be turned off, and the names of the draft can be chosen', async t => {
    const app = await build(t, store, {
      max: 1,
      enableDraftSpec: true,
      addHeadersOnExceeding: { 'ratelimit-limit': false, ratelimit: false },
      addHeaders: { 'retry-after': false, 'ratelimit-policy': false }
    })
    const passed = await ask(app)
    t.match(passed.headers, { 'ratelimit-remaining': '0', 'ratelimit-reset': '60', 'ratelimit-policy': '"default";q=1;w=60' })
    for (const name of ['ratelimit-limit', 'ratelimit', 'x-ratelimit-limit']) t.notOk(name in passed.headers, name)
    const refused = await ask(app)
    for (const name of ['retry-after', 'ratelimit-policy']) t.notOk(name in refused.headers, name)
    t.ok('ratelimit' in refused.headers)
  })

  feature('groupId shares one count between routes', async t => {
    const app = await build(t, store)
    for (const url of ['/send', '/resend']) app.get(url, { config: { rateLimit: { max: 2, groupId: 'otp' } } }, async () => url)
    t.same([await statuses(app, 1, '/send'), await statuses(app, 2, '/resend'), await statuses(app, 1, '/send')].flat(), [200, 200, 429, 429])
  })

  feature('a groupId of the plugin joins its own count and that of routes with other options', async t => {
    const app = await build(t, store, { max: 10, groupId: 'api' })
    app.get('/search', { config: { rateLimit: { cost: 6 } } }, async () => 'found')
    t.same([await statuses(app, 1, '/search'), await statuses(app, 4, '/'), await statuses(app, 1, '/search')].flat(), [200, 200, 200, 200, 200, 429])
    await app.rateLimiter.reset('127.0.0.1')
    t.same(await statuses(app, 1, '/search'), [200], 'a reset of the plugin\'s count is one of the group')
  })

  feature('a request takes its cost, can be charged more later, and can be refunded', async t => {
    const app = await build(t, store, {}, { max: 10, cost: async request => Number(request.headers['x-cost'] ?? 1) })
    app.get('/charge', { config: { rateLimit: { max: 10 } } }, async (request, reply) => {
      reply.raw.on('finish', () => { request.rateLimit?.charge(7).catch(() => {}) })
      return 'charged'
    })
    app.get('/refund', { config: { rateLimit: { max: 1 } } }, async request => { await request.rateLimit?.refund(); await request.rateLimit?.refund(); return 'refunded' })
    const remaining = async (cost: number) => (await ask(app, { url: '/', headers: { 'x-cost': String(cost) } })).headers['x-ratelimit-remaining']
    t.same([await remaining(4), await remaining(0), await remaining(5)], ['6', '6', '1'])
    t.equal((await ask(app, { url: '/', headers: { 'x-cost': '2' } })).status, 429)
    t.equal((await ask(app, { url: '/', headers: { 'x-cost': '1' } })).status, 200, 'a cost that still fits passes')
    t.equal((await ask(app, { url: '/', headers: { 'x-cost': '-3' } })).status, 500)
    t.match(JSON.parse((await ask(app, { url: '/', headers: { 'x-cost': 'many' } })).body), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE' })

    await ask(app, '/charge')
    let remainingAfter
    await until('the handler has charged', async () => (remainingAfter = (await ask(app, '/charge')).headers['x-ratelimit-remaining']) === '1')
    t.equal(remainingAfter, '1')
    t.same(await statuses(app, 5, '/refund'), [200, 200, 200, 200, 200])
  })

  feature('allow and deny lists take keys, addresses, CIDR ranges and functions', async t => {
    const app = await build(t, store, { max: 1, allowList: ['10.0.0.0/8', '2001:db8::/32', 'vip'], denyList: ['192.0.2.0/24', '192.0.2.7'], keyGenerator: request => String(request.headers['x-user'] ?? request.ip) })
    for (const remoteAddress of ['10.1.2.3', '::ffff:10.9.9.9', '2001:db8:1::5']) t.same(await statuses(app, 3, { url: '/', remoteAddress }), [200, 200, 200], remoteAddress)
    t.same(await statuses(app, 3, { url: '/', headers: { 'x-user': 'vip' } }), [200, 200, 200])
    for (const remoteAddress of ['192.0.2.9', '::ffff:192.0.2.7']) t.same(await statuses(app, 2, { url: '/', remoteAddress }), [403, 403])
    t.same(await statuses(app, 2, { url: '/', remoteAddress: '11.0.0.1' }), [200, 429])
    const byFunction = await build(t, store, { max: 1, allowList: async (_request, key) => key === '1.1.1.1', denyList: (_request, key) => key === '2.2.2.2' })
    t.same(await statuses(byFunction, 2, { url: '/', remoteAddress: '1.1.1.1' }), [200, 200])
    t.same(await statuses(byFunction, 1, { url: '/', remoteAddress: '2.2.2.2' }), [403])
  })

  feature('a banned key is refused with 403, and each kind of refusal calls its callback', async t => {
    const calls: string[] = []
    const app = await build(t, store, {
      max: 1,
      ban: 1,
      onExceeding: (_request, key) => calls.push(`exceeding ${key}`),
      onExceeded: () => calls.push('exceeded'),
      onBanReach: () => calls.push('ban')
    })
    t.same(await statuses(app, 4), [200, 429, 403, 403])
    t.same(calls, ['exceeding 127.0.0.1', 'exceeded', 'exceeded', 'ban', 'exceeded', 'ban'])
  })

  feature('a penalty grows with each refusal, and Retry-After states it', async t => {
    const app = await build(t, store, { max: 1, timeWindow: 1000, exponentialBackoff: { base: '10s', cap: '35s' } })
    await ask(app)
    const waits = []
    for (let i = 0; i < 4; i++) waits.push(Number((await ask(app)).headers['retry-after']))
    t.same(waits, [10, 20, 35, 35])
  })

  feature('max and timeWindow may be functions, whose results are checked', async t => {
    const app = await build(t, store, {
      max: async (request, key) => request.headers['x-plan'] === 'pro' ? 3 : request.headers['x-plan'] === 'broken' ? NaN : Number(key.length > 0),
      timeWindow: () => '1 minute',
      keyGenerator: request => String(request.headers['x-plan'])
    })
    t.same(await statuses(app, 4, { url: '/', headers: { 'x-plan': 'pro' } }), [200, 200, 200, 429])
    t.same(await statuses(app, 2, { url: '/', headers: { 'x-plan': 'free' } }), [200, 429])
    t.match(JSON.parse((await ask(app, { url: '/', headers: { 'x-plan': 'broken' } })).body), { statusCode: 500, code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE' })
  })

  feature('dryRun counts and reports, and refuses no request', async t => {
    const app = await build(t, store, { max: 1, dryRun: true })
    let refused = 0
    app.rateLimiter.on('refused', event => { if (event.dryRun) refused++ })
    t.same(await statuses(app, 3), [200, 200, 200])
    t.match((await ask(app)).headers, { 'x-ratelimit-remaining': '0', 'retry-after': '60' })
    t.equal(refused, 3)
  })

  feature('events report each decision', async t => {
    const app = await build(t, store, { max: 1, ban: 1 })
    const events: string[] = []
    for (const name of ['allowed', 'refused', 'banned'] as const) app.rateLimiter.on(name, ({ key }) => events.push(`${name} ${key}`))
    await statuses(app, 3)
    t.same(events, ['allowed 127.0.0.1', 'refused 127.0.0.1', 'banned 127.0.0.1'])
  })

  feature('two limiters on one route both hold, and one that is used twice counts once', async t => {
    const app = await build(t, store, { max: 100 })
    const hook = app.rateLimit({ max: 2 })
    app.get('/both', { onRequest: app.rateLimit(), preParsing: hook, preHandler: hook, config: { rateLimit: { max: 3 } } }, async () => 'both')
    const first = await ask(app, '/both')
    t.match(first.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '1' }, 'the tightest is reported')
    t.same(await statuses(app, 2, '/both'), [200, 429])
    t.equal((await ask(app)).headers['x-ratelimit-remaining'], '96', 'the global limit was charged three times')
  })

  feature('a handler can check a limit, with or without counting', async t => {
    const app = await build(t, store, { global: false })
    const check = app.createRateLimit({ max: 2, allowList: ['9.9.9.9'] })
    app.get('/ask', async request => await check(request))
    app.get('/look', async request => await check(request, { increment: false }))
    const asked = async (url: string) => JSON.parse((await ask(app, url)).body)
    t.match(await asked('/look'), { isAllowed: false, remaining: 2, isExceeded: false, ttl: 0 })
    t.match(await asked('/ask'), { isAllowed: false, key: '127.0.0.1', max: 2, timeWindow: 60_000, remaining: 1, ttlInSeconds: 60, isExceeded: false, isBanned: false })
    await asked('/ask')
    t.match(await asked('/look'), { remaining: 0, isExceeded: true })
    t.match(await asked('/ask'), { remaining: 0, isExceeded: true })
    t.same(JSON.parse((await ask(app, { url: '/ask', remoteAddress: '9.9.9.9' })).body), { isAllowed: true, key: '9.9.9.9' })
  })

  feature('a named policy limits keys that belong to no route', async t => {
    const app = await build(t, store, { global: false })
    const { rateLimiter } = app
    const mails = { name: 'mails', max: 2, timeWindow: '1h' }
    t.match(await rateLimiter.consume('ann', mails), { allowed: true, remaining: 1 })
    t.match(await rateLimiter.peek('ann', mails), { allowed: true, remaining: 1 })
    const second = await rateLimiter.consume('ann', mails)
    t.match(await rateLimiter.consume('ann', mails), { allowed: false, remaining: 0 })
    t.match(await rateLimiter.consume('ann', { ...mails, name: 'other' }), { allowed: true }, 'another name is another count')
    await rateLimiter.refund('ann', mails, second)
    t.match(await rateLimiter.consume('ann', mails), { allowed: true, remaining: 0 })
    await rateLimiter.reset('ann', mails)
    t.match(await rateLimiter.consume('ann', mails, 2), { allowed: true, remaining: 0 })
    for (const wrong of [{ max: 1, timeWindow: 1 }, { name: '', max: 1 }, { name: 'x', maxx: 1 }, { name: 'x', max: -1 }]) {
      await t.rejects(rateLimiter.consume('ann', wrong as never), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION' }, JSON.stringify(wrong))
    }
    await t.rejects(rateLimiter.consume('ann', mails, 1.5), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE' })
  })

  feature('reset() removes the plugin\'s own count, a route\'s and a group\'s', async t => {
    const app = await build(t, store, { max: 1 })
    app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'own')
    app.get('/group', { config: { rateLimit: { max: 1, groupId: 'g' } } }, async () => 'group')
    for (const [url, target] of [['/', undefined], ['/own', { method: 'GET', url: '/own' }], ['/group', { groupId: 'g' }]] as const) {
      t.same(await statuses(app, 2, url), [200, 429])
      await app.rateLimiter.reset('127.0.0.1', target)
      t.same(await statuses(app, 2, url), [200, 429], url)
    }
  })

  feature('errorResponseBuilder makes the body of a refusal', async t => {
    const app = await build(t, store, {
      max: 1,
      errorResponseBuilder: (_request, { statusCode, ban, max, ttl, after }) => ({ statusCode, error: 'Slow down', message: `${max} ${ban} ${after}`, ttl: ttl > 59_000 })
    })
    await ask(app)
    t.match(JSON.parse((await ask(app)).body), { statusCode: 429, error: 'Slow down', message: '1 false 1 minute', ttl: true })
  })
})

t.test('X-Forwarded-For is ignored without trustProxy, and names the client with it', async t => {
  for (const [trustProxy, expected] of [[false, [200, 429, 429]], [true, [200, 200, 200]]] as const) {
    const app = await build(t, 'memory', { max: 1 }, undefined, { trustProxy })
    const received = []
    for (const i of [1, 2, 3]) received.push((await ask(app, { url: '/', headers: { 'x-forwarded-for': `10.0.0.${i}` } })).status)
    t.same(received, expected)
  }
})

t.test('1,000 addresses of one /64 are one client, and so are spellings of one address', async t => {
  const app = await build(t, 'memory', { max: 3 })
  let passed = 0
  for (let i = 0; i < 1000; i++) {
    if ((await ask(app, { url: '/', remoteAddress: `2001:db8:1:2:${(i * 7919 % 65536).toString(16)}::${i.toString(16)}` })).status === 200) passed++
  }
  t.equal(passed, 3)
  t.same(await statuses(app, 1, { url: '/', remoteAddress: '2001:db8:1:3::1' }), [200])
  for (const remoteAddress of ['192.0.2.1', '::ffff:192.0.2.1', '::FFFF:c000:201']) t.equal((await ask(app, { url: '/', remoteAddress })).status, 200)
  t.equal((await ask(app, { url: '/', remoteAddress: '192.0.2.1' })).status, 429)
})

t.test('a route has one count for all spellings of its path', async t => {
  const app = await build(t, 'memory', { global: false }, undefined, { routerOptions: { caseSensitive: false, ignoreTrailingSlash: true, ignoreDuplicateSlashes: true } })
  app.route({ method: ['GET', 'POST'], url: '/a/:id', config: { rateLimit: { max: 4 } }, handler: async () => 'a' })
  t.same([...await statuses(app, 1, '/a/1'), ...await statuses(app, 1, '/A/%31'), ...await statuses(app, 1, '//a//1/'), ...await statuses(app, 1, { method: 'POST', url: '/a/1' }), ...await statuses(app, 1, '/a/2?x')],
    [200, 200, 200, 200, 429])
})

t.test('no key reaches the count of another route, whatever it contains', async t => {
  const app = await build(t, 'memory', { max: 1, keyGenerator: request => String(request.headers['x-user']) })
  app.get('/a', { config: { rateLimit: { max: 1 } } }, async () => 'a')
  app.get('/a/b', { config: { rateLimit: { max: 1 } } }, async () => 'b')
  const status = (url: string, user: string) => ask(app, { url, headers: { 'x-user': user } }).then(({ status }) => status)
  await status('/a/b', 'x')
  for (const user of ['/b\0x', 'b:x', 'route:GET:/a/b\0x', '']) t.equal(await status('/a', user), 200, JSON.stringify(user))
  t.equal(await status('/', 'route:GET:/a/b\0x'), 200)
  t.equal(await status('/a/b', 'x'), 429)
})

t.test('OPTIONS and any other method count by the limit of their own route', async t => {
  const app = await build(t, 'memory', { max: 2 })
  app.options('/', async () => 'x')
  app.options('/own', { config: { rateLimit: { max: 1 } } }, async () => 'x')
  app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'x')
  const sent = async (method: 'GET' | 'HEAD' | 'OPTIONS', url: string) => (await app.inject({ method, url })).statusCode
  t.same([await sent('OPTIONS', '/'), await sent('HEAD', '/'), await sent('GET', '/'), await sent('OPTIONS', '/')], [200, 200, 429, 429])
  t.same([await sent('OPTIONS', '/own'), await sent('OPTIONS', '/own'), await sent('GET', '/own'), await sent('HEAD', '/own')], [200, 429, 200, 429])
})

t.test('invalid options fail at registration', async t => {
  const code = 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION'
  const wrong = [
    { limits: [] }, { limits: [{ max: 1 }] }, { limits: [{ max: 1, timeWindow: 1, mx: 2 }] }, { limits: [{ max: 1, timeWindow: 1 }], max: 5 }, { algorithm: 'fixed' }, { burst: 3 },
    { cost: -1 }, { cost: 'x' }, { ban: -2 }, { banDuration: 0 }, { exponentialBackoff: { base: 5 } }, { exponentialBackoff: { base: 5, cap: 1 } }, { exponentialBackoff: { base: 1, cap: 2 }, continueExceeding: true },
    { onStoreError: 'panic' }, { skipOnError: true, onStoreError: 'open' }, { instances: 0 }, { ipv6Subnet: 129 }, { groupId: 5 }, { allowList: 'x' }, { denyList: [5] },
    { addHeaders: { 'x-nonsense': true } }, { addHeaders: { 'retry-after': 'yes' } }, { store: {} }, { errorResponseBuilder: 'x' }, { dryRun: 'yes' }, { max: () => 1, limits: [{ max: 1, timeWindow: 1 }] },
    { max: () => 1, timeWindow: 'soon' }, { nameSpace: '' }, { nameSpace: '{all}' }, { nameSpace: 5 }
  ]
  for (const options of wrong) {
    await t.rejects(createTestApp(t, { plugins: { rateLimit: options as never } }), { code }, JSON.stringify(options))
  }
})

/** The keys of all calls of custom stores. */
const countedKeys: string[] = []

/** Counts forever; a key that ends with `broken` fails, and one that ends with `silent` gets no reply. */
class Store {
  readonly #counts = new Map<string, number>()
  incr (key: string, callback: CustomStoreCallback, timeWindow: number) {
    countedKeys.push(key)
    if (key.endsWith('silent')) return
    if (key.endsWith('broken')) return callback(new Error('broken'))
    this.#counts.set(key, (this.#counts.get(key) ?? 0) + 1)
    callback(null, { current: this.#counts.get(key) ?? 0, ttl: timeWindow })
  }

  child () { return new Store() }
}

/** Starts an app on a custom store. @returns the app, a function that sends requests one after the other, and the longest time of one in ms */
async function startCustom (t: Test, options: RateLimitPluginOptions = {}) {
  const { app, clock } = await createTestApp(t, {
    plugins: { rateLimit: { max: 2, timeout: 50, store: Store satisfies CustomStoreConstructor, keyGenerator: request => String(request.headers['x-user'] ?? 'x'), ...options } },
    routes (app) {
      app.get('/', async () => 'x')
      app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'x')
      app.get('/group', { config: { rateLimit: { max: 1, groupId: '-g' } } }, async () => 'x')
    }
  })
  let slowest = 0
  const send = async (count: number, user: string, url = '/') => {
    const sent = []
    for (let i = 0; i < count; i++) {
      const { value, passed } = await advanceWhile(clock, app.inject({ url, headers: { 'x-user': user } }))
      sent.push(value.statusCode)
      slowest = Math.max(slowest, passed)
    }
    return sent
  }
  return { app, send, slowest: () => slowest }
}

t.test('a custom store counts, and gets the same keys as from @fastify/rate-limit', async t => {
  const { send } = await startCustom(t)
  countedKeys.length = 0
  t.same(await send(3, 'ann'), [200, 200, 429])
  t.same(await send(2, 'ann', '/own'), [200, 429], 'a route has its own child')
  t.same(await send(2, 'ann', '/group'), [200, 429])
  t.same(countedKeys, ['ann', 'ann', 'ann', 'ann', 'ann', 'ann-g', 'ann-g'])
})

t.test('a custom store that fails, or does not reply within its timeout, is replaced by onStoreError', async t => {
  const policies: Array<[RateLimitPluginOptions, number[]]> = [
    [{}, [200, 200, 429]], [{ onStoreError: 'open' }, [200, 200, 200]], [{ skipOnError: true }, [200, 200, 200]], [{ onStoreError: 'closed' }, [503, 503, 503]]
  ]
  for (const [options, expected] of policies) {
    const { send, slowest } = await startCustom(t, options)
    for (const user of ['broken', 'silent']) t.same(await send(3, user), expected, `${JSON.stringify(options)} ${user}`)
    t.ok(slowest() <= 60, `${slowest()} ms`)
  }
  const { send } = await startCustom(t, { skipOnError: false })
  t.same(await send(1, 'broken'), [500], 'the response is the store\'s own error')
})

t.test('a failure of a custom store is an event, and an operation that it does not support is an error', async t => {
  const { app: { rateLimiter } } = await startCustom(t)
  const errors: string[] = []
  rateLimiter.on('error', ({ error }) => errors.push(error.message))
  await rateLimiter.consume('broken', { name: 'p', max: 5 })
  t.same(errors, ['broken'])
  await t.rejects(rateLimiter.consume('k', { name: 'p', max: 5 }, 2), { code: 'FST_REDIS_SUITE_RATE_LIMIT_UNSUPPORTED_BY_STORE' })
  await t.rejects(rateLimiter.reset('k'), { code: 'FST_REDIS_SUITE_RATE_LIMIT_UNSUPPORTED_BY_STORE' })
})

t.test('while a custom store fails, each route has its own count', async t => {
  const { send } = await startCustom(t, { max: 5 })
  t.same(await send(3, 'broken'), [200, 200, 200])
  t.same(await send(2, 'broken', '/own'), [200, 429])
})

async function buildLimiter (t: Test, store: StoreName, options: RateLimitPluginOptions = {}) {
  const { app } = await createTestApp(t, { store, ready: false, plugins: { rateLimit: { global: false, timeout: '1h', ...options } } })
  return app
}

const INVALID_VALUE = 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE'
const INVALID_OPTION = 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION'
const INVALID_COSTS: unknown[] = [-1, -1e9, NaN, Infinity, -Infinity, 1.5, 2 ** 53, '1', null, {}, [1], true, 1n, Symbol('1')]
const ALGORITHMS = ['sliding-log', 'sliding-counter', 'gcra'] as const

forEachStore(['memory', 'redis'], store => {
  for (const algorithm of ALGORITHMS) {
    t.test(`${store}, ${algorithm}: a cost that is not a whole number ≥ 0 is an error of each method, and changes no count`, async t => {
      const app = await buildLimiter(t, store)
      const { rateLimiter } = app
      const policy = { name: 'p', max: 10, timeWindow: '1h', algorithm }
      const decision = await rateLimiter.consume('ann', policy, 4)
      app.get('/', { config: { rateLimit: { max: 10, timeWindow: '1h', algorithm } } }, async request => {
        for (const cost of INVALID_COSTS) await t.rejects(async () => { await request.rateLimit?.charge(cost as number) }, { code: INVALID_VALUE }, `charge ${String(cost)}`)
        return request.rateLimit?.remaining
      })
      for (const cost of INVALID_COSTS) {
        for (const [name, call] of Object.entries({
          consume: () => rateLimiter.consume('ann', policy, cost as number),
          peek: () => rateLimiter.peek('ann', policy, cost as number),
          refund: () => rateLimiter.refund('ann', policy, decision, cost as number)
        })) await t.rejects(async () => { await call() }, { code: INVALID_VALUE, message: /"cost".*whole number from 0/ }, `${name} ${String(cost)}`)
      }
      t.match(await rateLimiter.peek('ann', policy), { remaining: 6 })
      t.equal((await app.inject('/')).body, '9')
      t.equal((await app.inject('/')).body, '8')
      await rateLimiter.refund('ann', policy, decision, 4)
      t.match(await rateLimiter.peek('ann', policy), { remaining: 10 })
    })

    t.test(`${store}, ${algorithm}: a charge of any size leaves the key refused`, async t => {
      const app = await buildLimiter(t, store)
      app.get('/', { config: { rateLimit: { max: 10, timeWindow: '1h', algorithm } } }, async request => {
        await request.rateLimit?.charge(Number.MAX_SAFE_INTEGER)
        await request.rateLimit?.charge(Number.MAX_SAFE_INTEGER)
      })
      t.equal((await app.inject('/')).statusCode, 200)
      for (let i = 0; i < 3; i++) t.match(await app.inject('/'), { statusCode: 429, headers: { 'x-ratelimit-remaining': '0', 'retry-after': /^\d+$/ } })
    })
  }

  t.test(`${store}: an invalid key, policy, decision or target is a coded error, and changes no count`, async t => {
    const { rateLimiter } = await buildLimiter(t, store)
    const policy = { name: 'p', max: 10, timeWindow: '1h' }
    const decision = await rateLimiter.consume('ann', policy)
    for (const key of [undefined, null, 5, {}, ['ann'], Promise.resolve('ann')] as never[]) {
      for (const call of [() => rateLimiter.consume(key, policy), () => rateLimiter.peek(key, policy), () => rateLimiter.refund(key, policy, decision), () => rateLimiter.reset(key, policy),
        () => rateLimiter.reset(key), () => rateLimiter.reset(key, { groupId: 'g' })]) await t.rejects(async () => { await call() }, { code: INVALID_VALUE, message: /"key"/ })
    }
    for (const none of [undefined, null, 1, {}, { allowed: 'yes' }, { ...decision, time: NaN }, rateLimiter.peek('ann', policy)] as never[]) {
      await t.rejects(rateLimiter.refund('ann', policy, none), { code: INVALID_VALUE, message: /"decision"/ })
    }
    for (const none of [undefined, null, 'p', {}, { name: 5 }] as never[]) {
      for (const call of [() => rateLimiter.consume('ann', none), () => rateLimiter.peek('ann', none), () => rateLimiter.refund('ann', none, decision)]) await t.rejects(async () => { await call() }, { code: INVALID_OPTION })
    }
    for (const none of [null, 'p', 5, {}, { name: '' }, { groupId: 5 }, { method: 'GET' }, { url: '/' }, { method: 1, url: 2 }] as never[]) {
      await t.rejects(rateLimiter.reset('ann', none), { code: INVALID_OPTION, message: /"target"/ })
    }
    t.match(await rateLimiter.peek('ann', policy), { remaining: 9 })
  })

  t.test(`${store}: a keyGenerator that returns no valid key is a coded error that names the route, so that its callers share no count`, async t => {
    const app = await buildLimiter(t, store)
    const keys: Record<string, [key: unknown, named: string]> = {
      '/object': [{ id: 1 }, 'an object'],
      '/promise': [Promise.resolve(['ann']), 'an array'],
      '/date': [new Date(0), 'an object'],
      '/undefined': [undefined, 'undefined'],
      '/null': [Promise.resolve(null), 'null'],
      '/nan': [Number(undefined), 'NaN'],
      '/rounded': [2 ** 53, '9007199254740992'],
      '/boolean': [false, 'false'],
      '/symbol': [Symbol('ann'), 'Symbol(ann)']
    }
    for (const [url, [key]] of Object.entries(keys)) app.get(url, { config: { rateLimit: { keyGenerator: () => key as never } } }, async () => '')
    for (const [url, [, named]] of Object.entries(keys)) {
      const { statusCode, code, message } = (await app.inject(url)).json()
      t.same([statusCode, code, message.split(';')[0]], [500, INVALID_VALUE, `rate-limit: route GET ${url}: the function "keyGenerator" returned ${named}`])
    }
    for (const key of ['', 'ann', 0, -1, 1.5, 2n ** 60n] as never[]) {
      t.match(await app.createRateLimit({ keyGenerator: () => key, groupId: 'g' })({ raw: {}, routeOptions: {} } as never), { isAllowed: false, key }, String(key))
    }
  })

  t.test(`${store}: a sliding log is limited to "maxLogUnits", by an error that names sliding-counter`, async t => {
    const names = { message: /100000 .*'sliding-log'.*'sliding-counter'.*"maxLogUnits"/ }
    for (const limited of [{ max: 100_001 }, { limits: [{ max: 1, timeWindow: '1s' }, { max: 100_001, timeWindow: '1h' }] }]) {
      await t.rejects(buildLimiter(t, store, limited), { code: INVALID_OPTION, ...names }, 'of the plugin')
      const app = await buildLimiter(t, store)
      t.throws(() => app.get('/', { config: { rateLimit: limited } }, async () => ''), { code: INVALID_OPTION, ...names }, 'of a route')
      t.throws(() => app.rateLimit(limited), { code: INVALID_OPTION, ...names }, 'of a hook')
      t.throws(() => app.createRateLimit(limited), { code: INVALID_OPTION, ...names }, 'of a limiter')
      await t.rejects(app.rateLimiter.consume('ann', { name: 'p', ...limited }), { code: INVALID_OPTION, ...names }, 'of a policy')
      await t.resolves(app.rateLimiter.consume('ann', { name: 'p', ...limited, algorithm: 'sliding-counter' }))
      await t.resolves(app.rateLimiter.consume('ann', { name: 'p', ...limited, algorithm: 'gcra' }))
    }
    t.match(await (await buildLimiter(t, store, { max: 100_000 })).rateLimiter.consume('ann', { name: 'p', max: 100_000, timeWindow: '1h' }, 100_000), { allowed: true, remaining: 0 })
    const raised = await buildLimiter(t, store, { maxLogUnits: 100_001, max: 100_001 })
    t.match(await raised.rateLimiter.consume('ann', { name: 'p', max: 100_001 }), { allowed: true })
    await t.rejects(buildLimiter(t, store, { maxLogUnits: 10, max: 11 }), { code: INVALID_OPTION })
    for (const maxLogUnits of [0, -1, NaN, 1.5, 10_000_001, '5']) await t.rejects(buildLimiter(t, store, { maxLogUnits: maxLogUnits as number }), { code: INVALID_OPTION, message: /"maxLogUnits"/ })
  })

  t.test(`${store}: a function of max that returns more than "maxLogUnits" is a coded error of that request`, async t => {
    const app = await buildLimiter(t, store, { maxLogUnits: 1000 })
    const max = () => 1001
    const routes: Record<string, RouteRateLimitOptions> = { '/log': { max }, '/counter': { max, algorithm: 'sliding-counter' }, '/gcra': { max: () => 10_000_001, algorithm: 'gcra' }, '/small': { max: () => 1000 } }
    for (const [url, rateLimit] of Object.entries(routes)) app.get(url, { config: { rateLimit } }, async () => '')
    t.match((await app.inject('/log')).json(), { statusCode: 500, code: INVALID_VALUE, message: /route GET \/log: the function "max" returned 1001;.*1000 .*'sliding-counter'/ })
    t.match((await app.inject('/gcra')).json(), { statusCode: 500, code: INVALID_VALUE, message: /"max" returned 10000001/ })
    t.same([(await app.inject('/counter')).statusCode, (await app.inject('/small')).statusCode], [200, 200])
  })
})

t.test('requests over a Unix socket share a limit, which is logged once; with trustProxy the client that the proxy names is limited', async t => {
  // The path of a socket may have about 100 characters, so the test creates a folder of its own.
  const folder = mkdtempSync(join(tmpdir(), 'socket-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  for (const [trustProxy, expected] of [[false, [200, 429, 429]], [true, [200, 429, 200]]] as const) {
    const { app, warnings } = await createTestApp(t, { server: { trustProxy }, plugins: { rateLimit: { max: 1, allowList: ['192.0.2.9'], denyList: ['192.0.2.8'] } }, routes: app => app.get('/', async () => '') })
    const path = join(folder, `${String(trustProxy)}.sock`)
    await app.listen({ path })
    const ask = async (address: string) => await new Promise<number | undefined>((resolve, reject) => {
      const sent = request({ socketPath: path, headers: { 'x-forwarded-for': address, host: 'localhost' } }, response => {
        response.resume().on('end', () => resolve(response.statusCode))
      })
      sent.on('error', reject).end()
    })
    t.same([await ask('192.0.2.1'), await ask('192.0.2.1'), await ask('192.0.2.2')], expected)
    t.match(warnings(), trustProxy ? [] : [/Unix socket.*share one limit.*trustProxy.*"keyGenerator"/])
    t.equal(warnings().length, trustProxy ? 0 : 1)
  }
})

t.test('an untrusted X-Forwarded-For that a proxy may have sent is logged once', async t => {
  const forwarded = { 'x-forwarded-for': '192.0.2.1' }
  const situations: Array<[trustProxy: NonNullable<TestAppOptions['server']>['trustProxy'], remoteAddress: string, headers: Record<string, string>, warned: boolean]> = [
    [false, '10.0.0.7', forwarded, true],
    [false, '::ffff:10.0.0.7', forwarded, true],
    ['10.0.0.8', '10.0.0.7', forwarded, true],
    ['10.0.0.7', '10.0.0.7', forwarded, false],
    ['127.0.0.1', '127.0.0.1', { 'x-forwarded-for': '127.0.0.1' }, false],
    [false, '10.0.0.7', {}, false],
    [false, '198.51.100.7', forwarded, false]
  ]
  for (const [trustProxy, remoteAddress, headers, warned] of situations) {
    const { app, warnings } = await createTestApp(t, { server: { trustProxy }, plugins: { rateLimit: { max: 10 } }, routes: app => app.get('/', async () => '') })
    for (let i = 0; i < 2; i++) t.equal((await app.inject({ url: '/', remoteAddress, headers })).statusCode, 200)
    t.match(warnings(), warned ? [/X-Forwarded-For from .*10\.0\.0\.7 is not trusted.*share one limit.*trustProxy/] : [], `${trustProxy} ${remoteAddress}`)
    t.equal(warnings().length, warned ? 1 : 0)
  }
})

t.test('a custom store has no log, so that "maxLogUnits" does not limit its max', async t => {
  class Store {
    incr (_key: string, done: (error: null, result: { current: number, ttl: number }) => void) { done(null, { current: 1, ttl: 1 }) }
    child () { return this }
  }
  const app = await buildLimiter(t, 'memory', { store: Store as never, max: 1_000_000 })
  app.get('/', { config: { rateLimit: { max: () => 2_000_000 } } }, async () => '')
  t.match(await app.inject('/'), { statusCode: 200, headers: { 'x-ratelimit-limit': '2000000' } })
})
