import { fork } from 'node:child_process'
import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions } from '../../plugins/cache/index.js'
import { setKeyPrefix } from '../../plugins/shared/redis/client.js'
import { createCacheApp, type CacheAppOptions } from '../helpers/cache/cache-app.js'
import { newPrefix, sharedCluster, sharedRedis, startProxy, startRedis, until, type RedisServer } from '../helpers/index.js'
import { startHeartbeat, type Span } from '../helpers/timing/heartbeat.js'

const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const DEADLINE_MS = 80
const LEASE_MS = 100
// The duration of a request, in addition to the deadlines of the two store operations that it may wait for.
const SLACK_MS = 100

async function build (t: Test, given: CacheAppOptions): Promise<{ app: FastifyInstance, other: FastifyInstance, prefix: string }> {
  const runs = { count: 0 }
  const { apps, prefix } = await createCacheApp(t, {
    clock: 'real',
    ...given,
    options: { timeout: DEADLINE_MS, ...given.options },
    routes (app) {
      app.get('/v', { config: { cache: { ttl: '1m', tags: ['v'] } } }, async () => ({ run: ++runs.count }))
      app.put('/v', async () => 'changed')
    }
  })
  const [app, other] = apps as [FastifyInstance, FastifyInstance]
  return { app, other, prefix }
}

const bodyOf = async (app: FastifyInstance) => (await app.inject('/v')).body

/** Sends requests until L1 serves one. @returns its body */
async function useL1 (app: FastifyInstance): Promise<string> {
  let last = ''
  await until('L1 answers', async () => {
    const { l1Hits } = app.cache.stats()
    last = await bodyOf(app)
    return app.cache.stats().l1Hits > l1Hits
  })
  return last
}

/** Asserts that requests from this long after the start of the span do not receive `body`. */
async function assertGone (t: Test, app: FastifyInstance, body: string, span: Span): Promise<void> {
  for (;;) {
    const asked = await span.judge()
    if (await bodyOf(app) !== body) return
    if (asked.elapsed > LEASE_MS + asked.stalled) {
      t.fail(`served ${Math.round(asked.elapsed)} ms after its invalidation, ${Math.round(asked.stalled)} ms of which the machine stalled`)
      return
    }
    // Lets messages arrive, as requests over the network do.
    await new Promise(resolve => setImmediate(resolve))
  }
}

t.test('a response that another process invalidates is gone from L1 within 100 ms', async t => {
  const { url } = await sharedRedis()
  const { span } = await startHeartbeat(t)
  const { app, prefix } = await build(t, { store: 'redis' })
  const child = fork(new URL('../fixtures/cache-instance.ts', import.meta.url), [url, prefix], { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill() })
  await once(child, 'message')
  for (let round = 0; round < 5; round++) {
    const body = await useL1(app)
    child.send('invalidate')
    await once(child, 'message')
    await assertGone(t, app, body, span())
    t.not(await bodyOf(app), body)
  }
})

t.test('on a Cluster a response that another instance invalidates is gone from L1 within 100 ms, also where the subscription is lost', async t => {
  const cluster = await sharedCluster()
  const { span } = await startHeartbeat(t)
  const { app, other } = await build(t, { store: 'cluster', instances: 2 })
  for (let round = 0; round < 10; round++) {
    const body = await useL1(app)
    if (round % 2) await Promise.all(cluster.client().nodes('all').map(node => node.call('CLIENT', 'KILL', 'TYPE', 'pubsub')))
    await other.cache.invalidateTags(['v'])
    await assertGone(t, app, body, span())
    t.not(await bodyOf(app), body)
  }
})

t.test('an instance whose subscription stands but receives nothing does not use L1 for longer than 100 ms', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const { span } = await startHeartbeat(t)
  const prefix = newPrefix()
  const { app: other } = await build(t, { store: { url: server.url }, prefix })
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  // Only its subscriber uses the proxy.
  const duplicate = client.duplicate.bind(client)
  client.duplicate = over => duplicate({ ...over, port: proxy.port })
  setKeyPrefix(client, prefix)
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(cache, { redis: client })
  let runs = 0
  app.get('/v', { config: { cache: { ttl: '1m', tags: ['v'] } } }, async () => ({ run: ++runs }))
  for (let round = 0; round < 3; round++) {
    const body = await useL1(app)
    proxy.blackhole(true)
    await other.cache.invalidateTags(['v'])
    await assertGone(t, app, body, span())
    t.not(await bodyOf(app), body)
    proxy.blackhole(false)
    await useL1(app)
  }
})

const FAULTS: Record<string, (server: RedisServer) => Promise<() => Promise<unknown>>> = {
  async hung (server) {
    server.pause()
    return async () => server.resume()
  },
  async killed (server) {
    await server.kill()
    return async () => await server.restart()
  }
}
for (const [fault, inflict] of Object.entries(FAULTS)) {
  t.test(`while Redis is ${fault} each response comes within two deadlines of real time`, async t => {
    const server = await startRedis()
    const { span } = await startHeartbeat(t)
    for (const options of [{ l1: false }, {}] as CachePluginOptions[]) {
      const { app } = await build(t, { store: { url: server.url }, options })
      await bodyOf(app)
      const mend = await inflict(server)
      for (let round = 0; round < 4; round++) {
        const asked = span()
        const answers = await Promise.all(Array.from({ length: 25 }, () => app.inject('/v')))
        await asked.within(2 * DEADLINE_MS + SLACK_MS, '25 requests')
        t.same(answers.map(({ statusCode }) => statusCode), Array(25).fill(200))
        const changed = span()
        t.equal((await app.inject({ method: 'PUT', url: '/v' })).statusCode, 200)
        await changed.within(2 * DEADLINE_MS + SLACK_MS, 'a write')
      }
      await mend()
      await until('the cache is used again', async () => (await app.inject('/v')).headers['x-cache'] === 'HIT')
      await wait(LEASE_MS)
    }
  })
}
