import Fastify, { type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { rateLimit, type RateLimitPluginOptions } from '../../plugins/rate-limit/index.js'
import { redis } from '../../plugins/redis/index.js'
import { startRedis, until } from '../helpers/index.js'

declare module 'fastify' {
  interface FastifyRequest {
    apiKey?: string
  }
}

const server = await startRedis()
let prefixes = 0

interface Seen { onRequest?: (request: FastifyRequest) => Promise<void> | void }

/** An app whose limiter is followed by a hook of the app's own. */
async function build (t: Test, { onRequest, ...options }: RateLimitPluginOptions & Seen, store = 'Redis') {
  const app = Fastify()
  t.teardown(() => app.close())
  if (store === 'Redis') await app.register(redis, { url: server.url, prefix: `e${++prefixes}` })
  await app.register(rateLimit, { max: 2, timeWindow: '1 minute', ...options })
  app.addHook('onRequest', async request => { await onRequest?.(request) })
  app.get('/', async () => 'x')
  app.get('/own', { config: { rateLimit: { max: 1 } } }, async () => 'x')
  app.get('/late', { config: { rateLimit: { max: 1, early: false } } }, async () => 'x')
  return app
}

const remaining = async (app: Awaited<ReturnType<typeof build>>, url = '/') => {
  const { statusCode, headers } = await app.inject(url)
  return [statusCode, headers['x-ratelimit-remaining']]
}

t.test('early: Redis has counted a request while a hook of the app still holds it', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, prefix: 'held' })
  await app.register(rateLimit, { max: 2, timeWindow: '1 minute', early: true })
  app.addHook('onRequest', async () => { await until('it is counted', async () => (await app.redis.keys('held:rate-limit:log:*')).length === 1) })
  app.get('/', async () => 'x')
  t.equal((await app.inject('/')).statusCode, 200)
})

for (const store of ['memory', 'Redis']) {
  t.test(`${store}: early counts each request once and refuses as otherwise, with the plugin's limit and a route's own, HEAD and GET`, async t => {
    const app = await build(t, { early: true }, store)
    t.same(await remaining(app), [200, '1'])
    t.equal((await app.inject({ url: '/', method: 'HEAD' })).headers['x-ratelimit-remaining'], '0')
    t.same(await remaining(app), [429, '0'])
    t.same([await remaining(app, '/own'), await remaining(app, '/own')], [[200, '0'], [429, '0']])
  })

  t.test(`${store}: early counts what another hook refuses; a route that says false does not`, async t => {
    let isOpen = false
    const app = await build(t, { early: true, onRequest () { if (!isOpen) throw new Error('refused') } }, store)
    for (const url of ['/', '/own', '/late']) t.equal((await app.inject(url)).statusCode, 500)
    isOpen = true
    t.same([await remaining(app), await remaining(app, '/own'), await remaining(app, '/late')], [[200, '0'], [429, '0'], [200, '0']])
  })

  t.test(`${store}: a function that needs what comes later fails early and is asked again in its place`, async t => {
    const app = await build(t, {
      early: true,
      onRequest (request) { request.apiKey = 'a' },
      keyGenerator: ({ apiKey }) => { if (apiKey === undefined) throw new Error('too early'); return apiKey }
    }, store)
    t.same([await remaining(app), await remaining(app), await remaining(app)], [[200, '1'], [200, '0'], [429, '0']])
  })
}

t.test('early: a store that fails is dealt with as otherwise, and nobody misses a rejection', async t => {
  const own = await startRedis()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: own.url, closeTimeout: 100 })
  await app.register(rateLimit, { max: 2, timeWindow: '1 minute', early: true, onStoreError: 'closed', timeout: 100 })
  app.addHook('onRequest', async request => { if (request.url === '/refused') throw new Error('refused') })
  for (const url of ['/', '/refused']) app.get(url, async () => 'x')
  await app.ready()
  await own.kill()
  t.match((await app.inject('/')).json(), { code: 'FST_REDIS_SUITE_RATE_LIMIT_STORE_UNAVAILABLE' })
  t.equal((await app.inject('/refused')).statusCode, 500)
})

t.test('a route cannot be early where the plugin is not, as its hook would come too late', async t => {
  const app = await build(t, {})
  t.throws(() => app.get('/early', { config: { rateLimit: { early: true } } }, async () => 'x'), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION' })
})
