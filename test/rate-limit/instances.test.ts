import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { rateLimit, type RateLimitPluginOptions } from '../../plugins/rate-limit/index.js'
import { redis } from '../../plugins/redis/index.js'
import { heapInUse } from '../helpers/timing/heap.js'
import { startRedis, until } from '../helpers/index.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
let prefixes = 0
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

async function instances (t: Test, count: number, options: RateLimitPluginOptions): Promise<FastifyInstance[]> {
  const prefix = `i${++prefixes}`
  return await Promise.all(Array.from({ length: count }, async () => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(redis, { url: server.url, prefix })
    await app.register(rateLimit, { keyGenerator: request => String(request.headers['x-user'] ?? 'x'), ...options })
    app.get('/', async () => 'x')
    return app
  }))
}

/** How often a command was called on the server since it started. */
async function calls (command: string): Promise<number> {
  return Number(new RegExp(`cmdstat_${command}:calls=(\\d+)`).exec(await server.client().info('commandstats'))?.[1] ?? 0)
}

t.test('eight instances are hammered over real sockets for several windows: no window lets more than max pass', async t => {
  const max = 40
  const window = 600
  const apps = await instances(t, 8, { max, timeWindow: window })
  const addresses = await Promise.all(apps.map(app => app.listen({ port: 0, host: '127.0.0.1' })))
  const passed: Array<{ from: number, to: number }> = []
  const end = performance.now() + 2500
  await Promise.all(addresses.flatMap(address => [1, 2, 3].map(async () => {
    while (performance.now() < end) {
      const from = performance.now()
      const response = await fetch(address)
      await response.text()
      if (response.status === 200) passed.push({ from, to: performance.now() })
      await wait(Math.random() * 5)
    }
  })))
  // A request was decided somewhere between being sent and being answered: what certainly lies in one window is counted.
  const worst = Math.max(...passed.map(first => passed.filter(({ from, to }) => from >= first.from && to < first.from + window).length))
  t.ok(worst <= max, `at most ${max} in any window, seen ${worst}`)
  t.ok(passed.length >= max * 4 && passed.length <= max * 5, `${passed.length} passed in four windows and the first moment of a fifth`)
})

t.test('100 at the end of a window and 100 after it: 100 pass in any one window', async t => {
  const [app] = await instances(t, 1, { max: 100, timeWindow: 1000 }) as [FastifyInstance]
  const burst = async (user: string) => (await Promise.all(Array.from({ length: 100 }, () => app.inject({ url: '/', headers: { 'x-user': user } })))).filter(response => response.statusCode === 200).length
  t.equal(await burst('one'), 100)
  t.equal(await burst('one'), 0)
  // A fixed window begins with the first request: one early request, then both bursts around its end.
  await app.inject({ url: '/', headers: { 'x-user': 'two' } })
  await wait(900)
  const before = await burst('two')
  await wait(150)
  const after = await burst('two')
  t.equal(before, 99)
  t.equal(after, 1, 'only the early one has left the window')
})

t.test('a flood of refused requests sends close to no commands to Redis', async t => {
  const [app] = await instances(t, 1, { max: 5, timeWindow: '1 minute' }) as [FastifyInstance]
  await until('resets are heard', async () => await hearsResets())
  for (let i = 0; i < 6; i++) await app.inject('/')
  const before = await calls('evalsha')
  const refused = []
  for (let i = 0; i < 2000; i++) refused.push((await app.inject('/')).statusCode)
  t.ok(refused.every(status => status === 429))
  t.ok(await calls('evalsha') - before <= 1, 'at most one in 2,000')
})

t.test('a refusal that is remembered tells true times, and a lower cost may still pass', async t => {
  const [app] = await instances(t, 1, { max: 5, timeWindow: 900, cost: request => Number(request.headers['x-cost'] ?? 1) }) as [FastifyInstance]
  await until('resets are heard', async () => await hearsResets())
  const ask = (cost: number) => app.inject({ url: '/', headers: { 'x-cost': String(cost) } })
  await ask(3)
  t.equal((await ask(3)).statusCode, 429)
  t.equal((await ask(2)).statusCode, 200)
  t.equal((await ask(1)).statusCode, 429)
  await wait(920)
  t.equal((await ask(5)).statusCode, 200, 'and it ends when it said it would')
})

t.test('a reset on one instance is heard by all within 100 ms, a refund too: 50 of 50', async t => {
  const apps = await instances(t, 3, { max: 1, timeWindow: '1 minute' })
  await until('resets are heard', async () => await hearsResets(apps.length))
  const status = async (app: FastifyInstance | undefined, user: string) => (await app?.inject({ url: '/', headers: { 'x-user': user } }))?.statusCode
  for (let i = 0; i < 50; i++) {
    const user = `u${i}`
    await status(apps[0], user)
    for (const app of apps) t.equal(await status(app, user), 429)
    const sinceStart = stopwatch()
    await apps[i % 3]?.rateLimiter.reset(user)
    const other = apps[(i + 1) % 3]
    await until('it is heard', async () => await status(other, user) === 200, 1000)
    t.ok(sinceStart() < 100)
  }
})

