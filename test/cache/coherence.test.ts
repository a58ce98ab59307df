import { fork } from 'node:child_process'
import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions } from '../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { setKeyPrefix } from '../../plugins/shared/client.js'
import { startCluster, startProxy, startRedis, until, type RedisServer } from '../helpers/index.js'

const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const DEADLINE_MS = 80
// Of a request, beside the deadlines of the two operations on the store that it may wait for: this machine may be busy.
const SLACK_MS = 400
const LEASE_MS = 100
let prefixes = 0

async function build (t: Test, connection: RedisPluginOptions, options: CachePluginOptions = {}) {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, connection)
  await app.register(cache, { timeout: DEADLINE_MS, ...options })
  const runs = { count: 0 }
  app.get('/v', { config: { cache: { ttl: '1m', tags: ['v'] } } }, async () => ({ run: ++runs.count }))
  app.put('/v', async () => 'changed')
  await app.ready()
  return { app, runs }
}

const ask = async (app: FastifyInstance) => {
  const started = performance.now()
  const response = await app.inject('/v')
  return { status: response.statusCode, cache: response.headers['x-cache'], body: response.body, took: performance.now() - started }
}

/** Asks until the first tier answers. */
async function useL1 (app: FastifyInstance) {
  await until('the first tier answers', async () => {
    const { l1Hits } = app.cache.stats()
    await ask(app)
    return app.cache.stats().l1Hits > l1Hits
  })
}

/** For how many milliseconds from now on requests that begin are still answered with this. */
async function servedFor (app: FastifyInstance, body: string) {
  const started = performance.now()
  for (let last = 0; ;) {
    const asked = performance.now() - started
    if ((await ask(app)).body !== body || asked > 2000) return Number(last.toFixed(1))
    last = asked
    // As requests do that come over the network, let others' messages come in.
    await new Promise(resolve => setImmediate(resolve))
  }
}

/** How many of the requests were answered by the first tier. */
async function l1HitsOf (app: FastifyInstance, count: number) {
  const { l1Hits } = app.cache.stats()
  for (let i = 0; i < count; i++) await ask(app)
  return app.cache.stats().l1Hits - l1Hits
}

t.test('what another process invalidates is gone from L1 within 100 ms', async t => {
  const server = await startRedis()
  const { app } = await build(t, { url: server.url, prefix: 'other' })
  const child = fork(new URL('../fixtures/cache-instance.ts', import.meta.url), [server.url, 'other'], { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill() })
  await once(child, 'message')
  for (let round = 0; round < 5; round++) {
    await useL1(app)
    const { body } = await ask(app)
    child.send('invalidate')
    await once(child, 'message')
    const ms = await servedFor(app, body)
    t.ok(ms <= LEASE_MS, `${ms} ms`)
  }
})

t.test('a value that another instance sets anew takes the place of the one in L1 within 100 ms', async t => {
  const server = await startRedis()
  const [{ app }, { app: other }] = [await build(t, { url: server.url }), await build(t, { url: server.url })]
  for (let value = 1; value <= 5; value++) {
    await other.cache.set('k', value)
    await wait(LEASE_MS)
    for (let i = 0; i < 5; i++) {
      t.equal(await app.cache.get('k'), value)
      await wait(10)
    }
  }
})

t.test('whose subscription is killed does not use L1, empties it, and uses it again when it has subscribed again', async t => {
  const server = await startRedis()
  const { app } = await build(t, { url: server.url })
  const { app: other } = await build(t, { url: server.url })
  for (let round = 0; round < 5; round++) {
    await useL1(app)
    const { body } = await ask(app)
    await server.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await other.cache.invalidateTags(['v'])
    await wait(LEASE_MS)
    t.not((await ask(app)).body, body, 'what was not heard is not served')
    await useL1(app)
  }
  await server.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until('it is emptied', () => app.cache.stats().l1Entries === 0)
})

