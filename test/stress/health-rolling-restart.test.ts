import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import { health } from '../../plugins/health/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { advanceWhile, createTestApp, startRedis, until } from '../helpers/index.js'
import { scaled } from '../helpers/stress/scale.js'

const REQUESTS = scaled(10) * 1000

t.test('thousands of probes cause one PING while the result is fresh', async t => {
  const server = await startRedis()
  const { app } = await createTestApp(t, { store: server, plugins: { health: { cacheFor: '1 minute' } } })
  const pings = async () => Number(/cmdstat_ping:calls=(\d+)/.exec(await server.client().info('commandstats'))?.[1] ?? 0)
  const before = await pings()
  for (let i = 0; i < REQUESTS / 1000; i++) await Promise.all(Array.from({ length: 1000 }, () => app.inject('/health/ready')))
  t.equal(await pings() - before, 1)
})

t.test('in a rolling restart behind a load balancer none of thousands of requests fails', async t => {
  const instances = new Map<string, FastifyInstance>()
  const clock = createTestClock()
  async function start (): Promise<string> {
    const app = Fastify()
    await app.register(health, { drainDelay: 1000, clock })
    app.get('/', async () => { await new Promise(resolve => setTimeout(resolve, 5)); return 'ok' })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    instances.set(url, app)
    return url
  }
  t.teardown(async () => { await Promise.all([...instances.values()].map(app => app.close())) })
  // A load balancer probes each instance, and sends requests in turn to those that were ready at the last probe.
  let ready: string[] = []
  const probe = async () => {
    const states = await Promise.all([...instances.keys()].map(async url => [url, (await fetch(`${url}/health/ready`).catch(() => undefined))?.status === 200] as const))
    ready = states.filter(([, isReady]) => isReady).map(([url]) => url)
  }
  await Promise.all([start(), start(), start()])
  await probe()
  const prober = setInterval(() => { probe().catch(() => {}) }, 50)
  t.teardown(() => clearInterval(prober))

  let [sent, failed] = [0, 0]
  const restarted = new AbortController()
  const user = async () => {
    while (sent < REQUESTS || !restarted.signal.aborted) {
      const url = ready[sent++ % ready.length] ?? ''
      const status = await fetch(url).then(async response => { await response.text(); return response.status }, () => 0)
      if (status !== 200) failed++
    }
  }
  const users = Promise.all(Array.from({ length: 30 }, user))
  for (const [url, app] of [...instances]) {
    const next = await start()
    await until('the new instance gets requests', () => ready.includes(next))
    const drained = app.health.drain()
    // The delay is longer than a probe takes, also on a machine that stalls.
    await until('the load balancer has noticed', () => !ready.includes(url))
    await advanceWhile(clock, drained)
    await app.close()
    instances.delete(url)
  }
  restarted.abort()
  await users
  t.ok(sent >= REQUESTS, `${sent} requests`)
  t.equal(failed, 0)
})
