// Each factory waits until every caller either runs one or waits for one, so the number of runs is exact however busy the machine is.
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { GetOrSetOptions } from '../../plugins/cache/index.js'
import { advanceUntil, advanceWhile, createTestApp, startRedis, until, type TestApp, type TestAppOptions } from '../helpers/index.js'
import { counting, createGate, upTo, type Gate } from '../helpers/cache/factories.js'

const INSTANCES = 4
const CALLERS = 200
const ROUNDS = 10
/** A caller looks an entry up this often, and then joins an unshared run: see MAX_LOOKUPS. */
const MOST_RUNS = 6

const openInstances = (t: Test, options: TestAppOptions = {}) =>
  createTestApp(t, { store: 'redis', instances: INSTANCES, plugins: { cache: { ttl: '1m', timeout: '1h' } }, ...options })

const coalesced = (apps: FastifyInstance[]) => apps.map(({ cache }) => cache.stats().coalesced)

/** Calls `getOrSet` for one key on all instances. @returns the result of each call, and how often the factory ran on each instance */
async function stampede<T> ({ apps, clock }: TestApp, make: () => T, options: GetOrSetOptions<T> = {}) {
  const gate = createGate()
  const runs = apps.map(() => 0)
  const before = coalesced(apps)
  const calls = apps.flatMap(({ cache }, instance) => upTo(CALLERS / apps.length).map(async () => await cache.getOrSet('k', async () => {
    runs[instance]!++
    await gate.opened
    return make()
  }, options)))
  const settled = Promise.allSettled(calls)
  await advanceUntil(clock, 'all callers of an instance but one wait for that one', () =>
    coalesced(apps).every((count, i) => count - before[i]! === CALLERS / apps.length - 1), { step: 1 })
  gate.open()
  const { value: results } = await advanceWhile(clock, settled)
  return { results, runs, total: runs.reduce((sum, count) => sum + count, 0) }
}

const valuesOf = <T>(results: Array<PromiseSettledResult<T>>) => results.map(result => result.status === 'fulfilled' ? result.value : String(result.reason))
const all = <T>(value: T): T[] => Array(CALLERS).fill(value)
const once = [1, 1, 1, 1]

for (const store of ['redis', 'cluster'] as const) {
  for (const [tags, options] of Object.entries<GetOrSetOptions<number>>({
    'no tags': {},
    'known tags': { tags: ['a', 'b'] },
    'tags of the value': { tags: () => ['late'] },
    'tags and ttl of the value': { tags: () => ['late', 'later'], ttl: () => '1m' }
  })) {
    t.test(`${store}: ${CALLERS} callers on ${INSTANCES} instances run a factory once, with ${tags}`, async t => {
      const { results, total } = await stampede(await openInstances(t, { store }), () => 1, options)
      t.same(valuesOf(results), all(1))
      t.equal(total, 1)
    })
  }
}

t.test('cluster: after a tag of the value was invalidated, a factory runs at most 6 times per instance within the skew of the clocks, and once after it', async t => {
  const app = await openInstances(t, { store: 'cluster' })
  await app.apps[0]!.cache.invalidateTags(['late'])
  // The clock stands still: no run is known to have begun after the invalidation, so no value is shared.
  const within = await stampede(app, () => 1, { tags: () => ['late'] })
  t.same(valuesOf(within.results), all(1))
  t.ok(within.runs.every(runs => runs >= 1 && runs <= MOST_RUNS), within.runs.join())
  await app.clock.advance('2s')
  await app.apps[0]!.cache.delete('k')
  const after = await stampede(app, () => 2, { tags: () => ['late'] })
  t.same(valuesOf(after.results), all(2))
  t.equal(after.total, 1)
})

