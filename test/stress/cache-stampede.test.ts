import { fork } from 'node:child_process'
import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions, type RouteCacheOptions } from '../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { newPrefix, startCluster, startRedis } from '../helpers/index.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'
import { scaled } from '../helpers/stress/scale.js'

const server = await startRedis()
const cluster = await startCluster()
// Eight busy instances share one process: none of their deadlines may pass because of that.
const PATIENT: CachePluginOptions = { timeout: '10s' }
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

type Handler = (run: number, reply: { code: (status: number) => unknown, header: (name: string, value: string) => unknown }) => Promise<unknown>

/** Instances whose handler receives the number of its previous runs. */
async function instances (t: Test, count: number, handler: Handler, config: RouteCacheOptions = { ttl: '1m' }, connection: RedisPluginOptions = { url: server.url }, options: CachePluginOptions = {}) {
  const prefix = newPrefix()
  const runs = { count: 0 }
  const apps = await Promise.all(Array.from({ length: count }, async () => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(redis, { ...connection, prefix })
    await app.register(cache, options)
    app.get('/v', { config: { cache: config } }, async (_request, reply) => await handler(++runs.count, reply))
    return app
  }))
  return { apps, runs, prefix }
}

/** Sends concurrent requests, distributed over the instances. */
async function ask (apps: FastifyInstance[], count: number, headers: (i: number) => Record<string, string> = () => ({})) {
  return await Promise.all(Array.from({ length: count }, async (_, i) => {
    const response = await apps[i % apps.length]!.inject({ url: '/v', headers: headers(i) })
    return { status: response.statusCode, cache: response.headers['x-cache'], body: response.body }
  }))
}

const slow = (ms: number): Handler => async run => {
  await wait(ms)
  return { run }
}

t.test('1,000 concurrent requests for a cold key on eight instances run the handler once', async t => {
  for (const ms of [400, 50, 0]) {
    const { apps, runs } = await instances(t, 8, slow(ms), { ttl: '1m' }, { url: server.url }, PATIENT)
    const answers = await ask(apps, 1000)
    t.equal(runs.count, 1, `a handler of ${ms} ms`)
    t.equal(new Set(answers.map(({ status, body }) => `${status} ${body}`)).size, 1)
  }
})

t.test('on a Cluster 200 concurrent requests on four instances run it once', async t => {
  const { apps, runs } = await instances(t, 4, slow(150), { ttl: '1m', tags: ['a', 'b'] }, { cluster: { nodes: cluster.startupNodes } }, PATIENT)
  const answers = await ask(apps, 200)
  t.equal(runs.count, 1)
  t.equal(new Set(answers.map(({ body }) => body)).size, 1)
})

t.test('when a key is invalidated under load, the handler runs once each time', async t => {
  const { apps, runs } = await instances(t, 8, slow(20), { ttl: '1m', tags: ['v'] }, { url: server.url }, { ...PATIENT, l1: false })
  for (let round = 1; round <= scaled(20); round++) {
    await ask(apps, 64)
    t.equal(runs.count, round)
    await apps[round % 8]!.cache.invalidateTags(['v'])
  }
})

t.test('responses that vary are made once per variant across all instances', async t => {
  for (let round = 0; round < 20; round += 20 / scaled(20)) {
    const { apps, runs } = await instances(t, 4, async (run, reply) => {
      await wait(round)
      reply.header('vary', 'accept-language')
      return { run }
    }, { ttl: '1m' }, { url: server.url }, PATIENT)
    const answers = await ask(apps, 300, i => ({ 'accept-language': ['de', 'fr', 'it'][i % 3]! }))
    t.equal(runs.count, 3)
    t.same([...new Set(answers.map(({ status }) => status))], [200])
  }
})

const HANDLER_MS = 100
const UNSHAREABLE: Record<string, Handler> = {
  throws: async () => { await wait(HANDLER_MS); throw new Error('broken') },
  'responds with 500': async (_run, reply) => { await wait(HANDLER_MS); reply.code(500); return 'no' },
  'responds with what may not be stored': async (run, reply) => { await wait(HANDLER_MS); reply.header('cache-control', 'no-store'); return { run } },
  'sets a cookie': async (run, reply) => { await wait(HANDLER_MS); reply.header('set-cookie', `a=${run}`); return { run } }
}
for (const [what, handler] of Object.entries(UNSHAREABLE)) {
  t.test(`when the handler that all wait for ${what}, 200 followers proceed in parallel`, async t => {
    const { span } = await startHeartbeat(t)
    const { apps, runs } = await instances(t, 4, handler, { ttl: '1m' }, { url: server.url }, PATIENT)
    const asked = span()
    await ask(apps, 201)
    await asked.within(HANDLER_MS * 20, `201 requests with a handler of ${HANDLER_MS} ms`)
    t.equal(runs.count, 201, 'each has its own response')
  })
}

t.test('a process that is killed while its handler runs is succeeded after its lease, by one', async t => {
  const { span } = await startHeartbeat(t)
  const { apps, runs, prefix } = await instances(t, 3, slow(HANDLER_MS), { ttl: '1m', tags: ['v'] }, { url: server.url }, PATIENT)
  const child = fork(new URL('../fixtures/cache-instance.ts', import.meta.url), [server.url, prefix, '60000'], { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill('SIGKILL') })
  t.same(await once(child, 'message'), ['ready', undefined])
  child.send('ask')
  t.same(await once(child, 'message'), ['working', undefined])
  const asked = ask(apps, 200)
  await wait(800)
  t.equal(runs.count, 0, 'all wait for it as long as it lives')
  child.kill('SIGKILL')
  const killed = span()
  const answers = await asked
  await killed.within(1500 + HANDLER_MS * 5, 'until the responses')
  t.equal(runs.count, 1)
  t.same([...new Set(answers.map(({ status, body }) => `${status} ${body}`))], ['200 {"run":1}'])
})
