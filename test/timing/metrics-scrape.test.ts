import Fastify from 'fastify'
import t from 'tap'
import { cache, health, metrics, rateLimit, redis } from '../../plugins/index.js'
import { startRedis, until } from '../helpers/index.js'
import { scrape } from '../helpers/metrics/scrape.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

t.test('while Redis hangs a scrape takes at most its timeout, and no extra time once the circuit is open', async t => {
  const { span } = await startHeartbeat(t)
  const server = await startRedis()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(metrics, { timeout: 300 })
  await app.register(redis, { url: server.url })
  await app.register(rateLimit, { max: 1000, timeWindow: '1 minute' })
  await app.register(cache)
  await app.register(health)
  app.get('/', async () => 'x')
  app.cache.writeBehind('views', { write: async () => {} })
  await scrape(app)

  server.pause()
  const hung = span()
  await scrape(app)
  await hung.within(300 + 100, 'a scrape while Redis hangs')
  await until('the circuit is open', async () => {
    await Promise.all(Array.from({ length: 10 }, () => app.inject('/')))
    return (await scrape(app)).sum('fastify_redis_circuit_open') === 1
  })
  const open = span()
  await scrape(app)
  await open.within(100, 'a scrape while the circuit is open')
  server.resume()
})