t.test('one instance of a cluster: while a value cannot be shared, its callers look it up 5 times and then share one more run of the factory', async t => {
  const app = await openInstances(t, { store: 'cluster', instances: 1 })
  await app.app.cache.invalidateTags(['late'])
  const { results, total } = await stampede(app, () => 1, { tags: () => ['late'] })
  t.same(valuesOf(results), all(1))
  t.equal(total, MOST_RUNS)
})

for (const nothing of [null, undefined]) {
  t.test(`${nothing} is computed once if it may be cached, and else once per instance`, async t => {
    const cached = await stampede(await openInstances(t), () => nothing, { negativeTtl: '1m' })
    t.same(valuesOf(cached.results), all(nothing))
    t.equal(cached.total, 1)
    for (const options of [{}, { ttl: 0 }]) {
      const { results, runs } = await stampede(await openInstances(t), () => nothing, options)
      t.same(valuesOf(results), all(nothing))
      t.same(runs, once)
    }
  })
}

t.test('a value without a ttl is computed once per instance', async t => {
  for (const ttl of [0, () => 0]) {
    const { results, runs } = await stampede(await openInstances(t), () => 1, { ttl })
    t.same(valuesOf(results), all(1))
    t.same(runs, once)
  }
})

t.test('a factory that fails runs once per instance, and all callers get the error', async t => {
  const failing = await stampede(await openInstances(t), () => { throw new Error('broken') })
  t.same(valuesOf(failing.results), all('Error: broken'))
  t.same(failing.runs, once)
})

