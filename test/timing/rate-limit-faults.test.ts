import type { FastifyInstance } from 'fastify'
import t from 'tap'
import { createTestApp, startCluster, startRedis, until } from '../helpers/index.js'
import { untilResetsAreReceived } from '../helpers/rate-limit/resets.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

const TIMEOUT = 80
/** Milliseconds for the work of a burst of requests, in addition to the deadline. */
const REST = 250

const rateLimit = { max: 6, timeWindow: '1 minute', timeout: TIMEOUT, keyGenerator: (request: { headers: Record<string, unknown> }) => String(request.headers['x-user']) }
const routes = (app: FastifyInstance) => app.get('/', async () => 'x')

async function burst (app: FastifyInstance | undefined, count: number, user: string): Promise<Record<number, number>> {
  const counts: Record<number, number> = {}
  await Promise.all(Array.from({ length: count }, async () => {
    const status = (await app?.inject({ url: '/', headers: { 'x-user': user } }))?.statusCode ?? 0
    counts[status] = (counts[status] ?? 0) + 1
  }))
  return counts
}

for (const fault of ['hangs (SIGSTOP)', 'is killed'] as const) {
  t.test(`when Redis ${fault}, every request is served within the deadline, and Redis decides again within 3 s of its return`, async t => {
    const { span } = await startHeartbeat(t)
    const server = await startRedis()
    const { app } = await createTestApp(t, { store: server, clock: 'real', connection: { closeTimeout: 100 }, plugins: { rateLimit }, routes })
    t.same(await burst(app, 1, 'warm'), { 200: 1 })
    if (fault === 'is killed') await server.kill()
    else server.pause()
    for (const user of ['a', 'b', 'c']) {
      const asked = span()
      t.same(await burst(app, 20, user), { 200: 6, 429: 14 })
      await asked.within(TIMEOUT + REST, 'the slowest of 20 responses')
    }
    if (fault === 'is killed') await server.restart()
    else server.resume()
    const back = span()
    await until('Redis decides again', async () => (await app.rateLimiter.peek('x', { name: 'probe', max: 1 })).takenFrom === 'store')
    await back.within(3000, 'Redis decides again')
  })
}

t.test('a reset on one instance reaches all others within 100 ms: 50 of 50', async t => {
  const { span } = await startHeartbeat(t)
  const started = await createTestApp(t, { store: 'redis', clock: 'real', instances: 3, plugins: { rateLimit: { ...rateLimit, max: 1, timeout: '10s' } }, routes })
  const { apps } = started
  await untilResetsAreReceived(started)
  for (let i = 0; i < 50; i++) {
    const user = `u${i}`
    t.same(await burst(apps[0], 1, user), { 200: 1 })
    const refused = await Promise.all(apps.map(app => burst(app, 1, user)))
    t.same(refused, [{ 429: 1 }, { 429: 1 }, { 429: 1 }])
    const reset = span()
    await apps[i % 3]?.rateLimiter.reset(user)
    await until('the reset is heard', async () => (await burst(apps[(i + 1) % 3], 1, user))[200] === 1, 1000)
    await reset.within(100, `reset ${i}`)
  }
})

t.test('while a Cluster fails over, every request is served within the deadline; then the limit is exact', async t => {
  const { span } = await startHeartbeat(t)
  const cluster = await startCluster()
  const { app, prefix } = await createTestApp(t, { store: cluster, clock: 'real', connection: { closeTimeout: 100 }, plugins: { rateLimit }, routes })
  t.same(await burst(app, 1, 'x'), { 200: 1 })
  const key = `${prefix}:rate-limit:log:{x}`
  const { server } = await cluster.masterOf(key)
  await server.kill()
  let rounds = 0
  await until('the replica has taken over', async () => {
    const asked = span()
    const counts = await burst(app, 4, `f${rounds++}`)
    await asked.within(TIMEOUT + REST, 'the slowest of 4 responses')
    t.same(Object.keys(counts).filter(status => status !== '200' && status !== '429'), [])
    return (await cluster.masterOf(key)).server !== server
  }, 15_000)
  let users = 0
  const isExact = async () => {
    for (let i = 0; i < 10; i++) if ((await burst(app, 12, `e${users++}`))[200] !== 6) return false
    return true
  }
  await until('the limit of ten clients is exact again', isExact, 15_000)
  t.ok(await isExact(), 'and stays so')
})
