// Costs that are known only after the decision: counts by outcome, request.rateLimit.settle() and holds.
import { connect } from 'node:net'
import fc from 'fast-check'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { RateLimitPluginOptions, RouteRateLimitOptions } from '../../plugins/rate-limit/index.js'
import { settleScripts } from '../../plugins/rate-limit/store/script-assembly.js'
import { advanceUntil, createTestApp, forEachStore, startRedis, until, type StoreName, type TestAppOptions } from '../helpers/index.js'
import { upTo } from '../helpers/cache/factories.js'
import { interceptCommands } from '../helpers/redis/intercept-commands.js'

const policy = { name: 'tokens', max: 10, timeWindow: '1 minute' } as const

/** An app whose route /login fails with the wrong password, and whose route /cost does what the header says. */
async function open (t: Test, store: TestAppOptions['store'], config: RouteRateLimitOptions, options: RateLimitPluginOptions = {}, more: TestAppOptions = {}) {
  return await createTestApp(t, {
    store: store ?? 'memory',
    plugins: { rateLimit: { timeWindow: '1 minute', timeout: '1h', ...options } },
    routes (app) {
      app.post('/login', { config: { rateLimit: config } }, async (request, reply) => reply.code(request.headers['x-password'] === 'right' ? 200 : 401).send())
    },
    ...more
  })
}

const login = async (app: FastifyInstance, password = 'wrong') => (await app.inject({ method: 'POST', url: '/login', headers: { 'x-password': password } })).statusCode
const remaining = async (app: FastifyInstance) => (await app.rateLimiter.peek('k', policy)).remaining

forEachStore(['memory', 'redis', 'cluster'], (store: StoreName) => {
  t.test(`${store}: only failures count, or only successes`, async t => {
    const { app } = await open(t, store, { max: 2, count: 'failures' })
    const settled = async (password?: string) => {
      const status = await login(app, password)
      await new Promise(resolve => setTimeout(resolve, 20))
      return status
    }
    t.same([await settled('right'), await settled('right'), await settled('right'), await settled(), await settled('right'), await settled(), await settled('right')], [200, 200, 200, 401, 200, 401, 429])
    const { app: other } = await open(t, store, { max: 2, count: 'successes' })
    const statuses: number[] = []
    for (const password of ['wrong', 'wrong', 'wrong', 'right', 'wrong', 'right', 'right']) {
      statuses.push(await login(other, password))
      await new Promise(resolve => setTimeout(resolve, 20))
    }
    t.same(statuses, [401, 401, 401, 200, 401, 200, 429])
  })

  t.test(`${store}: parallel logins cannot exceed the limit of failures`, async t => {
    const { app } = await open(t, store, { max: 3, count: 'failures' })
    const statuses = await Promise.all(upTo(20).map(async () => await login(app)))
    t.same([statuses.filter(status => status === 401).length, statuses.filter(status => status === 429).length], [3, 17])
  })

  t.test(`${store}: a function says what a request costs in the end, also later or more than was taken`, async t => {
    const cost = (request: FastifyRequest) => Number(request.headers['x-password'])
    for (const count of [cost, async (request: FastifyRequest) => cost(request)]) {
      const { app } = await open(t, store, { max: 10, cost: 5, count, keyGenerator: () => 'k' })
      const left = async () => (await app.inject({ method: 'POST', url: '/login', headers: { 'x-password': '5' } })).headers['x-ratelimit-remaining']
      await login(app, '1')
      await new Promise(resolve => setTimeout(resolve, 20))
      t.equal(await left(), '4', '1 and 5 of 10')
    }
    const { app } = await open(t, store, { max: 10, count: cost })
    t.equal(await login(app, '25'), 401)
    await new Promise(resolve => setTimeout(resolve, 20))
    t.equal(await login(app, '1'), 429, 'more than the limit is a debt')
  })

  t.test(`${store}: a hold is settled once, to less or more than its estimate, or is cancelled`, async t => {
    const { app, clock } = await open(t, store, {})
    const less = await app.rateLimiter.reserve('k', policy, 6)
    t.same([less.allowed, await remaining(app)], [true, 4])
    t.same([await less.settle(2), await remaining(app)], [true, 8])
    t.same([await less.settle(0), await less.cancel(), await remaining(app)], [false, false, 8])
    const cancelled = await app.rateLimiter.reserve('k', policy, 8)
    t.same([await remaining(app), await cancelled.cancel(), await remaining(app)], [0, true, 8])
    const refused = await app.rateLimiter.reserve('k', policy, 9)
    t.same([refused.allowed, await refused.settle(5), await refused.cancel(), await remaining(app)], [false, false, false, 8])
    const more = await app.rateLimiter.reserve('k', policy, 1)
    t.equal(await more.settle(30), true)
    const { allowed, retryAfter } = await app.rateLimiter.peek('k', policy)
    t.same([allowed, retryAfter > 0], [false, true], 'a debt that the window carries')
    await clock.advance('61s')
    t.equal(await remaining(app), 10)
    const equal = await app.rateLimiter.reserve('k', policy, 3)
    t.same([await equal.settle(3), await remaining(app)], [true, 7])
  })

  t.test(`${store}: a hold that is not settled stays charged at its ttl, or is released`, async t => {
    const { app, clock } = await open(t, store, {})
    const [charged, released] = [await app.rateLimiter.reserve('k', policy, 2, { ttl: '10s' }), await app.rateLimiter.reserve('k', policy, 3, { ttl: '10s', onExpire: 'release' })]
    await clock.advance('9s')
    t.equal(await remaining(app), 5)
    await clock.advance('1s')
    await until('one is released', async () => await remaining(app) === 8)
    t.same([await charged.settle(0), await released.settle(5), await remaining(app)], [false, false, 8])
  })
})

