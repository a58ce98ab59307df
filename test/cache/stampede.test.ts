import { fork } from 'node:child_process'
import { once } from 'node:events'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions, type RouteCacheOptions } from '../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { startCluster, startRedis, until } from '../helpers/index.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
const cluster = await startCluster()
// Eight instances in one process, at once: no deadline of theirs is to pass because of that.
const PATIENT: CachePluginOptions = { timeout: '10s' }
let prefixes = 0
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

type Handler = (run: number, reply: { code: (status: number) => unknown, header: (name: string, value: string) => unknown }) => Promise<unknown>

/** Instances whose handler is told how often it ran before. */
async function instances (t: Test, count: number, handler: Handler, config: RouteCacheOptions = { ttl: '1m' }, connection: RedisPluginOptions = { url: server.url }, options: CachePluginOptions = {}) {
  const prefix = `st${++prefixes}`
  const runs = { count: 0 }
  const apps = await Promise.all(Array.from({ length: count }, async () => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(redis, { ...connection, prefix })
    await app.register(cache, options)
    app.get('/v', { config: { cache: config } }, async (_request, reply) => await handler(++runs.count, reply))
    return app
  }))
  return { apps, runs }
}

/** Requests spread over the instances, all at once. */
async function ask (apps: FastifyInstance[], count: number, headers: (i: number) => Record<string, string> = () => ({})) {
  const sinceStart = stopwatch()
  const answers = await Promise.all(Array.from({ length: count }, async (_, i) => {
    const response = await apps[i % apps.length]!.inject({ url: '/v', headers: headers(i) })
    return { status: response.statusCode, cache: response.headers['x-cache'], body: response.body }
  }))
  return { answers, took: sinceStart() }
}

const slow = (ms: number): Handler => async run => {
  await wait(ms)
  return { run }
}

t.test('1,000 requests at once for a cold key on eight instances run the handler once', async t => {
  for (const ms of [400, 50, 0]) {
    const { apps, runs } = await instances(t, 8, slow(ms), { ttl: '1m' }, { url: server.url }, PATIENT)
    const { answers, took } = await ask(apps, 1000)
    t.equal(runs.count, 1, `a handler of ${ms} ms`)
    t.equal(new Set(answers.map(({ status, body }) => `${status} ${body}`)).size, 1)
    t.comment(`1,000 requests, a handler of ${ms} ms: ${Math.round(took)} ms`)
  }
})

t.test('on a Cluster 200 requests at once on four instances run it once', async t => {
  const { apps, runs } = await instances(t, 4, slow(150), { ttl: '1m', tags: ['a', 'b'] }, { cluster: { nodes: cluster.startupNodes } }, PATIENT)
  const { answers } = await ask(apps, 200)
  t.equal(runs.count, 1)
  t.equal(new Set(answers.map(({ body }) => body)).size, 1)
})

t.test('when keys expire or are invalidated under load, the handler runs once for each time', async t => {
  const { apps, runs } = await instances(t, 8, slow(20), { ttl: '1m', tags: ['v'] }, { url: server.url }, PATIENT)
  for (let round = 1; round <= 20; round++) {
    await ask(apps, 64)
    t.equal(runs.count, round)
    await apps[round % 8]!.cache.invalidateTags(['v'])
  }
})

t.test('answers that vary are made once a variant, also when they are asked for at once and nothing is known yet', async t => {
  const { apps, runs } = await instances(t, 4, async (run, reply) => {
    await wait(50)
    reply.header('vary', 'accept-language')
    return { run }
  })
  const { answers } = await ask(apps, 300, i => ({ 'accept-language': ['de', 'fr', 'it'][i % 3]! }))
  t.ok(runs.count <= 3 * 4, `${runs.count} runs for three variants on four instances`)
  t.ok(answers.every(({ status }) => status === 200))
})

const HANDLER_MS = 100
const UNSHAREABLE: Record<string, Handler> = {
  throws: async () => { await wait(HANDLER_MS); throw new Error('broken') },
  'answers 500': async (_run, reply) => { await wait(HANDLER_MS); reply.code(500); return 'no' },
  'answers what may not be stored': async (run, reply) => { await wait(HANDLER_MS); reply.header('cache-control', 'no-store'); return { run } },
  'sets a cookie': async (run, reply) => { await wait(HANDLER_MS); reply.header('set-cookie', `a=${run}`); return { run } }
}
for (const [what, handler] of Object.entries(UNSHAREABLE)) {
  t.test(`when the one that all wait for ${what}, 200 followers go on together, not one by one`, async t => {
    const { apps, runs } = await instances(t, 4, handler)
    const { took } = await ask(apps, 201)
    t.ok(took < HANDLER_MS * 20, `${Math.round(took)} ms with a handler of ${HANDLER_MS} ms`)
    t.equal(runs.count, 201, 'each has its own answer')
  })
}

