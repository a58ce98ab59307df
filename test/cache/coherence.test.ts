// test/timing/cache-coherence.test.ts tests that invalidations arrive within 100 ms of real time.
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions } from '../../plugins/cache/index.js'
import { setKeyPrefix } from '../../plugins/shared/redis/client.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { createCacheApp, settled, type CacheAppOptions } from '../helpers/cache/cache-app.js'
import { advanceUntil, advanceWhile, closeApp, forEachStore, newPrefix, startProxy, startRedis, until, type RedisServer } from '../helpers/index.js'

const DEADLINE_MS = 80
const STEP = { step: 2 }
/** How long L1 is used without a verified subscription. */
const LEASE_MS = 100

/** Builds instances with a cached route and a route that changes it. */
async function build (t: Test, given: CacheAppOptions) {
  const runs = { count: 0 }
  const test = await createCacheApp(t, {
    ...given,
    options: { timeout: DEADLINE_MS, ...given.options },
    routes (app) {
      app.get('/v', { config: { cache: { ttl: '1h', tags: ['v'] } } }, async () => ({ run: ++runs.count }))
      app.put('/v', async () => 'changed')
    }
  })
  const [app, other] = test.apps as [FastifyInstance, FastifyInstance]
  return { ...test, app, other, runs }
}

const ask = async (app: FastifyInstance) => {
  const response = await app.inject('/v')
  return { status: response.statusCode, cache: response.headers['x-cache'], body: response.body }
}

/** Sends requests until L1 responds. @returns the response */
async function useL1 (app: FastifyInstance): Promise<string> {
  let last = ''
  await until('L1 answers', async () => {
    const { l1Hits } = app.cache.stats()
    last = (await ask(app)).body
    return app.cache.stats().l1Hits > l1Hits
  })
  return last
}