t.test('a value that cannot be serialized, or has invalid tags, is computed once per instance, and all callers get the error', async t => {
  for (const [make, options, code] of [
    [() => 1n, {}, 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE'],
    [() => 1, { tags: () => [''] }, 'FST_REDIS_SUITE_CACHE_INVALID_OPTION']
  ] as const) {
    const { results, runs } = await stampede<unknown>(await openInstances(t), make, options)
    t.same(results.map(result => result.status === 'rejected' && (result.reason as { code: string }).code), all(code))
    t.same(runs, once)
  }
})

t.test('a factory that fails after the caller that started it gave up runs once more for all other callers', async t => {
  const { app: { cache }, clock } = await openInstances(t, { instances: 1 })
  const leader = new AbortController()
  const [first, second] = [createGate(), createGate()]
  const factory = counting<number>(async run => {
    await (run === 1 ? first : second).opened
    throw new Error('broken')
  })
  const led = cache.getOrSet('k', factory, { signal: leader.signal })
  await advanceUntil(clock, 'the first run', () => factory.runs === 1)
  const followers = Promise.allSettled(upTo(CALLERS).map(async () => await cache.getOrSet('k', factory)))
  await advanceUntil(clock, 'the others wait for it', () => cache.stats().coalesced === CALLERS)
  leader.abort(new Error('enough'))
  await t.rejects(led, { message: 'enough' })
  first.open()
  // The caller that gave up may have caused its failure.
  await advanceUntil(clock, 'all but one wait for the second run', () => cache.stats().coalesced === 2 * CALLERS - 1)
  second.open()
  t.same(valuesOf(await followers), all('Error: broken'))
  t.equal(factory.runs, 2)
})

t.test('while Redis is down a factory runs once per instance; with tags of the value, which cannot be checked, 6 times', async t => {
  for (const [options, expected] of [[{}, 1], [{ tags: ['a'] }, 1], [{ tags: () => ['late'] }, MOST_RUNS]] as const) {
    const own = await startRedis()
    const app = await openInstances(t, { store: { url: own.url, answers: false }, connection: { required: false } })
    await own.kill()
    const { results, runs } = await stampede(app, () => 1, options)
    t.same(valuesOf(results), all(1))
    t.same(runs, Array(INSTANCES).fill(expected))
  }
})

/**
 * Makes 100 calls after each of 10 invalidations, while the clock stands still.
 *
 * @param runsEachRound - whether each round has a run of the factory, or all have one together
 * @param afterRound - called when each caller of a round runs the factory or waits; it decides which runs end
 */
async function invalidateAgainAndAgain (
  { apps, clock }: TestApp, options: GetOrSetOptions<number>, runsEachRound: boolean, afterRound: (round: number, end: (run: number) => void) => unknown
) {
  const source = { value: 0 }
  const gates: Gate[] = []
  const state = { isOver: false }
  const answers: Array<Promise<{ value: number, told: number }>> = []
  const timers = clock.pendingTimers
  const renewing = new Set<number>()
  let [answered, ended] = [0, 0]
  const waiting = () => coalesced(apps).reduce((sum, count) => sum + count, 0)
  // One caller of each instance runs the factory or polls for the lease, by a timer; all others wait for that one. An instance that has run it
  // has a timer for its leases. A caller in flight would be counted again in a later round.
  const settle = async (round: number, leaders: number, before: number) => await until(`the callers of round ${round} run the factory or wait`, async () => {
    const isSettled = () => waiting() === before + 100 - (round === leaders / INSTANCES ? INSTANCES : 0) &&
      clock.pendingTimers - timers === leaders - answered / (100 / INSTANCES) - (gates.length - ended) + renewing.size
    if (!isSettled()) return false
    await Promise.all(apps.map(app => app.redis.ping()))
    return isSettled()
  })
  const factoryOf = (instance: number) => async () => {
    renewing.add(instance)
    const { value } = source
    const gate = createGate()
    gates.push(gate)
    if (!state.isOver) await gate.opened
    return value
  }
  for (let round = 1; round <= ROUNDS; round++) {
    source.value = round
    await apps[round % INSTANCES]!.cache.invalidateTags(['t'])
    const before = waiting()
    answers.push(...upTo(100).map(async i => {
      const value = await apps[i % INSTANCES]!.cache.getOrSet('k', factoryOf(i % INSTANCES), options)
      answered++
      return { told: round, value }
    }))
    await settle(round, runsEachRound ? INSTANCES * round : INSTANCES, before)
    if (runsEachRound) await until(`a run of round ${round}`, () => gates.length === round)
    await afterRound(round, run => {
      gates[run - 1]?.open()
      ended++
    })
  }
  state.isOver = true
  await clock.advance(1)
  for (const gate of gates) gate.open()
  const { value: given } = await advanceWhile(clock, Promise.all(answers))
  return { count: given.length, outdated: given.filter(({ value, told }) => value < told), runs: gates.length }
}

const storedBy = (apps: FastifyInstance[]) => apps.reduce((sum, { cache }) => sum + cache.stats().stored, 0)

t.test('while a known tag is invalidated 10 times, 1,000 callers run the factory 10 times if the newest run ends first', async t => {
  const app = await openInstances(t)
  const result = await invalidateAgainAndAgain(app, { tags: ['t'] }, true, async (round, end) => {
    if (round < ROUNDS) return
    end(ROUNDS)
    await until('its value is stored', () => storedBy(app.apps) === 1)
  })
  t.same(result, { count: 100 * ROUNDS, outdated: [], runs: ROUNDS })
})

t.test('while a known tag is invalidated 10 times, 1,000 callers run the factory 11 times if each run ends after the next began', async t => {
  const app = await openInstances(t)
  const result = await invalidateAgainAndAgain(app, { tags: ['t'] }, true, async (round, end) => {
    if (round === 1) return
    end(round - 1)
    // A value is refused if another one was stored since its lookup: here every other one, and the last, which is computed once more.
    await until('what can be stored is', () => storedBy(app.apps) === Math.ceil((round - 1) / 2))
  })
  t.same(result, { count: 100 * ROUNDS, outdated: [], runs: ROUNDS + 1 })
})

t.test('while a tag of the value is invalidated 10 times, 1,000 callers run the factory twice', async t => {
  const result = await invalidateAgainAndAgain(await openInstances(t), { tags: () => ['t'] }, false, () => {})
  t.same(result, { count: 100 * ROUNDS, outdated: [], runs: 2 })
})