t.test('whose subscription hears nothing any more, although it stands, does not use L1 for longer than 100 ms', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const { app: other } = await build(t, { url: server.url, prefix: 'hole' })
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  // Its subscriber alone passes through the proxy.
  const duplicate = client.duplicate.bind(client)
  client.duplicate = over => duplicate({ ...over, port: proxy.port })
  setKeyPrefix(client, 'hole')
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(cache, { redis: client })
  let runs = 0
  app.get('/v', { config: { cache: { ttl: '1m', tags: ['v'] } } }, async () => ({ run: ++runs }))
  for (const cut of [false, true]) {
    await useL1(app)
    const { body } = await ask(app)
    proxy.blackhole(true)
    await other.cache.invalidateTags(['v'])
    const ms = await servedFor(app, body)
    t.ok(ms <= LEASE_MS, `${ms} ms`)
    await wait(LEASE_MS)
    t.equal(await l1HitsOf(app, 10), 0)
    if (cut) proxy.sever()
    await wait(50)
    t.equal(await l1HitsOf(app, 10), 0)
    if (cut) t.equal(app.cache.stats().l1Entries <= 1, true)
    proxy.blackhole(false)
    await useL1(app)
  }
})

t.test("with onStoreError 'local' L1 answers while Redis is gone, with 'open' the handler does", async t => {
  for (const onStoreError of ['local', 'open'] as const) {
    const server = await startRedis()
    const { app } = await build(t, { url: server.url }, { onStoreError })
    await useL1(app)
    const { body } = await ask(app)
    await server.kill()
    await wait(LEASE_MS + 20)
    const answers = await Promise.all(Array.from({ length: 20 }, () => ask(app)))
    t.ok(answers.every(answer => answer.status === 200 && (answer.body === body) === (onStoreError === 'local')), onStoreError)
    await server.restart()
    await useL1(app)
  }
})

/** Each breaks a server, and says how it is mended. */
const FAULTS: Record<string, (server: RedisServer) => Promise<() => Promise<unknown>>> = {
  async hung (server) {
    server.pause()
    return async () => server.resume()
  },
  async killed (server) {
    await server.kill()
    return async () => await server.restart()
  },
  async 'out of memory' (server) {
    await server.client().config('SET', 'maxmemory', '1')
    return async () => await server.client().config('SET', 'maxmemory', '0')
  },
  async 'read-only' (server) {
    await server.client().replicaof('127.0.0.1', 1)
    return async () => await server.client().replicaof('NO', 'ONE')
  },
  async 'without its scripts' (server) {
    await server.client().script('FLUSH')
    return async () => {}
  },
  async emptied (server) {
    await server.client().flushall()
    return async () => {}
  }
}
for (const [fault, inflict] of Object.entries(FAULTS)) {
  t.test(`while Redis is ${fault}, answers come in time and never as a 500, and afterwards the cache is used again`, async t => {
    const server = await startRedis()
    for (const options of [{ l1: false }, {}] as CachePluginOptions[]) {
      const { app } = await build(t, { url: server.url, prefix: `f${++prefixes}` }, options)
      await ask(app)
      const mend = await inflict(server)
      const answers = []
      for (let round = 0; round < 4; round++) {
        answers.push(...await Promise.all(Array.from({ length: 25 }, () => ask(app))))
        const started = performance.now()
        const { statusCode } = await app.inject({ method: 'PUT', url: '/v' })
        answers.push({ status: statusCode, took: performance.now() - started })
      }
      const slowest = Math.max(...answers.map(({ took }) => took))
      t.ok(answers.every(({ status }) => status === 200))
      t.ok(slowest < DEADLINE_MS * 2 + SLACK_MS, `the slowest took ${Math.round(slowest)} ms`)
      await mend()
      await until('the cache is used again', async () => (await ask(app)).cache === 'HIT')
      await app.cache.invalidateTags(['v'])
      t.equal((await ask(app)).cache, 'MISS')
    }
  })
}

t.test('on a Cluster what another instance invalidates is gone from L1 within 100 ms', async t => {
  const cluster = await startCluster()
  const connection = { cluster: { nodes: cluster.startupNodes } }
  const { app } = await build(t, connection)
  const { app: other } = await build(t, connection)
  for (let round = 0; round < 10; round++) {
    await useL1(app)
    const { body } = await ask(app)
    // Also when the subscription is lost just before.
    if (round % 2) await Promise.all(cluster.nodes.map(({ server }) => server.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub')))
    await other.cache.invalidateTags(['v'])
    const ms = await servedFor(app, body)
    t.ok(ms <= LEASE_MS, `${ms} ms`)
  }
})
