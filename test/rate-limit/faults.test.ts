import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { NamedPolicy, RateLimitPluginOptions } from '../../plugins/rate-limit/index.js'
import { advanceUntil, advanceWhile, createTestApp, startProxy, startRedis, type RedisServer, type TestApp, type TestAppOptions } from '../helpers/index.js'

const TIMEOUT = 80

async function start (t: Test, store: NonNullable<TestAppOptions['store']>, options: RateLimitPluginOptions = {}, more: TestAppOptions = {}): Promise<TestApp> {
  return await createTestApp(t, {
    store,
    connection: { closeTimeout: 100 },
    plugins: { rateLimit: { max: 6, timeWindow: '10 minutes', timeout: TIMEOUT, keyGenerator: request => String(request.headers['x-user']), ...options } },
    routes: app => app.get('/', async () => 'x'),
    ...more
  })
}

/** Sends requests at once. @returns the number of responses by status */
async function burst (app: FastifyInstance | undefined, count: number, user: string): Promise<Record<number, number>> {
  const counts: Record<number, number> = {}
  const responses = await Promise.all(Array.from({ length: count }, () => app?.inject({ url: '/', headers: { 'x-user': user } })))
  for (const response of responses) counts[response?.statusCode ?? 0] = (counts[response?.statusCode ?? 0] ?? 0) + 1
  return counts
}

/** Advances the clock until Redis decides. */
async function untilRedisDecides ({ clock }: TestApp, { rateLimiter }: FastifyInstance): Promise<void> {
  const probe = { name: 'probe', max: 1, timeWindow: '1h' }
  await advanceUntil(clock, 'Redis decides again', async () => (await advanceWhile(clock, rateLimiter.peek('probe', probe))).value.takenFrom === 'store', { step: 50 })
}

interface Fault {
  begin: (server: RedisServer) => unknown
  end: (server: RedisServer) => unknown
  /** The test clock cannot shorten the TTLs of keys. */
  refusesWrites?: boolean
}

const faults: Record<string, Fault> = {
  'is killed': { begin: server => server.kill(), end: server => server.restart() },
  'hangs (SIGSTOP)': { begin: server => server.pause(), end: server => server.resume() },
  'is full (OOM)': {
    begin: server => server.client().config('SET', 'maxmemory', '1'),
    end: server => server.client().config('SET', 'maxmemory', '0')
  },
  'is read-only': {
    // A replica refuses writes whether its master exists or not.
    begin: server => server.client().replicaof('127.0.0.1', 1),
    end: server => server.client().replicaof('NO', 'ONE'),
    refusesWrites: true
  }
}

for (const [name, { begin, end, refusesWrites = false }] of Object.entries(faults)) {
  t.test(`when Redis ${name}, each instance enforces its part of the limit within the deadline, and Redis decides again afterwards`, async t => {
    const server = await startRedis()
    const store = { url: server.url, get answers () { return !refusesWrites && server.answers } }
    const started = await start(t, store, { instances: 2 }, { instances: 2 })
    const { apps, clock } = started
    t.same(await burst(apps[0], 1, 'warm'), { 200: 1 })
    await begin(server)
    for (const app of apps) {
      const { value, passed } = await advanceWhile(clock, burst(app, 20, 'during'))
      t.same(value, { 200: 3, 429: 17 }, 'half of the limit each')
      t.ok(passed <= TIMEOUT, `${passed} ms`)
    }
    await end(server)
    for (const app of apps) await untilRedisDecides(started, app)
    const counts = await Promise.all(apps.map(app => burst(app, 20, 'exact')))
    t.equal(counts.reduce((sum, count) => sum + (count[200] ?? 0), 0), 6, 'the limit of both together is exact again')
  })
}

t.test('onStoreError: open lets requests pass without headers of a limit, and closed responds 503; skipOnError works as in @fastify/rate-limit', async t => {
  const server = await startRedis()
  const options: RateLimitPluginOptions[] = [{ onStoreError: 'open' }, { onStoreError: 'closed' }, { skipOnError: true }, { skipOnError: false }]
  const started = await Promise.all(options.map(given => start(t, server, given)))
  let errors = 0
  started[0]?.app.rateLimiter.on('error', () => errors++)
  server.pause()
  const ask = async ({ app, clock }: TestApp) => (await advanceWhile(clock, app.inject({ url: '/', headers: { 'x-user': 'x' } }))).value
  const [open, closed, skip, throws] = await Promise.all(started.map(ask))
  t.equal(open?.statusCode, 200)
  t.same(Object.keys(open?.headers ?? {}).filter(name => name.includes('ratelimit')), [])
  t.equal(skip?.statusCode, 200)
  t.match([closed?.statusCode, closed?.json().code], [503, 'FST_REDIS_SUITE_RATE_LIMIT_STORE_UNAVAILABLE'])
  t.match([throws?.statusCode, throws?.json().code], [503, 'FST_REDIS_SUITE_REDIS_TIMEOUT'])
  t.equal(errors, 1)
  server.resume()
})

t.test('a refund of a decision that this process made while Redis hung goes to this process, not to Redis', async t => {
  const server = await startRedis()
  const started = await start(t, server)
  const { app, clock } = started
  const { rateLimiter } = app
  const consume = async (policy: NamedPolicy, cost = 1) => (await advanceWhile(clock, rateLimiter.consume('x', policy, cost))).value
  for (const algorithm of ['sliding-log', 'sliding-counter', 'gcra'] as const) {
    const policy = { name: algorithm, max: 5, timeWindow: '5h', algorithm }
    for (let i = 0; i < 5; i++) t.match(await rateLimiter.consume('x', policy), { allowed: true, takenFrom: 'store' })
    server.pause()
    const { value: local } = await advanceWhile(clock, Promise.all(Array.from({ length: 6 }, () => rateLimiter.consume('x', policy))))
    t.same(local.map(({ allowed }) => allowed), [true, true, true, true, true, false])
    server.resume()
    await untilRedisDecides(started, app)
    for (const decision of local) await rateLimiter.refund('x', policy, decision)
    t.match(await rateLimiter.peek('x', policy), { allowed: false, takenFrom: 'store' }, algorithm)
    server.pause()
    t.match(await consume(policy, 4), { allowed: true, takenFrom: 'process' }, 'this process has its units back')
    server.resume()
    await untilRedisDecides(started, app)
  }
})

t.test('a client that is connected to a demoted master finds the new one', async t => {
  const [first, second] = [await startRedis(), await startRedis()]
  const proxy = await startProxy(first.port)
  const { app, clock, prefix } = await start(t, { url: `redis://127.0.0.1:${proxy.port}`, answers: false })
  t.same(await burst(app, 1, 'x'), { 200: 1 })
  proxy.target(second.port)
  await first.client().replicaof('127.0.0.1', second.port)
  const key = `${prefix}:rate-limit:log:{global~x}`
  await advanceUntil(clock, 'the new master decides', async () => {
    await advanceWhile(clock, burst(app, 1, 'x'))
    return await second.client().exists(key) === 1
  })
  t.same(await burst(app, 10, 'y'), { 200: 6, 429: 4 })
  t.equal(await second.client().exists(`${prefix}:rate-limit:log:{global~y}`), 1)
})

t.test('a server that loses its scripts goes on to decide exactly', async t => {
  const server = await startRedis()
  const { app } = await start(t, server)
  for (let i = 0; i < 5; i++) {
    const counts = burst(app, 20, `u${i}`)
    await Promise.all([server.client().script('FLUSH'), counts])
    t.same(await counts, { 200: 6, 429: 14 })
  }
})
