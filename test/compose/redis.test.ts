import fastifyCookie from '@fastify/cookie'
import httpProxy from '@fastify/http-proxy'
import fastifyRedis from '@fastify/redis'
import underPressure from '@fastify/under-pressure'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, health, idempotency, lock, metrics, rateLimit, redis, session } from '../../plugins/index.js'
import { ask } from '../helpers/cache/cache-app.js'
import { startRedis, until } from '../helpers/index.js'

declare module 'fastify' {
  interface Session { n?: number }
}

const server = await startRedis()
const commands = server.client()
const SECRET = 'a secret of at least thirty-two characters'
const timeout = '5s'

function build (t: Test): FastifyInstance {
  const app = Fastify()
  t.teardown(() => app.close())
  return app
}

async function keysOf (prefix: string): Promise<string[]> {
  return (await commands.keys(`${prefix}:*`)).map(key => key.split(':')[1] ?? '')
}

t.test('all plugins run on a client of @fastify/redis that the user registered, one of a namespace by the option redis', async t => {
  for (const namespace of [undefined, 'shop']) {
    const app = build(t)
    await app.register(fastifyRedis, { url: server.url, ...namespace && { namespace } })
    // A namespaced one is a property that the types of @fastify/redis do not know.
    const client = namespace === undefined ? app.redis : app.redis[namespace]
    const options = { timeout, ...namespace && { redis: client } }
    if (namespace !== undefined) {
      await t.rejects(async () => await app.register(async child => { await child.register(lock) }), { code: 'FST_REDIS_SUITE_LOCK_INVALID_OPTION', message: /shop/ })
    }
    await commands.flushall()
    const own = build(t)
    own.decorate<unknown>('redis', namespace === undefined ? client : { [namespace]: client })
    await own.register(rateLimit, options)
    await own.register(session, { ...options, secret: SECRET, saveUninitialized: true, cookie: { secure: false } })
    await own.register(cache, options)
    await own.register(idempotency, options)
    await own.register(lock, options)
    await own.register(health, namespace ? { redis: client } : {})
    own.get('/', { config: { cache: true, session: false } }, async () => 'x')
    own.post('/', { config: { idempotency: true } }, async ({ session }) => { session.n = 1; return await own.locks.using('a', async () => 'done') })
    await until('it is a hit', async () => (await ask(own, '/')).cache === 'HIT')
    t.equal((await ask(own, '/', { 'idempotency-key': 'k' }, { method: 'POST' })).body, 'done')
    const plugins = new Set(await keysOf('fastify'))
    for (const plugin of ['cache', 'session', 'rate-limit', 'idempotency', 'lock']) t.ok(plugins.has(plugin), `${plugin} keeps its keys there`)
    t.match((await own.inject('/health')).json().checks, { 'redis:responseTime': [{ status: 'pass' }] })
  }
})

t.test('beside a client of @fastify/redis this suite\'s plugin gives a second one under a namespace', async t => {
  const app = build(t)
  await app.register(fastifyRedis, { url: server.url })
  await app.register(redis, { url: server.url, namespace: 'second', prefix: 'second' })
  await app.register(cache, { redis: app.redis['second'], timeout })
  await app.cache.set('a', 1)
  t.ok((await keysOf('second')).includes('cache'))
})

t.test('with @fastify/cookie registered by the user before it, the session has its cookie there, and the user his', async t => {
  const app = build(t)
  await app.register(fastifyCookie, { secret: 'of the user' })
  await app.register(session, { secret: SECRET, redis: false, cookie: { secure: false } })
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

t.test('with @fastify/under-pressure registered by the user, its limits hold, and probes are answered all the same', async t => {
  const app = build(t)
  await app.register(underPressure, { maxHeapUsedBytes: 1, sampleInterval: 10 })
  await app.register(health, { redis: false })
  app.get('/', async () => 'x')
  await until('there is pressure', async () => (await app.inject('/')).statusCode === 503)
  t.equal((await app.inject('/health/live')).statusCode, 200)
  t.match((await app.inject('/health')).json().checks, { 'process:heapUsed': [{}] })
})

t.test('what @fastify/http-proxy forwards is limited, timed and cached as any route', async t => {
  const origin = build(t)
  let runs = 0
  origin.get('/things', async (_, reply) => await reply.header('cache-control', 'max-age=60').send({ run: ++runs }))
  origin.post('/things', async ({ body }) => body)
  const upstream = await origin.listen({ port: 0 })

  const app = build(t)
  await app.register(redis, { url: server.url, prefix: 'proxy' })
  await app.register(metrics)
  await app.register(rateLimit, { max: 1000, timeout })
  await app.register(cache, { ttl: 'headers', global: true, timeout })
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
  await until('what was changed is asked for anew', async () => { await get(); return runs > before })
  t.match(await (await fetch(`${address}/metrics`)).text(), /http_request_duration_seconds_count\{method="GET",route="\/api\/\*",status_code="200"\}/)
})