t.test('a failure is nobody else\'s: after the first that fails, followers have their own answers, and these are stored', async t => {
  const { apps, runs } = await instances(t, 2, async run => {
    await wait(50)
    if (run === 1) throw new Error('broken')
    return { run }
  })
  const { answers } = await ask(apps, 20)
  t.equal(answers.filter(({ status }) => status === 500).length, 1)
  t.equal(answers.filter(({ status }) => status === 200).length, 19)
  await until('it is stored', async () => (await ask(apps, 2)).answers.every(answer => answer.cache === 'HIT'))
  t.ok(runs.count > 1)
})

t.test('an instance that dies while it works is succeeded before long, by one', async t => {
  const { apps, runs } = await instances(t, 4, slow(HANDLER_MS))
  const [dead, ...others] = apps as [FastifyInstance, ...FastifyInstance[]]
  // As a process that is killed: its claim stands, and is neither renewed nor given back.
  dead.redis.evalsha = () => new Promise(() => {})
  const lost = dead.inject('/v')
  await until('it works', () => runs.count === 1)
  const { answers, took } = await ask(others, 200)
  t.ok(took < 1500 + HANDLER_MS * 5, `${Math.round(took)} ms`)
  t.equal(runs.count, 2)
  t.ok(answers.every(({ status }) => status === 200))
  await lost
})

t.test('a process that is killed while it works is succeeded before long, by one', async t => {
  const { apps, runs } = await instances(t, 3, slow(HANDLER_MS), { ttl: '1m', tags: ['v'] })
  const child = fork(new URL('../fixtures/cache-instance.ts', import.meta.url), [server.url, `st${prefixes}`, '60000'], { execArgv: ['--import', 'tsx'] })
  t.teardown(() => { child.kill('SIGKILL') })
  t.same(await once(child, 'message'), ['ready', undefined])
  child.send('ask')
  t.same(await once(child, 'message'), ['working', undefined])
  const asked = ask(apps, 200)
  await wait(800)
  t.equal(runs.count, 0, 'all wait for it as long as it lives')
  child.kill('SIGKILL')
  const { answers, took } = await asked
  t.equal(runs.count, 1)
  t.ok(answers.every(({ status, body }) => status === 200 && body === '{"run":1}'))
  t.ok(took < 800 + 1500 + HANDLER_MS * 5, `${Math.round(took)} ms`)
})

t.test('a handler that hangs strands nobody: those who wait for it run their own, all at once', async t => {
  let release = (): void => {}
  const hung = new Promise<void>(resolve => { release = resolve })
  const { apps, runs } = await instances(t, 2, async run => {
    if (run === 1) await hung
    return { run }
  })
  const first = apps[0]!.inject('/v')
  await until('it hangs', () => runs.count === 1)
  const { answers, took } = await ask(apps, 100)
  t.ok(took < 6500, `${Math.round(took)} ms`)
  t.ok(answers.every(({ status }) => status === 200))
  release()
  t.equal((await first).statusCode, 200)
})

t.test('while Redis is gone, requests of one instance are still coalesced', async t => {
  const own = await startRedis()
  const { apps, runs } = await instances(t, 2, slow(HANDLER_MS), { ttl: '1m' }, { url: own.url }, { timeout: 60 })
  await own.kill()
  await ask(apps, 20)
  runs.count = 0
  const { answers, took } = await ask(apps, 200)
  t.ok(runs.count <= 2, `${runs.count} runs on two instances`)
  t.ok(took < HANDLER_MS * 8, `${Math.round(took)} ms`)
  t.ok(answers.every(({ status }) => status === 200))
})

t.test('of eight instances one makes a stale answer anew, and all others give the stale one at once', async t => {
  const { apps, runs } = await instances(t, 8, async run => {
    if (run > 1) await wait(HANDLER_MS)
    return { run }
  }, { ttl: 300, staleWhileRevalidate: '1m' })
  for (let round = 1; round <= 4; round++) {
    await until('it is fresh everywhere', async () => (await ask(apps, 8)).answers.every(answer => answer.cache === 'HIT' && answer.body === `{"run":${round}}`))
    await wait(350)
    const { answers, took } = await ask(apps, 160)
    t.ok(answers.every(answer => answer.cache === 'STALE' && answer.body === `{"run":${round}}`))
    t.ok(took < 1000, `${Math.round(took)} ms`)
    await until('it is made anew', () => runs.count === round + 1)
    await wait(HANDLER_MS)
    t.equal(runs.count, round + 1)
  }
})
