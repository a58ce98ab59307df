import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { rateLimit, type RateLimitPluginOptions } from '../../plugins/rate-limit/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { startCluster, startProxy, startRedis, until, type RedisServer } from '../helpers/index.js'

const TIMEOUT = 80

async function build (t: Test, connection: RedisPluginOptions, options: RateLimitPluginOptions = {}) {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { closeTimeout: 100, ...connection })
  await app.register(rateLimit, { max: 6, timeWindow: '1 minute', timeout: TIMEOUT, keyGenerator: request => String(request.headers['x-user']), ...options })
  app.get('/', async () => 'x')
  return app
}

/** Sends some requests at once: how many were answered how, and how long the slowest took. */
async function burst (app: Awaited<ReturnType<typeof build>>, count: number, user: string) {
  const counts: Record<number, number> = {}
  let slowest = 0
  await Promise.all(Array.from({ length: count }, async () => {
    const started = performance.now()
    const { statusCode } = await app.inject({ url: '/', headers: { 'x-user': user } })
    slowest = Math.max(slowest, performance.now() - started)
    counts[statusCode] = (counts[statusCode] ?? 0) + 1
  }))
  return { counts, slowest }
}

const faults: Record<string, { begin: (server: RedisServer) => unknown, end: (server: RedisServer) => unknown, args?: string[] }> = {
  'is killed': { begin: server => server.kill(), end: server => server.restart() },
  'hangs (SIGSTOP)': { begin: server => server.pause(), end: server => server.resume() },
  'is full (OOM)': {
    begin: server => server.client().config('SET', 'maxmemory', '1'),
    end: server => server.client().config('SET', 'maxmemory', '0')
  },
  'is read-only': {
    begin: async server => {
      const master = await startRedis()
      await server.client().replicaof('127.0.0.1', master.port)
      await until('it follows', async () => (await server.client().info('replication')).includes('master_link_status:up'))
    },
    end: server => server.client().replicaof('NO', 'ONE')
  }
}

for (const [name, { begin, end }] of Object.entries(faults)) {
  t.test(`when Redis ${name}, each instance keeps the limit by itself, in time, and Redis decides again when it is back`, async t => {
    const server = await startRedis()
    const [one, two] = [await build(t, { url: server.url }, { instances: 2 }), await build(t, { url: server.url }, { instances: 2 })]
    await burst(one, 1, 'warm')
    await begin(server)
    for (const app of [one, two]) {
      const { counts, slowest } = await burst(app, 20, 'during')
      t.same(counts, { 200: 3, 429: 17 }, 'half of the limit each')
      t.ok(slowest < TIMEOUT + 250, `${Math.round(slowest)} ms`)
    }
    await end(server)
    await until('Redis decides again', async () => {
      const user = `after-${Math.random()}`
      const first = await burst(one, 6, user)
      return first.counts[200] === 6 && (await burst(two, 1, user)).counts[429] === 1
    }, 5000)
    const counts = await Promise.all([burst(one, 20, 'exact'), burst(two, 20, 'exact')])
    t.equal((counts[0]?.counts[200] ?? 0) + (counts[1]?.counts[200] ?? 0), 6, 'exact again')
  })
}

t.test('onStoreError: open lets pass without inventing headers, closed answers 503, skipOnError means what it meant', async t => {
  const server = await startRedis()
  const apps = {
    open: await build(t, { url: server.url }, { onStoreError: 'open' }),
    closed: await build(t, { url: server.url }, { onStoreError: 'closed' }),
    skip: await build(t, { url: server.url }, { skipOnError: true }),
    throws: await build(t, { url: server.url }, { skipOnError: false })
  }
  let errors = 0
  apps.open.rateLimiter.on('error', () => errors++)
  server.pause()
  const ask = (app: typeof apps.open) => app.inject({ url: '/', headers: { 'x-user': 'x' } })
  const [open, closed, skip, throws] = await Promise.all(Object.values(apps).map(ask))
  t.equal(open?.statusCode, 200)
  t.equal(skip?.statusCode, 200)
  t.notOk(Object.keys(open?.headers ?? {}).some(name => name.includes('ratelimit')))
  t.match([closed?.statusCode, closed?.json().code], [503, 'FST_REDIS_SUITE_RATE_LIMIT_STORE_UNAVAILABLE'])
  t.match([throws?.statusCode, throws?.json().code], [503, 'FST_REDIS_SUITE_REDIS_TIMEOUT'])
  t.equal(errors, 1)
  server.resume()
})

