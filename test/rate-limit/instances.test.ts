import t, { type Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import { policy } from '../helpers/rate-limit/rate-limit-policies.js'
import type { Decision } from '../../plugins/rate-limit/decision.js'
import type { RateLimitPluginOptions } from '../../plugins/rate-limit/index.js'
import { RefusalCache } from '../../plugins/rate-limit/limiter/refusal-cache.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { createTestApp, sharedRedis, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { untilResetsAreReceived } from '../helpers/rate-limit/resets.js'

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE

async function start (t: Test, count: number, options: RateLimitPluginOptions, store: NonNullable<TestAppOptions['store']> = 'redis') {
  return await createTestApp(t, {
    store,
    instances: count,
    plugins: { rateLimit: { keyGenerator: request => String(request.headers['x-user'] ?? 'x'), ...options } },
    routes: app => app.get('/', async () => 'x')
  })
}

const statusOf = async (app: FastifyInstance | undefined, user = 'x') => (await app?.inject({ url: '/', headers: { 'x-user': user } }))?.statusCode
/** Sends requests at once. @returns how many of them pass */
const burst = async (app: FastifyInstance, count: number, user = 'x') =>
  (await Promise.all(Array.from({ length: count }, () => statusOf(app, user)))).filter(status => status === 200).length

/** Returns the number of scripts that the server has run since its start. */
async function scriptsRun (): Promise<number> {
  const { client } = await sharedRedis()
  return Number(/cmdstat_evalsha:calls=(\d+)/.exec(await client().info('commandstats'))?.[1] ?? 0)
}

t.test('instances share one sliding window: each window lets exactly max requests pass', async t => {
  const { apps, clock } = await start(t, 8, { max: 40, timeWindow: 10 * MINUTE })
  const passed: number[] = []
  for (let minute = 0; minute < 22; minute++) {
    const counts = await Promise.all(apps.map(app => burst(app, 3)))
    passed.push(counts.reduce((sum, count) => sum + count, 0))
    await clock.advance(MINUTE)
  }
  const window = [24, 16, 0, 0, 0, 0, 0, 0, 0, 0]
  t.same(passed, [...window, ...window, 24, 16])
})

t.test('100 requests before the end of a window and 100 after it: any one window lets 100 pass', async t => {
  const { app, clock } = await start(t, 1, { max: 100, timeWindow: 10 * MINUTE })
  t.equal(await burst(app, 100, 'one'), 100)
  t.equal(await burst(app, 100, 'one'), 0)
  // A fixed window would begin with the first request: one request first, then both bursts around its end.
  t.equal(await burst(app, 1, 'two'), 1)
  await clock.advance(9 * MINUTE)
  t.equal(await burst(app, 100, 'two'), 99)
  await clock.advance(1.5 * MINUTE)
  t.equal(await burst(app, 100, 'two'), 1, 'only the early one has left the window')
})

t.test('a flood of refused requests sends one command to Redis in five seconds', async t => {
  const started = await start(t, 1, { max: 5, timeWindow: 10 * MINUTE })
  const { app, clock } = started
  await untilResetsAreReceived(started)
  t.equal(await burst(app, 6), 5)
  t.equal(await statusOf(app), 429)
  const before = await scriptsRun()
  t.equal(await burst(app, 300), 0)
  await clock.advance(5 * SECOND - 1)
  t.equal(await burst(app, 200), 0)
  t.equal(await scriptsRun() - before, 0)
  await clock.advance(1)
  for (let i = 0; i < 100; i++) await statusOf(app)
  t.equal(await scriptsRun() - before, 1)
})

t.test('a cached refusal states the true wait, expires on time, and lets a lower cost pass', async t => {
  // The key has the TTL of the longer window, so that it outlives a slow test.
  const limits = [{ max: 5, timeWindow: 10 * MINUTE }, { max: 1000, timeWindow: 10 * HOUR }]
  const started = await start(t, 1, { limits, cost: request => Number(request.headers['x-cost'] ?? 1) })
  const { app, clock } = started
  await untilResetsAreReceived(started)
  const ask = async (cost: number) => {
    const { statusCode, headers } = await app.inject({ url: '/', headers: { 'x-cost': String(cost) } })
    return [statusCode, headers['retry-after']]
  }
  t.same(await ask(3), [200, undefined])
  t.same(await ask(3), [429, '600'])
  t.same(await ask(2), [200, undefined])
  t.same(await ask(1), [429, '600'])
  await clock.advance(4 * SECOND)
  const before = await scriptsRun()
  t.same(await ask(1), [429, '596'])
  t.equal(await scriptsRun() - before, 0, 'the refusal was cached')
  await clock.advance(10 * MINUTE - 6 * SECOND)
  t.same(await ask(1), [429, '2'])
  await clock.advance(2 * SECOND - 1)
  t.same(await ask(1), [429, '1'])
  await clock.advance(1)
  t.same(await ask(5), [200, undefined])
})

t.test('a reset or a refund on one instance removes the refusal that the others have cached', async t => {
  const started = await start(t, 3, { max: 1, timeWindow: HOUR })
  const { apps } = started
  await untilResetsAreReceived(started)
  const mails = { name: 'mails', max: 1, timeWindow: HOUR }
  for (const [i, app] of apps.entries()) {
    const user = `u${i}`
    const other = apps[(i + 1) % 3]
    t.equal(await statusOf(app, user), 200)
    t.same(await Promise.all(apps.map(app => statusOf(app, user))), [429, 429, 429])
    await app.rateLimiter.reset(user)
    let status
    await until(`instance ${(i + 1) % 3} receives the reset`, async () => (status = await statusOf(other, user)) === 200)
    t.equal(status, 200)
    t.equal(await statusOf(app, user), 429, 'the instances share the count again')

    const taken = await app.rateLimiter.consume(user, mails)
    t.match(await other?.rateLimiter.consume(user, mails), { allowed: false })
    await app.rateLimiter.refund(user, mails, taken)
    let decision
    await until(`instance ${(i + 1) % 3} receives the refund`, async () => (decision = await other?.rateLimiter.consume(user, mails))?.allowed === true)
    t.match(decision, { allowed: true, remaining: 0 })
  }
})

t.test('a refusal is not cached when a reset comes between its request and its reply', async t => {
  const refusals = new RefusalCache(createTestClock())
  const limit = policy([[1, HOUR]])
  const refused = { allowed: false, banned: false, retryAfter: HOUR, resetAfter: HOUR, blockedFor: 0 } as Decision
  const cache = (between: () => void) => {
    const start = refusals.begin()
    between()
    refusals.set('k', limit, 1, refused, start)
    return refusals.get('k', limit, 1)
  }
  t.match(cache(() => {}), refused)
  t.equal(cache(() => refusals.delete('k')), undefined)
  t.equal(cache(() => refusals.clear()), undefined, 'messages may have been missed')
})

t.test('a refusal whose reply crosses a reset does not outlive it', async t => {
  const own = await startRedis()
  const started = await start(t, 2, {}, own)
  const [one, two] = started.apps as [FastifyInstance, FastifyInstance]
  await untilResetsAreReceived(started)
  const limit = { name: 'p', max: 1, timeWindow: HOUR }
  let refusals = 0
  for (let i = 0; i < 10; i++) {
    const key = `k${i}`
    await one.rateLimiter.consume(key, limit)
    own.pause()
    const asked = one.rateLimiter.consume(key, limit)
    await sent()
    const reset = two.rateLimiter.reset(key, limit)
    await sent()
    own.resume()
    if (!(await asked).allowed) {
      refusals++
      await reset
      // The clock stands still, so a cached refusal would not expire.
      await until(`${key} passes after its reset`, async () => (await one.rateLimiter.consume(key, limit)).allowed)
    }
  }
  t.ok(refusals > 0, `${refusals} of 10 were refused before the reset, and passed after it`)
})

t.test('a short ban is cached for as long as it lasts, and each cost is refused with its own wait', async t => {
  const started = await start(t, 1, { max: 1 })
  const { app, clock } = started
  await untilResetsAreReceived(started)
  const short = { name: 'short', max: 2, timeWindow: HOUR, ban: 1, banDuration: 2 * SECOND }
  const asked = []
  for (let i = 0; i < 5; i++) asked.push((await app.rateLimiter.consume('k', short)).banned)
  t.same(asked, [false, false, false, true, true])
  await clock.advance(2 * SECOND - 1)
  t.match(await app.rateLimiter.peek('k', short), { allowed: false, banned: true })
  await clock.advance(1)
  t.match(await app.rateLimiter.peek('k', short), { allowed: false, banned: false })

  const costly = { name: 'costly', max: 3, timeWindow: HOUR }
  await app.rateLimiter.consume('k', costly, 2)
  await clock.advance(10 * MINUTE)
  await app.rateLimiter.consume('k', costly, 1)
  const waits = []
  for (const cost of [1, 3, 4]) waits.push((await app.rateLimiter.consume('k', costly, cost)).retryAfter)
  t.same(waits, [50 * MINUTE, HOUR, Infinity])
})

t.test('a reset does not overtake earlier requests', async t => {
  const { app } = await start(t, 1, { max: 1 })
  const limit = { name: 'p', max: 1, timeWindow: HOUR }
  const consumed = app.rateLimiter.consume('k', limit)
  await app.rateLimiter.reset('k', limit)
  t.match(await consumed, { allowed: true })
  t.match(await app.rateLimiter.consume('k', limit), { allowed: true })
})

t.test('an instance that cannot receive resets drops its cached refusals', async t => {
  const own = await startRedis()
  const started = await start(t, 2, { max: 1, timeWindow: HOUR }, own)
  const [app, other] = started.apps as [FastifyInstance, FastifyInstance]
  await untilResetsAreReceived(started)
  t.same([await statusOf(app), await statusOf(app)], [200, 429])
  await own.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await other.rateLimiter.reset('x')
  t.equal(await statusOf(app), 200)
})

t.test('each of 500 keys has a TTL in Redis', async t => {
  const own = await startRedis()
  const { app } = await start(t, 1, {}, own)
  await Promise.all(Array.from({ length: 500 }, (_, i) => app.rateLimiter.consume(`key-${i}`, { name: 'p', max: 5, timeWindow: HOUR })))
  const [, keys, expires] = /keys=(\d+),expires=(\d+)/.exec(await own.client().info('keyspace')) ?? []
  t.same([keys, expires], ['500', '500'])
})

/** Resolves after two turns of the event loop, when the commands of this one have been written to the socket. */
const sent = async () => { for (let i = 0; i < 3; i++) await new Promise(resolve => setImmediate(resolve)) }
