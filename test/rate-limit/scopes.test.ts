import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import { peerRateLimit } from '../../bench/peer-rate-limit.js'
import { rateLimit, type RateLimitPluginOptions, type RouteRateLimitOptions } from '../../plugins/rate-limit/index.js'
import { createTestApp, forEachStore, type StoreName } from '../helpers/index.js'

const create = async (t: Test): Promise<FastifyInstance> => (await createTestApp(t, { ready: false })).app
const statuses = async (app: FastifyInstance, count: number, url: string, headers = {}) => {
  const received = []
  for (let i = 0; i < count; i++) received.push((await app.inject({ url, headers })).statusCode)
  return received
}

t.test('with a keyGenerator, listed addresses are compared with the key and not with the address of the proxy', async t => {
  for (const [list, listed, others] of [['allowList', [200, 200, 200], [200, 429, 429]], ['denyList', [403, 403, 403], [200, 429, 429]]] as const) {
    const app = await create(t)
    await app.register(rateLimit, { max: 1, [list]: ['127.0.0.1', '10.0.0.0/8'], keyGenerator: request => String(request.headers['x-real-ip']) })
    app.get('/', async () => 'x')
    t.same(await statuses(app, 3, '/', { 'x-real-ip': '1.2.3.4' }), others, `${list}: every request comes from 127.0.0.1`)
    t.same(await statuses(app, 3, '/', { 'x-real-ip': '10.9.9.9' }), listed, list)
  }
})

t.test('a registration inside another one limits its routes too, with or without their own options', async t => {
  const app = await create(t)
  await app.register(rateLimit, { max: 1000 })
  await app.register(async child => {
    await child.register(rateLimit, { max: 2 })
    child.get('/own', { config: { rateLimit: { timeWindow: '1 minute' } } }, async () => 'x')
    child.get('/group', { config: { rateLimit: { groupId: 'g' } } }, async () => 'x')
    child.get('/plain', async () => 'x')
    child.get('/hook', { config: { rateLimit: false }, onRequest: child.rateLimit() }, async () => 'x')
  }, { prefix: '/a' })
  for (const url of ['/a/own', '/a/group', '/a/plain']) t.same(await statuses(app, 3, url), [200, 200, 429], url)
  t.same(await statuses(app, 1, '/a/hook'), [429], 'the child\'s own decorator gives the child\'s limit')
})

t.test('each of several registrations resets its own count, and those of its routes and groups', async t => {
  const app = await create(t)
  const children: FastifyInstance[] = []
  for (const prefix of ['', '', '/c', '/c']) {
    await app.register(async child => {
      children.push(child)
      const at = `/${children.length}`
      await child.register(rateLimit, { max: 1 })
      child.get(`${at}`, async () => 'x')
      child.get(`${at}/own`, { config: { rateLimit: { max: 1 } } }, async () => 'x')
      child.get(`${at}/group`, { config: { rateLimit: { max: 1, groupId: 'g' } } }, async () => 'x')
    }, { prefix })
  }
  await app.ready()
  const paths = ['/1', '/2', '/c/3', '/c/4']
  for (const [i, path] of paths.entries()) {
    for (const [url, target] of [[path, undefined], [`${path}/own`, { method: 'GET', url: `${path}/own` }], [`${path}/group`, { groupId: 'g' }]] as const) {
      t.same(await statuses(app, 2, url), [200, 429], url)
      for (const [j, child] of children.entries()) if (j !== i) await child.rateLimiter.reset('127.0.0.1', target)
      t.same(await statuses(app, 1, url), [429], 'the others\' resets do not reach it')
      await children[i]?.rateLimiter.reset('127.0.0.1', target)
      t.same(await statuses(app, 2, url), [200, 429], url)
    }
  }
})

