import type { FastifyInstance, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { rateLimit, type RateLimitPluginOptions } from '../../plugins/rate-limit/index.js'
import { advanceWhile, createTestApp, forEachStore, startRedis, until, type TestAppOptions } from '../helpers/index.js'

declare module 'fastify' {
  interface FastifyRequest {
    apiKey?: string
  }
}

async function start (t: Test, store: TestAppOptions['store'], options: RateLimitPluginOptions, more: TestAppOptions = {}) {
  return await createTestApp(t, { ...store !== undefined && { store }, plugins: { rateLimit: options }, routes: app => app.get('/', async () => 'hello'), ...more })
}

const statusOf = async (app: FastifyInstance | undefined, url: string, user = 'x') => (await app?.inject({ url, headers: { 'x-user': user } }))?.statusCode
const remainingOf = async (app: FastifyInstance, url = '/', method: 'GET' | 'HEAD' = 'GET') => {
  const { statusCode, headers } = await app.inject({ method, url })
  return [statusCode, headers['x-ratelimit-remaining']]
}
const byUser = (request: FastifyRequest) => String(request.headers['x-user'])

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: max requests pass with their state in the headers, and the next one is refused with 429 and Retry-After until the window has passed`, async t => {
    const { app, clock } = await start(t, store, { max: 2, timeWindow: '10 minutes' })
    for (const remaining of ['1', '0']) {
      const response = await app.inject('/')
      t.equal(response.statusCode, 200)
      t.match(response.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': remaining, 'x-ratelimit-reset': '600' })
      t.notOk(response.headers['retry-after'])
    }
    const refused = await app.inject('/')
    t.equal(refused.statusCode, 429)
    t.same(refused.json(), { statusCode: 429, error: 'Too Many Requests', message: 'Rate limit exceeded, retry in 10 minutes' })
    t.match(refused.headers, { 'x-ratelimit-remaining': '0', 'retry-after': '600' })
    await clock.advance('9 minutes')
    t.match(await app.inject('/'), { statusCode: 429, headers: { 'retry-after': '60' } })
    await clock.advance('1 minute')
    t.same(await remainingOf(app), [200, '1'])
  })

  t.test(`${store}: each key has its own count`, async t => {
    const { app } = await start(t, store, { max: 1, keyGenerator: async request => byUser(request) })
    const statuses = []
    for (const user of ['a', 'b', 'a', 'b']) statuses.push(await statusOf(app, '/', user))
    t.same(statuses, [200, 200, 429, 429])
  })

  t.test(`${store}: a route may have its own limit and count, or none`, async t => {
    const { app } = await start(t, store, { max: 3 }, {
      routes (app) {
        app.get('/', async () => 'hello')
        app.get('/strict', { config: { rateLimit: { max: 1 } } }, async () => 'strict')
        app.get('/free', { config: { rateLimit: false } }, async () => 'free')
      }
    })
    const statuses = []
    for (const url of ['/strict', '/strict', '/', '/', '/', '/']) statuses.push(await statusOf(app, url))
    t.same(statuses, [200, 429, 200, 200, 200, 429])
    t.equal((await app.inject('/free')).headers['x-ratelimit-limit'], undefined)
  })

  t.test(`${store}: HEAD shares the count of GET, and counts once`, async t => {
    const { app } = await start(t, store, { max: 100 }, {
      routes (app) {
        app.get('/', async () => 'hello')
        app.get('/own', { config: { rateLimit: { max: 3 } } }, async () => 'own')
      }
    })
    t.same([await remainingOf(app, '/own', 'HEAD'), await remainingOf(app, '/own')], [[200, '2'], [200, '1']])
    t.same([await remainingOf(app, '/', 'HEAD'), await remainingOf(app, '/')], [[200, '99'], [200, '98']])
  })

  t.test(`${store}: global: false limits only routes with the option rateLimit`, async t => {
    const { app } = await start(t, store, { global: false, max: 1 }, {
      routes (app) {
        app.get('/', async () => 'hello')
        app.get('/limited', { config: { rateLimit: {} } }, async () => 'limited')
      }
    })
    t.equal((await app.inject('/')).headers['x-ratelimit-limit'], undefined)
    t.equal((await app.inject('/limited')).headers['x-ratelimit-limit'], '1')
  })

  /** Starts an app with an early limiter and a hook of its own after it. */
  const startEarly = async (t: Test, options: RateLimitPluginOptions, onRequest: (request: FastifyRequest) => void = () => {}) =>
    (await start(t, store, { max: 2, timeWindow: '1 minute', early: true, ...options }, {
      routes (app) {
        app.addHook('onRequest', async request => onRequest(request))
        app.get('/', async () => 'x')
        app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'x')
        app.get('/late', { config: { rateLimit: { max: 1, early: false } } }, async () => 'x')
      }
    })).app

  t.test(`${store}: early counts each request once and refuses like a limiter that is not early: by the plugin's limit and by a route's own, HEAD and GET`, async t => {
    const app = await startEarly(t, {})
    t.same([await remainingOf(app), await remainingOf(app, '/', 'HEAD'), await remainingOf(app)], [[200, '1'], [200, '0'], [429, '0']])
    t.same([await remainingOf(app, '/own'), await remainingOf(app, '/own')], [[200, '0'], [429, '0']])
  })

  t.test(`${store}: early counts requests that another hook refuses, unless the route sets early: false`, async t => {
    let isOpen = false
    const app = await startEarly(t, {}, () => { if (!isOpen) throw new Error('refused') })
    t.same([await statusOf(app, '/'), await statusOf(app, '/own'), await statusOf(app, '/late')], [500, 500, 500])
    isOpen = true
    t.same([await remainingOf(app), await remainingOf(app, '/own'), await remainingOf(app, '/late')], [[200, '0'], [429, '0'], [200, '0']])
  })

  t.test(`${store}: a keyGenerator that throws or rejects early, for lack of what a later hook provides, is called again in its place`, async t => {
    const keyGenerator = ({ apiKey }: FastifyRequest) => { if (apiKey === undefined) throw new Error('too early'); return apiKey }
    for (const each of [keyGenerator, async (request: FastifyRequest) => keyGenerator(request)]) {
      const app = await startEarly(t, { keyGenerator: each }, request => { request.apiKey = 'a' })
      t.same([await remainingOf(app), await remainingOf(app), await remainingOf(app)], [[200, '1'], [200, '0'], [429, '0']])
    }
  })
})

t.test('early: Redis counts a request while a hook of the app is still pending', async t => {
  let counted: string[] = []
  const { app } = await start(t, 'redis', { max: 2, timeWindow: '10 minutes', early: true }, {
    prefix: 'held',
    routes (app) {
      app.addHook('onRequest', async () => {
        await until('the request is counted', async () => (counted = await app.redis.keys('held:rate-limit:log:*')).length === 1)
      })
      app.get('/', async () => 'x')
    }
  })
  t.equal(await statusOf(app, '/'), 200)
  t.same(counted, ['held:rate-limit:log:{global~127.0.0.1}'])
})

t.test('early: a store that fails is handled by onStoreError, and causes no unhandled rejection', async t => {
  const own = await startRedis()
  const { app, clock } = await start(t, own, { max: 2, early: true, onStoreError: 'closed' }, {
    connection: { closeTimeout: 100 },
    routes (app) {
      app.addHook('onRequest', async request => { if (request.url === '/refused') throw new Error('refused') })
      for (const url of ['/', '/refused']) app.get(url, async () => 'x')
    }
  })
  await own.kill()
  const ask = async (url: string) => (await advanceWhile(clock, app.inject(url))).value
  t.match((await ask('/')).json(), { code: 'FST_REDIS_SUITE_RATE_LIMIT_STORE_UNAVAILABLE' })
  t.equal((await ask('/refused')).statusCode, 500)
})

t.test('early: a route cannot set it where the plugin does not, as its hook would come too late', async t => {
  await start(t, 'memory', { max: 2 }, {
    routes (app) {
      t.throws(() => app.get('/early', { config: { rateLimit: { early: true } } }, async () => 'x'), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION' })
    }
  })
})

t.test('two instances on one Redis share the count: exactly max of 200 concurrent requests pass', async t => {
  const { apps } = await start(t, 'redis', { max: 50, timeWindow: '10 minutes' }, { instances: 2 })
  const codes = await Promise.all(Array.from({ length: 200 }, (_, i) => statusOf(apps[i % 2], '/')))
  t.equal(codes.filter(code => code === 200).length, 50)
  t.equal(codes.filter(code => code === 429).length, 150)
})

t.test('while Redis hangs, this process enforces the limit after the timeout, and Redis decides again when it replies', async t => {
  const own = await startRedis()
  const { app, clock } = await start(t, own, { max: 5, timeWindow: '1h', timeout: 60 })
  t.same(await remainingOf(app), [200, '4'])
  own.pause()
  const { value: codes, passed } = await advanceWhile(clock, Promise.all(Array.from({ length: 20 }, () => statusOf(app, '/'))))
  t.ok(passed <= 60, `${passed} ms`)
  t.equal(codes.filter(code => code === 200).length, 5)
  t.equal(codes.filter(code => code === 429).length, 15)
  own.resume()
  t.equal((await app.rateLimiter.consume('k', { name: 'p', max: 1 })).takenFrom, 'store')
})

t.test('the limit holds on a Cluster', async t => {
  const { app } = await start(t, 'cluster', { max: 3, timeWindow: '10 minutes', keyGenerator: byUser })
  const passed = await Promise.all(Array.from({ length: 20 }, async (_, user) => {
    const codes = await Promise.all(Array.from({ length: 5 }, () => statusOf(app, '/', `u${user}`)))
    return codes.filter(code => code === 200).length
  }))
  t.same(passed, Array.from({ length: 20 }, () => 3))
})

t.test('two registrations under different prefixes have separate counts', async t => {
  const { app } = await createTestApp(t, {
    async routes (app) {
      for (const prefix of ['/a', '/b']) {
        await app.register(async child => {
          await child.register(rateLimit, { max: 1 })
          child.get('/', async () => prefix)
        }, { prefix })
      }
    }
  })
  const statuses = []
  for (const url of ['/a', '/b', '/a', '/b']) statuses.push(await statusOf(app, url))
  t.same(statuses, [200, 200, 429, 429])
})

t.test('invalid options of the plugin or of a route fail at registration', async t => {
  const code = 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION'
  const wrong = [{ max: -1 }, { max: NaN }, { max: Infinity }, { max: '5' }, { timeWindow: 'soon' }, { timeWindow: 0 }, { hook: 'onSend' },
    { keyGenerator: 'ip' }, { global: 1 }, { cache: 0 }, { redis: {} }, { timeout: 0 }, { maximum: 5 }, { clock: Date }]
  for (const options of wrong) await t.rejects(start(t, 'memory', options as RateLimitPluginOptions), { code }, JSON.stringify(options))
  await start(t, 'memory', {}, {
    routes (app) {
      for (const config of [true, 5, { max: -1 }, { global: true }]) {
        t.throws(() => app.get('/wrong', { config: { rateLimit: config as never } }, async () => ''), { code }, JSON.stringify(config))
      }
    }
  })
})
