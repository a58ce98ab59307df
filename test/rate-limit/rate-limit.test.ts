import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { rateLimit, type RateLimitPluginOptions } from '../../plugins/rate-limit/index.js'
import { redis } from '../../plugins/redis/index.js'
import { startCluster, startRedis } from '../helpers/index.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
let prefixes = 0

async function build (t: Test, options: RateLimitPluginOptions, redisOptions?: Parameters<typeof redis>[1]) {
  const app = Fastify()
  t.teardown(() => app.close())
  if (redisOptions) await app.register(redis, redisOptions)
  await app.register(rateLimit, options)
  app.get('/', async () => 'hello')
  return app
}

for (const store of ['memory', 'Redis']) {
  const promise = (name: string, test: (t: Test, connection: Parameters<typeof redis>[1] | undefined) => Promise<unknown>) =>
    t.test(`${store}: ${name}`, t => test(t, store === 'Redis' ? { url: server.url, prefix: `p${++prefixes}` } : undefined))

  promise('max requests pass with their state in the headers, the next one is 429 and told when to come back', async (t, connection) => {
    const app = await build(t, { max: 2, timeWindow: '1 minute' }, connection)
    for (const remaining of ['1', '0']) {
      const response = await app.inject('/')
      t.equal(response.statusCode, 200)
      t.match(response.headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': remaining, 'x-ratelimit-reset': '60' })
      t.notOk(response.headers['retry-after'])
    }
    const refused = await app.inject('/')
    t.equal(refused.statusCode, 429)
    t.same(refused.json(), { statusCode: 429, error: 'Too Many Requests', message: 'Rate limit exceeded, retry in 1 minute' })
    t.match(refused.headers, { 'x-ratelimit-remaining': '0', 'retry-after': '60' })
  })

  promise('each key has a count of its own', async (t, connection) => {
    const app = await build(t, { max: 1, keyGenerator: async request => String(request.headers['x-user']) }, connection)
    const ask = (user: string) => app.inject({ url: '/', headers: { 'x-user': user } }).then(response => response.statusCode)
    t.same([await ask('a'), await ask('b'), await ask('a'), await ask('b')], [200, 200, 429, 429])
  })

  promise('a route may have its own limit, counted apart, or none', async (t, connection) => {
    const app = await build(t, { max: 3 }, connection)
    app.get('/strict', { config: { rateLimit: { max: 1 } } }, async () => 'strict')
    app.get('/free', { config: { rateLimit: false } }, async () => 'free')
    const ask = (url: string) => app.inject(url).then(response => response.statusCode)
    t.same([await ask('/strict'), await ask('/strict')], [200, 429])
    t.same([await ask('/'), await ask('/'), await ask('/'), await ask('/')], [200, 200, 200, 429])
    t.equal((await app.inject('/free')).headers['x-ratelimit-limit'], undefined)
  })

  promise('HEAD has no count of its own, and counts once', async (t, connection) => {
    const app = await build(t, { max: 100 }, connection)
    app.get('/own', { config: { rateLimit: { max: 3 } } }, async () => 'own')
    const remaining = async (method: 'GET' | 'HEAD', url: string) => (await app.inject({ method, url })).headers['x-ratelimit-remaining']
    t.same([await remaining('HEAD', '/own'), await remaining('GET', '/own')], ['2', '1'])
    t.same([await remaining('HEAD', '/'), await remaining('GET', '/')], ['99', '98'])
  })

  promise('without global only routes that ask for it are limited', async (t, connection) => {
    const app = await build(t, { global: false, max: 1 }, connection)
    app.get('/limited', { config: { rateLimit: {} } }, async () => 'limited')
    t.equal((await app.inject('/')).headers['x-ratelimit-limit'], undefined)
    t.equal((await app.inject('/limited')).headers['x-ratelimit-limit'], '1')
  })
}

t.test('two instances on one Redis share the count: exactly max of 200 concurrent requests pass', async t => {
  const options = { max: 50, timeWindow: '1 minute' }
  const connection = { url: server.url, prefix: 'shared' }
  const apps = await Promise.all([build(t, options, connection), build(t, options, connection)])
  const codes = await Promise.all(Array.from({ length: 200 }, (_, i) => apps[i % 2]?.inject('/').then(response => response.statusCode)))
  t.equal(codes.filter(code => code === 200).length, 50)
  t.equal(codes.filter(code => code === 429).length, 150)
})

t.test('when Redis hangs the limit goes on in this process, in bounded time, and with Redis again when it is back', async t => {
  const own = await startRedis()
  const app = await build(t, { max: 5, timeWindow: '1 minute', timeout: 60 }, { url: own.url })
  await app.inject('/')
  own.pause()
  const sinceStart = stopwatch()
  const codes = await Promise.all(Array.from({ length: 20 }, () => app.inject('/').then(response => response.statusCode)))
  t.ok(sinceStart() < 500)
  t.equal(codes.filter(code => code === 200).length, 5)
  t.equal(codes.filter(code => code === 429).length, 15)
  own.resume()
})

t.test('it works on a Cluster', async t => {
  const cluster = await startCluster()
  const app = await build(t, { max: 3, keyGenerator: request => String(request.headers['x-user']) },
    { cluster: { nodes: cluster.nodes.map(({ host, port }) => ({ host, port })) } })
  await Promise.all(Array.from({ length: 20 }, async (_, user) => {
    const codes = await Promise.all(Array.from({ length: 5 }, () => app.inject({ url: '/', headers: { 'x-user': `u${user}` } }).then(r => r.statusCode)))
    t.equal(codes.filter(code => code === 200).length, 3)
  }))
})

t.test('two registrations under different prefixes keep apart', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  for (const prefix of ['/a', '/b']) {
    await app.register(async child => {
      await child.register(rateLimit, { max: 1 })
      child.get('/', async () => prefix)
    }, { prefix })
  }
  const ask = (url: string) => app.inject(url).then(response => response.statusCode)
  t.same([await ask('/a'), await ask('/b'), await ask('/a'), await ask('/b')], [200, 200, 429, 429])
})

t.test('options that cannot be used fail at registration, of the plugin and of a route', async t => {
  const code = 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION'
  const wrong = [{ max: -1 }, { max: NaN }, { max: Infinity }, { max: '5' }, { timeWindow: 'soon' }, { timeWindow: 0 }, { hook: 'onSend' },
    { keyGenerator: 'ip' }, { global: 1 }, { cache: 0 }, { redis: {} }, { timeout: 0 }, { maximum: 5 }]
  for (const options of wrong) {
    await t.rejects(async () => { await build(t, options as RateLimitPluginOptions) }, { code }, JSON.stringify(options))
  }
  const app = await build(t, {})
  for (const config of [true, 5, { max: -1 }, { global: true }]) {
    t.throws(() => app.get('/wrong', { config: { rateLimit: config as never } }, async () => ''), { code }, JSON.stringify(config))
  }
})