t.test('a group with two algorithms is an error, and so is a limiter created by a request', async t => {
  const app = await create(t)
  await app.register(rateLimit, { global: false })
  app.get('/a', { config: { rateLimit: { groupId: 'g', max: 1, algorithm: 'gcra' } } }, async () => 'x')
  t.throws(() => app.get('/b', { config: { rateLimit: { groupId: 'g', max: 1 } } }, async () => 'x'), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION' })
  app.get('/late', async request => await app.createRateLimit({ max: 1 })(request))
  t.match((await app.inject('/late')).json(), { statusCode: 500, code: 'FST_REDIS_SUITE_RATE_LIMIT_TOO_LATE' })
  t.doesNotThrow(() => app.createRateLimit({ max: 1, groupId: 'g', algorithm: 'gcra' }), 'a group has its count already')
})

t.test('an errorResponseBuilder that returns nothing, is async or rejects still leads to a 429', async t => {
  const builders: Array<RateLimitPluginOptions['errorResponseBuilder']> = [
    (() => {}) as never,
    async () => Object.assign(new Error('later'), { statusCode: 429 }),
    async () => { throw Object.assign(new Error('failed'), { statusCode: 429 }) }
  ]
  for (const errorResponseBuilder of builders) {
    const app = await create(t)
    await app.register(rateLimit, { max: 1, ...(errorResponseBuilder && { errorResponseBuilder }) })
    app.get('/', async () => 'x')
    t.same(await statuses(app, 3, '/'), [200, 429, 429])
  }
})

t.test('options may return any thenable', async t => {
  const thenable = <T>(value: T) => ({ then: (resolve: (value: T) => void) => setImmediate(resolve, value) }) as never
  const app = await create(t)
  await app.register(rateLimit, {
    max: () => thenable(1),
    allowList: (_request, key) => thenable(key === 'friend'),
    keyGenerator: request => thenable(String(request.headers['x-user'])),
    cost: () => thenable(1)
  })
  app.get('/', async () => 'x')
  t.same(await statuses(app, 3, '/', { 'x-user': 'a' }), [200, 429, 429])
  t.same(await statuses(app, 2, '/', { 'x-user': 'b' }), [200, 429])
  t.same(await statuses(app, 3, '/', { 'x-user': 'friend' }), [200, 200, 200])
})

t.test('a smaller limit caps the burst that it inherits', async t => {
  const app = await create(t)
  await app.register(rateLimit, { algorithm: 'gcra', burst: 20, max: request => Number(request.headers['x-max'] ?? 100) })
  app.get('/', async () => 'x')
  app.get('/small', { config: { rateLimit: { max: 2 } } }, async () => 'x')
  t.same(await statuses(app, 3, '/small'), [200, 200, 429])
  t.same(await statuses(app, 2, '/', { 'x-max': '1' }), [200, 429])
})

t.test('a route of several methods has one count with HEAD, which a reset by any of them removes', async t => {
  const app = await create(t)
  await app.register(rateLimit, { global: false })
  app.route({ method: ['GET', 'POST'], url: '/', config: { rateLimit: { max: 2 } }, handler: async () => 'x' })
  const sent = async (method: 'GET' | 'HEAD' | 'POST') => (await app.inject({ method, url: '/' })).statusCode
  t.same([await sent('GET'), await sent('HEAD'), await sent('POST'), await sent('HEAD')], [200, 200, 429, 429])
  await app.rateLimiter.reset('127.0.0.1', { method: 'GET', url: '/' })
  t.equal(await sent('POST'), 200)
})

t.test('a route with its own `cache` shares the count of its group, and all registrations share a named policy', async t => {
  const app = await create(t)
  await app.register(rateLimit, { global: false })
  const children: FastifyInstance[] = [app]
  await app.register(async child => {
    children.push(child)
    await child.register(rateLimit, { global: false })
  })
  for (const url of ['/a', '/b']) app.get(url, { config: { rateLimit: { groupId: 'g', max: 2 } } }, async () => 'x')
  t.same([...await statuses(app, 1, '/a'), ...await statuses(app, 2, '/b'), ...await statuses(app, 1, '/a')], [200, 200, 429, 429])
  const policy = { name: 'p', max: 2 }
  const passed = []
  for (let i = 0; i < 4; i++) passed.push((await children[i % 2]?.rateLimiter.consume('k', policy))?.allowed)
  t.same(passed, [true, true, false, false])
  await children[1]?.rateLimiter.reset('k', policy)
  t.equal((await app.rateLimiter.peek('k', policy)).allowed, true)
})

t.test('a keyGenerator that rejects or throws undefined fails the request', async t => {
  // eslint-disable-next-line prefer-promise-reject-errors, no-throw-literal
  for (const keyGenerator of [() => Promise.reject(), () => { throw undefined }] as never[]) {
    const app = await create(t)
    await app.register(rateLimit, { max: 1, keyGenerator })
    app.get('/', async () => 'x')
    t.same(await statuses(app, 2, '/'), [500, 500])
  }
})

t.test('two different limits of one group on one route both hold', async t => {
  const app = await create(t)
  await app.register(rateLimit, { global: false })
  app.get('/', { onRequest: app.rateLimit({ groupId: 'g', max: 100, timeWindow: '1h' }), config: { rateLimit: { groupId: 'g', max: 2 } } }, async () => 'x')
  t.ok((await statuses(app, 10, '/')).filter(status => status === 200).length <= 2)
})

t.test('a refund and a charge reach all limiters of the request', async t => {
  const app = await create(t)
  await app.register(rateLimit, { max: 5, timeWindow: '1 minute' })
  const own = app.rateLimit({ max: 3 })
  app.get('/refund', { onRequest: own }, async request => { await request.rateLimit?.refund() })
  app.get('/charge', { onRequest: own }, async request => { await request.rateLimit?.charge(4) })
  app.get('/', async () => 'x')
  t.same(await statuses(app, 10, '/refund'), Array.from({ length: 10 }, () => 200))
  t.same(await statuses(app, 1, '/charge'), [200])
  t.same(await statuses(app, 1, '/'), [429], 'one and four of five')
})

t.test('routes of one URL with different constraints have separate counts, which are reset one by one or together', async t => {
  const app = await create(t)
  await app.register(rateLimit, { global: false })
  const config = { rateLimit: { max: 1 } }
  const constraints = [{ version: '1.0.0' }, { version: '2.0.0' }, { host: 'a.example' }, { host: /^b\d?\.example$/ }, undefined]
  for (const each of constraints) app.get('/', { config, ...each && { constraints: each } }, async () => 'x')
  await app.ready()
  const headers = [{ 'accept-version': '1.0.0' }, { 'accept-version': '2.0.0' }, { host: 'a.example' }, { host: 'b1.example' }, {}]
  const each = async (count: number) => await Promise.all(headers.map(async sent => await statuses(app, count, '/', sent)))
  t.same(await each(2), headers.map(() => [200, 429]))
  await app.rateLimiter.reset('127.0.0.1', { method: 'GET', url: '/', constraints: { version: '2.0.0' } })
  t.same((await each(1)).flat(), [429, 200, 429, 429, 429])
  await app.rateLimiter.reset('127.0.0.1', { method: 'HEAD', url: '/' })
  t.same(await each(2), headers.map(() => [200, 429]), 'without constraints all routes of the URL are meant')
})

t.test('an address with a port, as some proxies send it, counts and is listed as the address alone', async t => {
  const { app } = await createTestApp(t, {
    server: { trustProxy: true },
    plugins: { rateLimit: { max: 1, allowList: ['192.0.2.9'], denyList: ['2001:db8:f::/48'] } },
    routes: app => app.get('/', async request => request.rateLimit?.key ?? 'exempt')
  })
  const keyOf = async (address: string) => {
    const { statusCode, body } = await app.inject({ url: '/', headers: { 'x-forwarded-for': address } })
    return statusCode === 200 ? body : statusCode
  }
  const table: Array<[address: string, key: string | number]> = [
    ['192.0.2.1:50001', '192.0.2.1'], ['192.0.2.1:50002', 429], ['192.0.2.1', 429], ['[::ffff:192.0.2.1]:50003', 429],
    ['[2001:db8::1]:50001', '2001:db8::'], ['[2001:db8::2]', 429], ['2001:db8::3', 429],
    ['192.0.2.9:80', 'exempt'], ['[2001:db8:f::1]:443', 403]
  ]
  for (const [address, key] of table) t.equal(await keyOf(address), key, address)
})

type Build = (options?: RateLimitPluginOptions) => Promise<FastifyInstance>
type Await = (request: FastifyRequest, reply: FastifyReply) => Promise<void>

const ours = (t: Test, store: StoreName): Build => async (options = {}) => {
  const { app } = await createTestApp(t, { store, ready: false, plugins: { rateLimit: { global: false, timeout: '1h', ...options } } })
  return app
}

const peer = (t: Test): Build => async (options = {}) => {
  const app: FastifyInstance = Fastify()
  t.teardown(() => app.close())
  await app.register(peerRateLimit, { global: false, ...options })
  return app
}

/** Sends requests to an app that awaits a limiter. @returns what the client receives */
async function send (app: FastifyInstance, url: string | InjectOptions = '/', count = 4) {
  const received = []
  for (let i = 0; i < count; i++) {
    const { statusCode, headers, body } = await app.inject(url)
    received.push({
      status: statusCode, body, limit: headers['x-ratelimit-limit'], remaining: headers['x-ratelimit-remaining'], hasRetryAfter: 'retry-after' in headers
    })
  }
  return received
}

/** The places where an app may await a limiter. */
const PLACES: Record<string, (app: FastifyInstance, limit: Await) => unknown> = {
  'onRequest of the app': (app, limit) => {
    app.addHook('onRequest', async (request, reply) => { await limit(request, reply) })
    app.get('/', async () => 'passed')
  },
  'preParsing of a route': (app, limit) => app.get('/', { preParsing: async (request, reply, payload) => { await limit(request, reply); return payload } }, async () => 'passed'),
  'preValidation of a route': (app, limit) => app.get('/', { preValidation: async (request, reply) => { await limit(request, reply) } }, async () => 'passed'),
  'preHandler of a route': (app, limit) => app.get('/', { preHandler: async (request, reply) => { await limit(request, reply) } }, async () => 'passed'),
  'a handler': (app, limit) => app.get('/', async (request, reply) => { await limit(request, reply); return 'passed' })
}

const OPTIONS: Record<string, RouteRateLimitOptions> = {
  'max alone': { max: 2 },
  'a ban': { max: 1, ban: 1 },
  'a custom error': { max: 2, errorResponseBuilder: (_request, { statusCode, ban, max, after }) => Object.assign(new Error(`slow down ${after}`), { statusCode: statusCode + 1, ban, max }) },
  'a plain object as the error': { max: 2, errorResponseBuilder: (_request, { statusCode }) => ({ statusCode, error: 'Slow down', message: 'later' }) },
  'an async key': { max: 2, keyGenerator: async request => request.ip },
  'a key that cannot be found': { keyGenerator: async () => { throw Object.assign(new Error('no such tenant'), { statusCode: 418 }) } },
  'a max that cannot be found': { max: async () => { throw Object.assign(new Error('no such plan'), { statusCode: 418 }) } },
  'an allow list': { max: 0, allowList: async () => true }
}

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: a limiter that is awaited in a hook or handler works as that of @fastify/rate-limit`, async t => {
    for (const [place, addTo] of Object.entries(PLACES)) {
      for (const [what, options] of Object.entries(OPTIONS)) {
        const received = []
        for (const build of [ours(t, store), peer(t)]) {
          const app = await build()
          addTo(app, app.rateLimit({ timeWindow: '1 minute', ...options }) as Await)
          received.push(await send(app))
        }
        t.same(received[0], received[1], `${place}: ${what}`)
      }
    }
  })

  t.test(`${store}: a limiter that is awaited rejects with the refusal, sets its headers, and counts a request once`, async t => {
    const app = await ours(t, store)()
    const limit = app.rateLimit({ max: 2, timeWindow: '1 minute' })
    const caught: unknown[] = []
    app.get('/', async (request, reply) => {
      const settled = limit(request, reply)
      t.ok(settled instanceof Promise)
      await settled.catch(error => caught.push(error))
      await limit(request, reply)
      return request.rateLimit?.remaining
    })
    t.match(await send(app), [{ body: '1' }, { body: '0' }, { body: '0', remaining: '0', hasRetryAfter: true }, { body: '0' }])
    t.match(caught, [{ name: 'RateLimitExceededError', statusCode: 429, message: 'Rate limit exceeded, retry in 1 minute' }, { statusCode: 429 }])
  })

  t.test(`${store}: the plugin's own limiter can be awaited, and takes a callback as well`, async t => {
    const app = await ours(t, store)({ max: 2 })
    app.get('/awaited', { onRequest: async (request, reply) => { await app.rateLimit()(request, reply) } }, async () => 'passed')
    app.get('/called', { onRequest: app.rateLimit() }, async () => 'passed')
    t.same([...await send(app, '/awaited', 1), ...await send(app, '/called', 1), ...await send(app, '/awaited', 1), ...await send(app, '/called', 1)].map(({ status }) => status), [200, 200, 429, 429])
  })

  t.test(`${store}: a limiter of createRateLimit() returns what that of @fastify/rate-limit returns, for each documented call`, async t => {
    const results = []
    for (const build of [ours(t, store), peer(t)]) {
      const app = await build({ max: 2, timeWindow: '1 minute' })
      const [plain, own, exempt, unknown] = [app.createRateLimit(), app.createRateLimit({ max: 1, ban: 0 }), app.createRateLimit({ allowList: ['127.0.0.1'] }), app.createRateLimit({ keyGenerator: async () => { throw new Error('no such tenant') } })]
      app.get('/', async request => {
        const { ttl: _, ...rest } = { ttl: 0, ...await plain(request) }
        const more = [await plain(request, { increment: false }), await plain(request, {}), await plain(request, undefined), await plain(request, null as never), await own(request), await own(request)]
        return [rest, ...more.map(each => each.isAllowed ? each : [each.key, each.max, each.timeWindow, each.remaining, each.ttlInSeconds, each.isExceeded, each.isBanned]),
          await exempt(request), await unknown(request).catch((error: Error) => error.message)]
      })
      results.push((await app.inject('/')).json())
    }
    t.same(results[0], results[1])
  })

  t.test(`${store}: a refusal of a limiter that is not awaited causes no unhandled rejection`, async t => {
    const unhandled: unknown[] = []
    const listener = (error: unknown): void => { unhandled.push(error) }
    process.on('unhandledRejection', listener)
    t.teardown(() => process.off('unhandledRejection', listener))
    const { app } = await createTestApp(t, {
      store,
      plugins: { rateLimit: { global: false, timeout: '1h' } },
      routes: app => {
        const limit = app.rateLimit({ max: 1 }) as Await
        const settled: Array<Promise<unknown>> = []
        app.get('/', async (request, reply) => {
          settled.push(limit(request, reply))
          return 'passed'
        })
        app.get('/settled', async () => (await Promise.allSettled(settled)).map(({ status }) => status))
      }
    })
    for (let i = 0; i < 2; i++) t.equal((await app.inject('/')).body, 'passed')
    t.same((await app.inject('/settled')).json(), ['fulfilled', 'rejected'])
    await new Promise(resolve => setImmediate(resolve))
    t.same(unhandled, [])
  })
})
