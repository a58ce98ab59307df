import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions, type Factory, type GetOrSetOptions } from '../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { startCluster, startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const cluster = await startCluster()
const INSTANCES = 4
const CALLERS = 1000
// Thousands of callers in one process: no deadline is to pass because of that.
const PATIENT: CachePluginOptions = { timeout: '10s' }
let prefixes = 0
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

async function build (t: Test, connection: RedisPluginOptions = { url: server.url }, options = PATIENT, count = INSTANCES): Promise<FastifyInstance[]> {
  const prefix = `ds${++prefixes}`
  return await Promise.all(Array.from({ length: count }, async () => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(redis, { required: false, ...connection, prefix })
    await app.register(cache, options)
    await app.ready()
    return app
  }))
}

/** A factory that counts its runs. */
function counting<T> (make: (run: number) => T | Promise<T>) {
  const factory = Object.assign(() => make(++factory.runs), { runs: 0 })
  return factory
}

async function callAll<T> (apps: FastifyInstance[], factory: Factory<T>, options: GetOrSetOptions<T> = {}, count = CALLERS) {
  return await Promise.allSettled(Array.from({ length: count }, async (_, i) => await apps[i % apps.length]!.cache.getOrSet('k', factory, options)))
}

const fulfilled = (results: Array<PromiseSettledResult<unknown>>) => results.filter(({ status }) => status === 'fulfilled').length

t.test('1,000 callers on 4 instances run a factory once, whatever its tags are', async t => {
  for (const options of [{}, { tags: ['a', 'b'] }, { tags: () => ['late'] }, { tags: () => ['late'], ttl: () => '1m' }]) {
    const apps = await build(t)
    const factory = counting(async run => { await wait(100); return run })
    t.equal(fulfilled(await callAll(apps, factory, options)), CALLERS)
    t.equal(factory.runs, 1, JSON.stringify(options))
  }
})

t.test('on a Cluster as well, with tags that the value names', async t => {
  const apps = await build(t, { cluster: { nodes: cluster.startupNodes } })
  const factory = counting(async run => { await wait(100); return run })
  await callAll(apps, factory, { tags: () => ['late', 'later'] })
  t.equal(factory.runs, 1)
})

t.test('on a Cluster also when such a tag was invalidated the moment before, which its clocks cannot tell from after', async t => {
  const apps = await build(t, { cluster: { nodes: cluster.startupNodes } })
  const factory = counting(async run => { await wait(50); return run })
  await apps[0]!.cache.invalidateTags(['late'])
  t.equal(fulfilled(await callAll(apps, factory, { tags: () => ['late'] })), CALLERS)
  t.comment(`${factory.runs} runs`)
  t.ok(factory.runs <= 50, `${factory.runs} runs`)
})

t.test('what was not found is looked for once where it may be kept, and else once an instance', async t => {
  for (const [options, most] of [[{ negativeTtl: '1m' }, 1], [{}, INSTANCES], [{ ttl: 0 }, INSTANCES]] as const) {
    for (const nothing of [null, undefined]) {
      const factory = counting(async () => { await wait(100); return nothing })
      const results = await callAll(await build(t), factory, options)
      t.ok(results.every(result => result.status === 'fulfilled' && result.value === nothing))
      t.ok(factory.runs <= most, `${factory.runs} runs`)
    }
  }
})

t.test('what has no ttl is made once an instance', async t => {
  for (const ttl of [0, () => 0]) {
    const factory = counting(async run => { await wait(100); return run })
    t.equal(fulfilled(await callAll(await build(t), factory, { ttl })), CALLERS)
    t.ok(factory.runs <= INSTANCES, `${factory.runs} runs`)
  }
})

t.test('a factory that fails runs once an instance, and all who wait get the error', async t => {
  const failing = counting(async () => { await wait(100); throw new Error('broken') })
  const results = await callAll(await build(t), failing)
  t.ok(results.every(result => result.status === 'rejected' && (result.reason as Error).message === 'broken'))
  t.ok(failing.runs <= INSTANCES, `${failing.runs} runs`)
  const unserializable = counting(async () => { await wait(100); return 1n })
  t.equal(fulfilled(await callAll(await build(t), unserializable)), 0)
  t.ok(unserializable.runs <= INSTANCES, `${unserializable.runs} runs`)
  const badTags = counting(async () => { await wait(100); return 1 })
  t.equal(fulfilled(await callAll(await build(t), badTags, { tags: () => [''] })), 0)
  t.ok(badTags.runs <= INSTANCES, `${badTags.runs} runs`)
})

t.test('a factory that fails after the caller who started it gave up runs again for the others, together', async t => {
  const [app] = await build(t, undefined, undefined, 1)
  const leader = new AbortController()
  let fail = (): void => {}
  const failing = new Promise<void>(resolve => { fail = resolve })
  const factory = counting(async run => {
    if (run === 1) await failing
    else await wait(100)
    throw new Error('broken')
  })
  const led = app!.cache.getOrSet('k', factory, { signal: leader.signal })
  await until('it runs', () => factory.runs === 1)
  const followers = callAll([app!], factory)
  await until('they wait', () => app!.cache.stats().coalesced === CALLERS)
  leader.abort(new Error('enough'))
  await t.rejects(led, { message: 'enough' })
  fail()
  const results = await followers
  t.ok(results.every(result => result.status === 'rejected' && (result.reason as Error).message === 'broken'))
  // It may have been his doing that it failed. Who is late on a busy machine comes after the next run.
  t.ok(factory.runs <= 5, `${factory.runs} runs`)
})

t.test('while the store is gone a factory runs a few times an instance, whatever its tags are', async t => {
  const own = await startRedis()
  for (const options of [{}, { tags: ['a'] }, { tags: () => ['late'] }]) {
    const apps = await build(t, { url: own.url }, {})
    await own.kill()
    const factory = counting(async run => { await wait(50); return run })
    t.equal(fulfilled(await callAll(apps, factory, options)), CALLERS)
    t.ok(factory.runs <= 12 * INSTANCES, `${factory.runs} runs with ${JSON.stringify(options)}${options.tags}`)
    await own.restart()
  }
})

t.test('when a tag is invalidated while it is made, again and again, none gets what is too old, and it does not run for each', async t => {
  const apps = await build(t)
  const source = { value: 0 }
  const factory = counting(async () => { const { value } = source; await wait(30); return value })
  for (const options of [{ tags: ['t'] }, { tags: () => ['t'] }]) {
    factory.runs = 0
    let asked = 0
    const answers: Array<Promise<void>> = []
    for (let round = 0; round < 10; round++) {
      source.value++
      await apps[round % INSTANCES]!.cache.invalidateTags(['t'])
      const told = source.value
      for (let i = 0; i < 100; i++) {
        asked++
        answers.push(apps[i % INSTANCES]!.cache.getOrSet(`${String(options.tags)}`, factory, options).then(value => { if (value < told) t.fail(`${value} < ${told}`) }))
      }
      await wait(10)
    }
    await Promise.all(answers)
    t.comment(`${factory.runs} runs for ${asked} callers and 10 invalidations`)
    t.ok(factory.runs <= 10 * 2 * INSTANCES, `${factory.runs} runs`)
  }
})