for (const algorithm of ['sliding-log', 'sliding-counter', 'gcra'] as const) {
  t.test(`${algorithm}: two instances never allow more than max beside what was charged beyond estimates`, async t => {
    const { apps, clock } = await createTestApp(t, { store: 'redis', instances: 2, plugins: { rateLimit: { timeout: '1h' } } })
    let round = 0
    const step = fc.record({ instance: fc.nat(1), estimate: fc.integer({ min: 0, max: 5 }), end: fc.constantFrom('settle', 'cancel', 'leave'), share: fc.double({ min: 0, max: 1, noNaN: true }) })
    await fc.assert(fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 25 }), async steps => {
      const name = `m${++round}`
      const limits = { ...policy, name, algorithm }
      let used = 0
      for (const { instance, estimate, end, share } of steps) {
        const hold = await apps[instance]!.rateLimiter.reserve('k', limits, estimate)
        if (!hold.allowed) continue
        const actual = end === 'leave' ? estimate : end === 'cancel' ? 0 : Math.floor(share * estimate)
        if (end === 'settle') await hold.settle(actual)
        if (end === 'cancel') await hold.cancel()
        used += actual
      }
      const { remaining } = await apps[0]!.rateLimiter.peek('k', limits)
      return used <= policy.max && remaining === policy.max - used
    }), { numRuns: 20 })
    await clock.advance(1)
  })
}

t.test('request.rateLimit.settle() corrects the cost once, also after the response was streamed', async t => {
  const { app } = await createTestApp(t, {
    store: 'redis',
    plugins: { rateLimit: { max: 100, cost: 50, timeout: '1h', keyGenerator: () => 'k' } },
    routes (app) {
      app.get('/', async request => {
        await t.rejects(request.rateLimit!.settle(-1), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE' })
        await request.rateLimit!.settle(10)
        await request.rateLimit!.settle(0)
        await request.rateLimit!.refund()
        return 'done'
      })
      app.get('/stream', async (request, reply) => {
        reply.raw.once('close', () => { request.rateLimit!.settle(70).catch(() => {}) })
        return 'streamed'
      })
    }
  })
  await app.inject('/')
  t.equal((await app.inject('/')).headers['x-ratelimit-remaining'], '40')
  await app.inject('/stream')
  await until('it is settled', async () => (await app.inject({ url: '/', method: 'GET' })).statusCode === 429)
})

t.test('a client that leaves before the response counts in any case, as its handler goes on', async t => {
  for (const count of ['failures', 'successes', () => 0] as const) {
    let arrived = 0
    const { app } = await open(t, 'memory', {}, {}, {
      routes (app) {
        app.post('/login', { config: { rateLimit: { max: 1, count, keyGenerator: () => 'k' } } }, async (request, reply) => {
          if (request.headers['x-slow'] === undefined) return await reply.code(401).send()
          arrived++
          await new Promise(resolve => { request.raw.once('close', resolve) })
          return 'late'
        })
      }
    })
    const address = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
    const socket = connect(Number(address.port), '127.0.0.1')
    socket.write('POST /login HTTP/1.1\r\nhost: x\r\nx-slow: 1\r\ncontent-length: 0\r\n\r\n')
    await until('it has arrived', () => arrived === 1)
    socket.destroy()
    await new Promise(resolve => setTimeout(resolve, 50))
    t.equal(await login(app), 429)
  }
})

t.test('what `count` throws, or returns that is no cost, is logged, and the request stays counted', async t => {
  for (const count of [() => -1, () => 'x' as never, () => { throw new Error('broken') }, async () => { throw new Error('broken') }]) {
    const { app, lines } = await open(t, 'memory', { max: 1, count })
    t.same([await login(app), await login(app)], [401, 429])
    await until('it is logged', () => lines.some(({ msg }) => msg === 'rate-limit: `count` failed'))
  }
})

t.test('options of holds and counts that cannot be used are refused', async t => {
  const { app } = await open(t, 'memory', {})
  for (const options of [{ ttl: 0 }, { ttl: '2 days' }, { onExpire: 'keep' }, { tll: 5 }] as never[]) {
    await t.rejects(app.rateLimiter.reserve('k', policy, 1, options), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION' })
  }
  t.equal(await remaining(app), 10, 'nothing was taken')
  await t.rejects(app.rateLimiter.reserve('k', policy, -1), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE' })
  await t.rejects((await app.rateLimiter.reserve('k', policy, 1)).settle(1.5), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE' })
  await t.rejects(open(t, 'memory', { count: 'errors' as never }), { code: 'FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION' })
})

t.test('a correction that Redis did not take is sent again, and takes effect once', async t => {
  const server = await startRedis()
  const { app, clock } = await open(t, { url: server.url, answers: true }, {})
  const hold = await app.rateLimiter.reserve('k', policy, 8)
  let lost = 0
  interceptCommands(app, async (_name, args, send) => {
    const reply = await send()
    const { sha1, lua } = settleScripts['sliding-log']
    if (([sha1, lua] as unknown[]).includes(args[0]) && lost++ < 2) throw new Error('Connection is closed.')
    return reply
  })
  t.equal(await hold.settle(3), true)
  await advanceUntil(clock, 'it is sent again', () => lost === 3)
  t.equal(await remaining(app), 7)
})