t.test('what was decided while Redis hung is not given back to Redis, which never took it', async t => {
  const server = await startRedis()
  const { rateLimiter } = await build(t, { url: server.url })
  for (const algorithm of ['sliding-log', 'sliding-counter', 'gcra'] as const) {
    const policy = { name: algorithm, max: 5, timeWindow: '1h', algorithm }
    for (let i = 0; i < 5; i++) t.equal((await rateLimiter.consume('x', policy)).allowed, true)
    server.pause()
    const local = await Promise.all(Array.from({ length: 6 }, () => rateLimiter.consume('x', policy)))
    t.equal(local.filter(decision => decision.allowed).length, 5)
    server.resume()
    await until('Redis decides again', async () => (await rateLimiter.peek('y', policy)).takenFrom === 'store')
    for (const decision of local) await rateLimiter.refund('x', policy, decision)
    t.equal((await rateLimiter.peek('x', policy)).allowed, false, algorithm)
    server.pause()
    t.equal((await rateLimiter.consume('x', policy, 4)).allowed, true, 'it was given back where it was taken')
    server.resume()
    await until('Redis decides again', async () => (await rateLimiter.peek('y', policy)).takenFrom === 'store')
  }
})

t.test('a client that is left with a replica looks for the master again', async t => {
  const [first, second] = [await startRedis(), await startRedis()]
  const proxy = await startProxy(first.port)
  const app = await build(t, { url: `redis://127.0.0.1:${proxy.port}` })
  t.equal((await burst(app, 1, 'x')).counts[200], 1)
  proxy.target(second.port)
  await first.client().replicaof('127.0.0.1', second.port)
  await until('the new master decides', async () => {
    await burst(app, 1, 'x')
    return await second.client().exists('fastify:rate-limit:log:{global~x}') === 1
  }, 3000)
})

t.test('a server that lost its scripts decides on, exactly', async t => {
  const server = await startRedis()
  const app = await build(t, { url: server.url })
  const flusher = setInterval(() => { server.client().script('FLUSH').catch(() => {}) }, 1)
  t.teardown(() => clearInterval(flusher))
  for (let i = 0; i < 20; i++) t.same((await burst(app, 20, `u${i}`)).counts, { 200: 6, 429: 14 })
})

t.test('while a Cluster fails over, every answer comes in time, and then the limit is exact', async t => {
  const cluster = await startCluster()
  const app = await build(t, { cluster: { nodes: cluster.startupNodes } })
  await burst(app, 1, 'x')
  const { server } = await cluster.masterOf('fastify:rate-limit:log:{x}')
  await server.kill()
  let slowest = 0
  await until('the replica has taken over', async () => {
    const user = `f${Math.random()}`
    const round = await burst(app, 4, user)
    slowest = Math.max(slowest, round.slowest)
    t.ok(Object.keys(round.counts).every(status => status === '200' || status === '429'), JSON.stringify(round.counts))
    return (await cluster.masterOf('fastify:rate-limit:log:{x}')).server !== server
  }, 15_000)
  t.ok(slowest < TIMEOUT + 250, `${Math.round(slowest)} ms`)
  await until('it is exact again', async () => {
    for (let i = 0; i < 10; i++) if ((await burst(app, 12, `e${i}-${Math.random()}`)).counts[200] !== 6) return false
    return true
  }, 15_000)
})