t.test('a refusal that crosses a reset is not remembered: 30 of 30', async t => {
  const own = await startRedis()
  const apps = await Promise.all([1, 2].map(async () => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(redis, { url: own.url })
    await app.register(rateLimit, { timeout: 2000 })
    return app
  })) as [FastifyInstance, FastifyInstance]
  const [one, two] = apps
  await until('resets are heard', async () => await hearsResets(2, own))
  const policy = { name: 'p', max: 1, timeWindow: '1h' }
  let crossed = 0
  for (let i = 0; i < 30; i++) {
    const key = `k${i}`
    await one.rateLimiter.consume(key, policy)
    own.pause()
    const refused = one.rateLimiter.consume(key, policy)
    await wait(3)
    const reset = two.rateLimiter.reset(key, policy)
    await wait(3)
    own.resume()
    if (!(await refused).allowed) crossed++
    await reset
    await wait(50)
    t.equal((await one.rateLimiter.consume(key, policy)).allowed, true)
  }
  t.ok(crossed > 0, `${crossed} were refused before the reset`)
})

t.test('a short ban is remembered for as long as it lasts, and a larger cost is told its own wait', async t => {
  const [app] = await instances(t, 1, { max: 1 }) as [FastifyInstance]
  await until('resets are heard', async () => await hearsResets())
  const short = { name: 'short', max: 2, timeWindow: 2000, ban: 1, banDuration: 100 }
  const asked = []
  for (let i = 0; i < 5; i++) asked.push((await app.rateLimiter.consume('k', short)).banned)
  t.same(asked, [false, false, false, true, true])
  await wait(150)
  t.match(await app.rateLimiter.peek('k', short), { allowed: false, banned: false })
  const costly = { name: 'costly', max: 3, timeWindow: 5000 }
  await app.rateLimiter.consume('k', costly, 2)
  await wait(100)
  await app.rateLimiter.consume('k', costly, 1)
  const [one, all, more] = [await app.rateLimiter.consume('k', costly, 1), await app.rateLimiter.consume('k', costly, 3), await app.rateLimiter.consume('k', costly, 4)]
  t.ok(all.retryAfter > one.retryAfter)
  t.equal(more.retryAfter, Infinity)
})

t.test('a reset does not overtake what was asked before it', async t => {
  const [app] = await instances(t, 1, { max: 1 }) as [FastifyInstance]
  const policy = { name: 'p', max: 1, timeWindow: '1h' }
  const consumed = app.rateLimiter.consume('k', policy)
  await app.rateLimiter.reset('k', policy)
  await consumed
  t.equal((await app.rateLimiter.consume('k', policy)).allowed, true)
})

t.test('while resets cannot be heard nothing is remembered', async t => {
  const [app, other] = await instances(t, 2, { max: 1, timeWindow: '1 minute' }) as [FastifyInstance, FastifyInstance]
  await until('resets are heard', async () => await hearsResets(2))
  await app.inject('/')
  t.equal((await app.inject('/')).statusCode, 429)
  await server.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await other.rateLimiter.reset('x')
  t.equal((await app.inject('/')).statusCode, 200, 'what was remembered is forgotten with the connection')
})

t.test('a million different keys: memory stays bounded, and every key in Redis has a TTL', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { cache: 1000 })
  const { rateLimiter } = app
  const before = heapInUse()
  for (let i = 0; i < 1_000_000; i++) await rateLimiter.consume(`key-${i}`, { name: 'p', max: 5, timeWindow: '1h' })
  const more = (heapInUse() - before) / 1024 ** 2
  t.ok(more < 10, `${more.toFixed(1)} MiB more`)

  const own = await startRedis()
  const shared = Fastify()
  t.teardown(() => shared.close())
  await shared.register(redis, { url: own.url })
  await shared.register(rateLimit, { timeout: '5s' })
  await Promise.all(Array.from({ length: 5000 }, (_, i) => shared.rateLimiter.consume(`key-${i}`, { name: 'p', max: 5, timeWindow: '1h' })))
  const info = await own.client().info('keyspace')
  const [, keys, expires] = /keys=(\d+),expires=(\d+)/.exec(info) ?? []
  t.equal(keys, '5000')
  t.equal(expires, '5000')
})

/** Whether as many connections as there are apps listen for resets. */
async function hearsResets (count = 1, at = server): Promise<boolean> {
  const list = String(await at.client().call('CLIENT', 'LIST', 'TYPE', 'pubsub'))
  return list.split('\n').filter(line => / sub=1 /.test(line)).length >= count
}
