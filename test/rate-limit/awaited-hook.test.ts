import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import { peerRateLimit } from '../../bench/peer-rate-limit.js'
import type { RateLimitPluginOptions, RouteRateLimitOptions } from '../../plugins/rate-limit/index.js'
import { createTestApp, forEachStore, type StoreName } from '../helpers/index.js'

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

/** What a client and a listener see of four requests to an app that awaits a limiter. */
async function see (app: FastifyInstance, url: string | InjectOptions = '/', count = 4) {
  const seen = []
  for (let i = 0; i < count; i++) {
    const { statusCode, headers, body } = await app.inject(url)
    seen.push({
      status: statusCode, body, limit: headers['x-ratelimit-limit'], remaining: headers['x-ratelimit-remaining'], hasRetryAfter: 'retry-after' in headers
    })
  }
  return seen
}

/** Each place in which an app may await a limiter. */
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
  t.test(`${store}: a limiter that is awaited, in any hook or handler, limits as that of @fastify/rate-limit does`, async t => {
    for (const [place, stand] of Object.entries(PLACES)) {
      for (const [what, options] of Object.entries(OPTIONS)) {
        const seen = []
        for (const build of [ours(t, store), peer(t)]) {
          const app = await build()
          stand(app, app.rateLimit({ timeWindow: '1 minute', ...options }) as Await)
          seen.push(await see(app))
        }
        t.same(seen[0], seen[1], `${place}: ${what}`)
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
    t.match(await see(app), [{ body: '1' }, { body: '0' }, { body: '0', remaining: '0', hasRetryAfter: true }, { body: '0' }])
    t.match(caught, [{ name: 'RateLimitExceededError', statusCode: 429, message: 'Rate limit exceeded, retry in 1 minute' }, { statusCode: 429 }])
  })

  t.test(`${store}: the plugin's own limiter can be awaited, and takes a callback as well`, async t => {
    const app = await ours(t, store)({ max: 2 })
    app.get('/awaited', { onRequest: async (request, reply) => { await app.rateLimit()(request, reply) } }, async () => 'passed')
    app.get('/called', { onRequest: app.rateLimit() }, async () => 'passed')
    t.same([...await see(app, '/awaited', 1), ...await see(app, '/called', 1), ...await see(app, '/awaited', 1), ...await see(app, '/called', 1)].map(({ status }) => status), [200, 200, 429, 429])
  })

  t.test(`${store}: a limiter of createRateLimit() answers each call that @fastify/rate-limit documents as that does`, async t => {
    const seen = []
    for (const build of [ours(t, store), peer(t)]) {
      const app = await build({ max: 2, timeWindow: '1 minute' })
      const [plain, own, exempt, unknown] = [app.createRateLimit(), app.createRateLimit({ max: 1, ban: 0 }), app.createRateLimit({ allowList: ['127.0.0.1'] }), app.createRateLimit({ keyGenerator: async () => { throw new Error('no such tenant') } })]
      app.get('/', async request => {
        const { ttl: _, ...rest } = { ttl: 0, ...await plain(request) }
        const more = [await plain(request, { increment: false }), await plain(request, {}), await plain(request, undefined), await plain(request, null as never), await own(request), await own(request)]
        return [rest, ...more.map(each => each.isAllowed ? each : [each.key, each.max, each.timeWindow, each.remaining, each.ttlInSeconds, each.isExceeded, each.isBanned]),
          await exempt(request), await unknown(request).catch((error: Error) => error.message)]
      })
      seen.push((await app.inject('/')).json())
    }
    t.same(seen[0], seen[1])
  })

  t.test(`${store}: a refusal of a limiter that is not awaited ends no process`, async t => {
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
