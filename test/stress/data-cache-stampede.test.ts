// Thousands of callers in real time: some come after the run that the others waited for. Exact counts are in test/cache/data-stampede.test.ts.
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { Factory, GetOrSetOptions } from '../../plugins/cache/index.js'
import { createTestApp, startRedis, type TestAppOptions } from '../helpers/index.js'
import { counting, upTo } from '../helpers/cache/factories.js'

const INSTANCES = 4
const CALLERS = 1000
/** The runs of one instance for callers that come at once (see the functional test), and for those that come later. */
const MOST_RUNS = 6
const LATE_RUNS = 6
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

async function openInstances (t: Test, { timeout = '10s', ...options }: Partial<TestAppOptions> & { timeout?: string | undefined } = {}): Promise<FastifyInstance[]> {
  return (await createTestApp(t, { store: 'redis', clock: 'real', instances: INSTANCES, plugins: { cache: { timeout } }, ...options })).apps
}

async function callAll<T> (apps: FastifyInstance[], factory: Factory<T>, options: GetOrSetOptions<T> = {}) {
  const results = await Promise.allSettled(upTo(CALLERS).map(async i => await apps[i % apps.length]!.cache.getOrSet('k', factory, options)))
  return results.filter(({ status }) => status === 'fulfilled').length
}

for (const store of ['redis', 'cluster'] as const) {
  t.test(`${store}: 1,000 callers on 4 instances run a factory of 100 ms once, whatever its tags are`, async t => {
    for (const options of [{}, { tags: ['a', 'b'] }, { tags: () => ['late'] }, { tags: () => ['late'], ttl: () => '1m' }]) {
      const factory = counting(async run => { await wait(100); return run })
      t.equal(await callAll(await openInstances(t, { store }), factory, options), CALLERS)
      t.equal(factory.runs, 1, JSON.stringify(options))
    }
  })
}

t.test('cluster: a tag of the value that was invalidated the moment before makes the factory run a few times per instance, not for each caller', async t => {
  const apps = await openInstances(t, { store: 'cluster' })
  const factory = counting(async run => { await wait(50); return run })
  await apps[0]!.cache.invalidateTags(['late'])
  t.equal(await callAll(apps, factory, { tags: () => ['late'] }), CALLERS)
  t.comment(`${factory.runs} runs`)
  t.ok(factory.runs <= (MOST_RUNS + LATE_RUNS) * INSTANCES, `${factory.runs} runs`)
})

t.test('while Redis is down a factory runs a few times per instance, not for each caller', async t => {
  const own = await startRedis()
  for (const options of [{}, { tags: ['a'] }, { tags: () => ['late'] }]) {
    const apps = await openInstances(t, { store: { url: own.url }, connection: { required: false }, timeout: undefined })
    await own.kill()
    const factory = counting(async run => { await wait(50); return run })
    t.equal(await callAll(apps, factory, options), CALLERS)
    t.comment(`${factory.runs} runs`)
    t.ok(factory.runs <= (MOST_RUNS + LATE_RUNS) * INSTANCES, `${factory.runs} runs with ${JSON.stringify(options)}${options.tags}`)
    await own.restart()
  }
})

t.test('while a tag is invalidated every 10 ms no caller gets a value from before its call, and a factory of 30 ms runs at most twice per instance for each invalidation', async t => {
  const apps = await openInstances(t)
  const source = { value: 0 }
  const factory = counting(async () => { const { value } = source; await wait(30); return value })
  for (const options of [{ tags: ['t'] }, { tags: () => ['t'] }]) {
    factory.runs = 0
    const answers: Array<Promise<{ value: number, told: number }>> = []
    for (let round = 0; round < 10; round++) {
      source.value++
      await apps[round % INSTANCES]!.cache.invalidateTags(['t'])
      const told = source.value
      answers.push(...upTo(100).map(async i => ({ told, value: await apps[i % INSTANCES]!.cache.getOrSet(`${String(options.tags)}`, factory, options) })))
      await wait(10)
    }
    const given = await Promise.all(answers)
    t.same(given.filter(({ value, told }) => value < told), [])
    t.comment(`${factory.runs} runs for ${given.length} callers and 10 invalidations`)
    t.ok(factory.runs <= 10 * 2 * INSTANCES, `${factory.runs} runs`)
  }
})
