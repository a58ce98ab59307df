import Fastify from 'fastify'
import t from 'tap'
import { rateLimit } from '../../plugins/rate-limit/index.js'
import { createTestApp, startRedis } from '../helpers/index.js'
import { heapInUse } from '../helpers/timing/heap.js'
import { scaled } from '../helpers/stress/scale.js'

const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

t.test('eight instances under load over real sockets: each window of Redis\'s time holds at most max requests, and max wherever one is refused', async t => {
  const [max, window] = [40, 600]
  const own = await startRedis()
  const { apps } = await createTestApp(t, {
    store: own,
    clock: 'real',
    instances: 8,
    plugins: { rateLimit: { max, timeWindow: window, keyGenerator: () => 'x', timeout: '10s' } },
    routes: app => app.get('/', async () => 'x')
  })
  const passed: number[] = []
  const refused: number[] = []
  for (const { rateLimiter } of apps) {
    rateLimiter.on('allowed', ({ decision }) => passed.push(decision.time))
    rateLimiter.on('refused', ({ decision }) => refused.push(decision.time))
  }
  const addresses = await Promise.all(apps.map(app => app.listen({ port: 0, host: '127.0.0.1' })))
  // Several windows, so that requests pass and are refused.
  const end = Date.now() + Math.max(3 * window, scaled(5000))
  await Promise.all(addresses.flatMap(address => [1, 2, 3].map(async () => {
    while (Date.now() < end) {
      await (await fetch(address)).text()
      await wait(Math.random() * 5)
    }
  })))
  passed.sort((a, b) => a - b)
  const inWindow = (last: number) => passed.filter(at => at > last - window && at <= last).length
  t.ok(passed.length > max, `${passed.length} passed`)
  t.same(passed.filter(at => inWindow(at) > max), [])
  t.ok(refused.length > 0)
  t.same([...new Set(refused)].filter(at => inWindow(at) < max), [], 'no request was refused too early')
})

t.test('twenty bursts stay exact while another client flushes the scripts every millisecond', async t => {
  const own = await startRedis()
  const { app } = await createTestApp(t, {
    store: own,
    plugins: { rateLimit: { max: 6, keyGenerator: request => String(request.headers['x-user']) } },
    routes: app => app.get('/', async () => 'x')
  })
  const flusher = setInterval(() => { own.client().script('FLUSH').catch(() => {}) }, 1)
  t.teardown(() => clearInterval(flusher))
  const passed = []
  for (let i = 0; i < 20; i++) {
    const responses = await Promise.all(Array.from({ length: 20 }, () => app.inject({ url: '/', headers: { 'x-user': `u${i}` } })))
    passed.push(responses.filter(({ statusCode }) => statusCode === 200).length)
  }
  t.same(passed, Array.from({ length: 20 }, () => 6))
})

t.test('many different keys, at SCALE=1 a million, leave the memory of a process bounded', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { cache: 1000 })
  const { rateLimiter } = app
  const before = heapInUse()
  for (let i = 0; i < scaled(1_000_000); i++) await rateLimiter.consume(`key-${i}`, { name: 'p', max: 5, timeWindow: '1h' })
  const more = (heapInUse() - before) / 1024 ** 2
  t.ok(more < 10, `${more.toFixed(1)} MiB more`)
})