/** The number of requests to which L1 responds. */
async function l1HitsOf (app: FastifyInstance, count: number) {
  const { l1Hits } = app.cache.stats()
  for (let i = 0; i < count; i++) await ask(app)
  return app.cache.stats().l1Hits - l1Hits
}

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: a response that another instance invalidated is not served from L1 after 100 ms`, async t => {
    const { app, other, clock } = await build(t, { store, instances: 2 })
    for (let round = 0; round < 5; round++) {
      const body = await useL1(app)
      await other.cache.invalidateTags(['v'])
      await clock.advance(LEASE_MS + 1)
      t.not((await ask(app)).body, body)
      await clock.advance('2s')
    }
  })

  t.test(`${store}: a value that another instance sets replaces the one in L1 after 100 ms`, async t => {
    const { app, other, clock } = await build(t, { store, instances: 2 })
    for (let value = 1; value <= 5; value++) {
      await other.cache.set('k', value)
      await clock.advance(LEASE_MS + 1)
      for (let i = 0; i < 5; i++) {
        t.equal(await app.cache.get('k'), value)
        await settled(app)
      }
    }
  })
})

t.test('an instance whose subscription was killed does not use L1, empties it, and uses it again once it has subscribed again', async t => {
  const server = await startRedis()
  const { app, other, clock } = await build(t, { store: { url: server.url }, instances: 2 })
  for (let round = 0; round < 5; round++) {
    const body = await useL1(app)
    await server.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub')
    await other.cache.invalidateTags(['v'])
    await clock.advance(LEASE_MS + 1)
    t.not((await ask(app)).body, body, 'a response whose invalidation was not heard is not served')
    await clock.advance('2s')
    const next = await useL1(app)
    t.not(next, body)
  }
  await server.client().call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await until('L1 is emptied', () => app.cache.stats().l1Entries === 0)
  t.equal(app.cache.stats().l1Entries, 0)
})

t.test('an instance whose subscription is connected but receives nothing does not use L1 after 100 ms', async t => {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  const prefix = newPrefix()
  const { app: other, clock } = await build(t, { store: { url: server.url }, prefix })
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  // Only its subscriber connects through the proxy.
  const duplicate = client.duplicate.bind(client)
  client.duplicate = over => duplicate({ ...over, port: proxy.port })
  setKeyPrefix(client, prefix)
  const app = Fastify()
  t.teardown(() => closeApp(app, clock))
  await app.register(cache, { redis: client, clock })
  let runs = 0
  app.get('/v', { config: { cache: { ttl: '1h', tags: ['v'] } } }, async () => ({ by: 'proxied', run: ++runs }))
  for (const cut of [false, true]) {
    const body = await useL1(app)
    proxy.blackhole(true)
    await other.cache.invalidateTags(['v'])
    await clock.advance(LEASE_MS + 1)
    t.not((await ask(app)).body, body)
    t.equal(await l1HitsOf(app, 10), 0)
    if (cut) {
      proxy.sever()
      await until('L1 is emptied', () => app.cache.stats().l1Entries <= 1)
      t.equal(await l1HitsOf(app, 10), 0)
    }
    proxy.blackhole(false)
    await clock.advance('2s')
    t.not(await useL1(app), body)
  }
})

t.test("with onStoreError 'local' L1 responds while Redis is down, with 'open' the handler does", async t => {
  for (const onStoreError of ['local', 'open'] as const) {
    const server = await startRedis()
    const redis = { url: server.url, answers: true }
    const { app, clock } = await build(t, { store: redis, options: { onStoreError } })
    const body = await useL1(app)
    redis.answers = false
    await server.kill()
    await clock.advance(LEASE_MS + 20)
    const { value: answers } = await advanceWhile(clock, Promise.all(Array.from({ length: 20 }, () => ask(app))))
    t.same(answers.map(({ status }) => status), Array(20).fill(200))
    t.same([...new Set(answers.map(answer => answer.body === body))], [onStoreError === 'local'], onStoreError)
    await server.restart()
    redis.answers = true
    await advanceWhile(clock, useL1(app))
  }
})

interface Fault {
  name: string
  /** Breaks a server. @returns a function that repairs it */
  inflict: (server: RedisServer) => unknown
  mend: (server: RedisServer) => unknown
  /** Whether its keys can age meanwhile. */
  answers: boolean
}
const FAULTS: Fault[] = [
  { name: 'hung', answers: false, inflict: server => server.pause(), mend: server => server.resume() },
  { name: 'killed', answers: false, inflict: server => server.kill(), mend: server => server.restart() },
  { name: 'out of memory', answers: true, inflict: server => server.client().config('SET', 'maxmemory', '1'), mend: server => server.client().config('SET', 'maxmemory', '0') },
  { name: 'read-only', answers: false, inflict: server => server.client().replicaof('127.0.0.1', 1), mend: server => server.client().replicaof('NO', 'ONE') },
  { name: 'without its scripts', answers: true, inflict: server => server.client().script('FLUSH'), mend: () => {} },
  { name: 'emptied', answers: true, inflict: server => server.client().flushall(), mend: () => {} }
]
for (const { name, inflict, mend, answers: serverAnswers } of FAULTS) {
  t.test(`while Redis is ${name}, responses come within two deadlines and never as a 500, and afterwards the cache is used again`, async t => {
    const server = await startRedis()
    for (const options of [{ l1: false }, {}] as CachePluginOptions[]) {
      const redis = { url: server.url, answers: true }
      const { app, clock } = await build(t, { store: redis, options, clock: createTestClock() })
      await ask(app)
      redis.answers = serverAnswers
      await inflict(server)
      for (let round = 0; round < 3; round++) {
        // In small steps: a turn of the event loop also serves requests, which on a busy machine takes several turns.
        const { value: answers, passed } = await advanceWhile(clock, Promise.all(Array.from({ length: 25 }, () => ask(app))), STEP)
        t.same(answers.map(({ status }) => status), Array(25).fill(200))
        t.ok(passed <= 2 * DEADLINE_MS + 10, `requests take ${passed} ms`)
        const put = await advanceWhile(clock, app.inject({ method: 'PUT', url: '/v' }), STEP)
        t.equal(put.value.statusCode, 200)
        t.ok(put.passed <= 2 * DEADLINE_MS + 10, `a write takes ${put.passed} ms`)
      }
      await mend(server)
      redis.answers = true
      await advanceUntil(clock, 'the cache is used again', async () => (await advanceWhile(clock, ask(app))).value.cache === 'HIT')
      await advanceWhile(clock, app.cache.invalidateTags(['v']))
      t.equal((await advanceWhile(clock, ask(app))).value.cache, 'MISS')
    }
  })
}
