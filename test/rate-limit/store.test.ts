import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Mode, Verdict } from '../../plugins/rate-limit/decision.js'
import { createMemoryStore } from '../../plugins/rate-limit/store/memory-store.js'
import { ALGORITHMS, type Algorithm, type Policy } from '../../plugins/rate-limit/policy.js'
import { createRedisStore } from '../../plugins/rate-limit/store/redis-store.js'
import { idWithin } from '../../plugins/rate-limit/limiter/limiter.js'
import { systemClock } from '../../plugins/shared/plugin/clock.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { forEachStore, openPort, openStore, startRedis } from '../helpers/index.js'
import { policy } from '../helpers/rate-limit/rate-limit-policies.js'

const server = await startRedis()
const port = await openPort(t, server)

const SECOND = 1000
const MINUTE = 60 * SECOND
const HOUR = 60 * MINUTE
/** A whole hour, as the fixed windows of `sliding-counter` begin at multiples of their length. */
const START = 500_000 * HOUR

interface Trial {
  algorithm: Algorithm
  clock: TestClock
  /**
   * How many milliseconds before its end a wait is checked. GCRA rounds to a thousandth of a unit, and TTLs in Redis
   * also pass while the test runs.
   */
  margin: number
  apply: (policy: Policy, cost?: number, mode?: Mode) => Promise<Verdict>
  refund: (policy: Policy, cost: number, time: number) => Promise<void>
  reset: () => Promise<void>
}

/** Returns the milliseconds until a request of that cost passes all limits. */
const waitOf = ({ states, blockedFor }: Verdict) => Math.max(blockedFor, ...states.map(state => state.retryAfter))

/** Creates a store in Redis, on a clock that stands still. */
async function redisStore (t: Test) {
  const { client, port, prefix, clock } = await openStore(t, 'redis', { clock: createTestClock({ now: START }) })
  return { client: client as Redis, prefix, clock, store: createRedisStore(port!, prefix, undefined, clock) }
}

/** Creates the same on a server of the test's own, whose statistics and configuration no other test changes. */
async function ownRedisStore (t: Test) {
  const server = await startRedis()
  const clock = createTestClock({ now: START })
  return { client: server.client(), clock, store: createRedisStore(await openPort(t, server), 'own', undefined, clock) }
}

forEachStore(['memory', 'redis'], name => {
  const contract = (algorithms: readonly Algorithm[], promise: string, test: (t: Test, trial: Trial) => Promise<unknown>) => {
    for (const algorithm of algorithms) {
      t.test(`${name} store, ${algorithm}: ${promise}`, async t => {
        const { port, prefix, clock } = await openStore(t, name, { clock: createTestClock({ now: START }) })
        const store = port === undefined ? createMemoryStore(100, clock) : createRedisStore(port, prefix, undefined, clock)
        await test(t, {
          algorithm,
          clock,
          margin: name === 'memory' ? SECOND : 30 * SECOND,
          apply: async (policy, cost = 1, mode = 'consume') => await store.apply('key', policy, cost, mode),
          refund: async (policy, cost, time) => { await store.refund('key', policy, cost, time) },
          reset: async () => { await store.reset('key') }
        })
      })
    }
  }

  contract(ALGORITHMS, 'exactly max units pass at once, and a refusal states when the next one passes', async (t, { algorithm, apply }) => {
    const limit = policy([[3, MINUTE]], { algorithm })
    for (const used of [1, 2, 3]) {
      const verdict = await apply(limit)
      const resetAfter = { 'sliding-log': MINUTE, 'sliding-counter': 2 * MINUTE, gcra: used * 20 * SECOND }[algorithm]
      t.match(verdict, { states: [{ used, retryAfter: 0, resetAfter }], blockedFor: 0, banned: false })
    }
    const refused = await apply(limit)
    t.equal(refused.states[0]?.used, 3, 'a refused request is not counted')
    t.equal(waitOf(refused), { 'sliding-log': MINUTE, 'sliding-counter': MINUTE + 20 * SECOND, gcra: 20 * SECOND }[algorithm])
  })

  contract(ALGORITHMS, 'a request passes after the stated wait, and not before', async (t, { algorithm, clock, margin, apply }) => {
    const limit = policy([[4, 10 * MINUTE]], { algorithm })
    await apply(limit, 4)
    for (const cost of [1, 2, 3]) {
      await apply(limit, 4, 'charge')
      const stated = Math.ceil(waitOf(await apply(limit, cost, 'peek')))
      await clock.advance(stated - margin)
      t.ok(waitOf(await apply(limit, cost, 'peek')) > 0, `cost ${cost}: refused ${margin} ms before`)
      await clock.advance(margin)
      t.equal(waitOf(await apply(limit, cost, 'peek')), 0, `cost ${cost}: passes`)
    }
  })

  contract(ALGORITHMS, 'a request takes from all of its limits or from none', async (t, { algorithm, apply }) => {
    const limits = policy([[10, 10 * MINUTE], [2, MINUTE]], { algorithm })
    await apply(limits, 2)
    const refused = await apply(limits)
    t.equal(refused.states[0]?.retryAfter, 0)
    t.ok(refused.states[1] && refused.states[1].retryAfter > 0)
    t.equal(refused.states[0]?.used, 2, 'the limit that would let it pass has lost nothing')
  })

  contract(ALGORITHMS, 'a cost above max never passes and takes nothing, and a cost of 0 always passes', async (t, { algorithm, apply }) => {
    const limit = policy([[5, MINUTE]], { algorithm })
    t.match(await apply(limit, 6), { states: [{ used: 0, retryAfter: Infinity }] })
    t.match(await apply(limit, 5), { states: [{ used: 5, retryAfter: 0 }] })
    t.match(await apply(limit, 0), { states: [{ used: 5, retryAfter: 0 }] })
  })

  contract(ALGORITHMS, 'a max of 0 refuses every request', async (t, { algorithm, apply }) => {
    t.match(await apply(policy([[0, 1000]], { algorithm })), { states: [{ used: 0, retryAfter: Infinity }] })
  })

  contract(ALGORITHMS, 'a peek takes nothing, and a charge takes its cost from a limit that has less left', async (t, { algorithm, apply }) => {
    const limit = policy([[5, MINUTE]], { algorithm })
    for (let i = 0; i < 3; i++) t.match(await apply(limit, 5, 'peek'), { states: [{ used: 0, retryAfter: 0 }] })
    await apply(limit, 4)
    await apply(limit, 3, 'charge')
    const refused = await apply(limit)
    t.equal(refused.states[0]?.used, algorithm === 'sliding-log' ? 5 : 7)
    t.ok(waitOf(refused) > 0)
  })

  contract(ALGORITHMS, 'refunded units can be taken once more', async (t, { algorithm, clock, apply, refund }) => {
    const limit = policy([[3, MINUTE]], { algorithm })
    await apply(limit, 1)
    await clock.advance(3)
    const { time } = await apply(limit, 2)
    t.ok(waitOf(await apply(limit)) > 0)
    await refund(limit, 2, time)
    t.match(await apply(limit, 2), { states: [{ used: 3, retryAfter: 0 }] })
    t.ok(waitOf(await apply(limit)) > 0)
  })

  contract(ALGORITHMS, 'a reset removes the count, the refusals and the ban', async (t, { algorithm, apply, reset }) => {
    const limit = policy([[1, MINUTE]], { algorithm, ban: 1 })
    for (let i = 0; i < 4; i++) await apply(limit)
    t.equal((await apply(limit)).banned, true)
    await reset()
    t.match(await apply(limit), { states: [{ used: 1, retryAfter: 0 }], blockedFor: 0, banned: false })
  })

  contract(['sliding-log'], 'the used units stay the same when max grows or shrinks', async (t, { apply }) => {
    for (let i = 0; i < 7; i++) await apply(policy([[5, MINUTE]]))
    t.match(await apply(policy([[50, MINUTE]])), { states: [{ used: 6, retryAfter: 0 }] })
    const smaller = await apply(policy([[3, MINUTE]]))
    t.equal(smaller.states[0]?.used, 6)
    t.ok(waitOf(smaller) > 0)
  })

  contract(ALGORITHMS, 'windows of one key share its count, whichever of them a request names', async (t, { algorithm, apply }) => {
    const [short, long, both] = [policy([[3, MINUTE]], { algorithm }), policy([[3, HOUR]], { algorithm }), policy([[3, MINUTE], [3, HOUR]], { algorithm })]
    let passed = 0
    for (let i = 0; i < 30; i++) if (waitOf(await apply([short, long, both][i % 3] ?? short)) === 0) passed++
    // A counter begins with the first request that names its window.
    t.equal(passed, algorithm === 'sliding-counter' ? 4 : 3)
  })

  contract(ALGORITHMS, 'each algorithm limits a key by its own count, and a reset removes both', async (t, { algorithm, apply, reset }) => {
    const [mine, other] = [policy([[3, MINUTE]], { algorithm }), policy([[3, MINUTE]], { algorithm: algorithm === 'gcra' ? 'sliding-log' : 'gcra' })]
    let passed = 0
    for (let i = 0; i < 30; i++) if (waitOf(await apply(i % 2 ? mine : other)) === 0) passed++
    t.equal(passed, 6)
    await reset()
    t.match(await apply(mine), { states: [{ used: 1 }] })
    t.match(await apply(other), { states: [{ used: 1 }] })
  })

  contract(ALGORITHMS, 'the stated wait includes a refused request with countRejected', async (t, { algorithm, clock, apply }) => {
    const limit = policy([[1, 5 * MINUTE]], { algorithm, countRejected: true })
    await apply(limit)
    await clock.advance(100 * SECOND)
    const stated = waitOf(await apply(limit))
    t.ok(stated > 280 * SECOND, `${stated}`)
    await clock.advance(Math.ceil(stated))
    t.equal(waitOf(await apply(limit, 1, 'peek')), 0)
  })

  contract(ALGORITHMS, 'requests that name a shorter window or a smaller max do not shorten a long window', async (t, { algorithm, clock, apply }) => {
    const [long, short, small] = [policy([[3, HOUR]], { algorithm }), policy([[100, MINUTE]], { algorithm }), policy([[1, HOUR]], { algorithm })]
    await apply(long, 3)
    for (let i = 0; i < 40; i++) await apply(short)
    for (let i = 0; i < 5; i++) await apply(small)
    await clock.advance(3 * MINUTE)
    t.ok(waitOf(await apply(long)) > 0)
  })

  contract(['sliding-log'], 'requests that name a smaller max do not drop units that a larger one counts', async (t, { clock, apply }) => {
    const [large, small] = [policy([[20, HOUR]]), policy([[3, MINUTE]])]
    for (let i = 0; i < 20; i++) await apply(large)
    for (let i = 0; i < 30; i++) await apply(small, 1, 'charge')
    t.ok(waitOf(await apply(large)) > 0)
    await clock.advance(2 * MINUTE)
    t.ok(waitOf(await apply(large)) > 0)
  })

  contract(['sliding-counter'], 'a refund does not change a window that began after the charge', async (t, { clock, apply, refund }) => {
    const [first, second] = [policy([[10, 2 * HOUR]], { algorithm: 'sliding-counter' }), policy([[3, HOUR]], { algorithm: 'sliding-counter' })]
    const { time } = await apply(first, 3)
    await clock.advance(5)
    await apply(second, 3)
    await refund(first, 3, time)
    t.ok(waitOf(await apply(second)) > 0)
    t.match(await apply(first, 1, 'peek'), { states: [{ used: 3 }] })
  })

  contract(['gcra'], 'a late refund excludes what has drained since', async (t, { clock, apply, refund }) => {
    const limit = policy([[10, 10 * MINUTE]], { algorithm: 'gcra' })
    const { time } = await apply(limit, 10)
    await clock.advance(12 * MINUTE)
    await apply(limit, 10)
    await refund(limit, 10, time)
    t.equal(waitOf(await apply(limit, 10, 'peek')), 10 * MINUTE)
  })

  contract(['sliding-log'], 'a refund removes units of the given time and no others', async (t, { clock, apply, refund }) => {
    const limit = policy([[3, 15 * MINUTE]])
    const first = await apply(limit)
    await clock.advance(8 * MINUTE)
    await apply(limit, 2)
    await refund(limit, 1, first.time)
    await clock.advance(8 * MINUTE)
    t.equal((await apply(limit, 1, 'peek')).states[0]?.used, 2, 'the two later ones are still in their window')
    await refund(limit, 1, first.time)
    t.equal((await apply(limit, 1, 'peek')).states[0]?.used, 2, 'a second refund of that time removes nothing')
  })

  contract(['gcra'], 'a burst below max spaces the rest evenly', async (t, { apply }) => {
    const spaced: Policy = { ...policy([[10, 10 * MINUTE]], { algorithm: 'gcra' }), limits: [{ name: 'default', max: 10, window: 10 * MINUTE, burst: 2 }] }
    await apply(spaced)
    await apply(spaced)
    t.equal(waitOf(await apply(spaced)), MINUTE, 'one a minute')
  })

  contract(['sliding-log'], 'with countRejected a key stays refused while its requests go on', async (t, { clock, apply }) => {
    const limit = policy([[2, 12 * MINUTE]], { countRejected: true })
    const refused = []
    for (let i = 0; i < 8; i++) {
      refused.push(waitOf(await apply(limit)) > 0)
      await clock.advance(4 * MINUTE)
    }
    t.same(refused, [false, false, true, true, true, true, true, true])
  })

  contract(ALGORITHMS, 'a key is banned after `ban` refusals, for banDuration and beyond its window', async (t, { algorithm, clock, apply }) => {
    const limit = policy([[1, MINUTE]], { algorithm, ban: 2, banDuration: 4 * MINUTE })
    await apply(limit, 1, 'charge')
    await apply(limit, 1, 'charge')
    const banned = []
    for (let i = 0; i < 4; i++) banned.push((await apply(limit)).banned)
    t.same(banned, [false, false, true, true])
    await clock.advance(2.2 * MINUTE)
    t.match(await apply(limit), { banned: true, blockedFor: 1.8 * MINUTE }, 'the window is over and the ban is not; requests do not lengthen it')
    await clock.advance(1.8 * MINUTE)
    t.match(await apply(limit), { banned: false, blockedFor: 0, states: [{ retryAfter: 0 }] })
  })

  contract(ALGORITHMS, 'a penalty doubles with each refusal up to its cap', async (t, { algorithm, apply }) => {
    const limit = policy([[1, MINUTE]], { algorithm, exponentialBackoff: { base: 100_000, cap: 500_000 } })
    await apply(limit)
    const waits = []
    for (let i = 0; i < 4; i++) waits.push((await apply(limit)).blockedFor)
    t.same(waits, [100_000, 200_000, 400_000, 500_000])
  })

  contract(ALGORITHMS, 'a peek does not count as a refusal', async (t, { algorithm, apply }) => {
    const limit = policy([[1, MINUTE]], { algorithm, ban: 1, exponentialBackoff: { base: 1000, cap: 9000 } })
    await apply(limit)
    for (let i = 0; i < 5; i++) t.match(await apply(limit, 1, 'peek'), { blockedFor: 0, banned: false })
  })
})

t.test('Redis store: every key has a TTL, and hostile keys stay inside their prefix', async t => {
  const { client, prefix, store } = await redisStore(t)
  const before = new Set(await client.keys('*'))
  const limits = policy([[1, 10 * MINUTE], [2, HOUR]], { ban: 3 })
  for (const algorithm of ALGORITHMS) {
    for (const key of ['*', '{}', '}{', 'a\nb', '\0', 'x'.repeat(1_000_000), '../..', 'é', '', '[a-z]']) {
      for (let i = 0; i < 3; i++) await store.apply(idWithin(algorithm)(key), { ...limits, algorithm }, 1, 'consume')
    }
  }
  const written = (await client.keys('*')).filter(name => !before.has(name))
  t.equal(written.length, 3 * 10 * 2, 'no two share a key')
  const isInside = (name: string) => name.startsWith(`${prefix}:`) && /^:rate-limit:(log|counter|gcra|refused):\{[\w-]+~[\w#.:-]+\}$/.test(name.slice(prefix.length))
  t.same(written.filter(name => !isInside(name)), [])
  const ttls = await Promise.all(written.map(async name => ({ name, ttl: await client.pttl(name) })))
  t.same(ttls.filter(({ ttl }) => ttl < 5 * MINUTE || ttl > 2 * HOUR + 10), [])
})

t.test('Redis store: a server that lost its scripts receives them again', async t => {
  const { client, store } = await ownRedisStore(t)
  await store.apply('a', policy([[5, MINUTE]]), 1, 'consume')
  await client.script('FLUSH')
  t.match(await store.apply('a', policy([[5, MINUTE]]), 1, 'consume'), { states: [{ used: 2 }] })
})

t.test('Redis store: a foreign or damaged value counts as nothing and is replaced', async t => {
  const { client, prefix, store } = await redisStore(t)
  let key = ''
  const plant: Array<() => Promise<unknown>> = [
    () => client.set(key, 'x'), () => client.set(key, 'x'.repeat(18)), () => client.set(key, 'x'.repeat(4000)), () => client.set(key, ''),
    () => client.set(key, 'x'.repeat(32)), () => client.set(key, Buffer.alloc(8, 0xff)), () => client.set(key, Buffer.alloc(8, 0x7e)),
    () => client.rpush(key, 'a', 'b'), () => client.hset(key, 'count', 'many')
  ]
  for (const algorithm of ALGORITHMS) {
    key = `${prefix}:rate-limit:${algorithm.split('-').at(-1)}:{k}`
    const limit = policy([[5, MINUTE]], { algorithm })
    const states = []
    for (const put of plant) {
      await client.del(key)
      await put()
      for (let i = 0; i < 2; i++) states.push((await store.apply('k', limit, 1, 'consume')).states[0])
    }
    t.match(states, plant.flatMap(() => [{ used: 1, retryAfter: 0 }, { used: 2, retryAfter: 0 }]), algorithm)
  }
})

t.test('Redis store: a refund reads few parts of a long log', async t => {
  const { client, clock, store } = await ownRedisStore(t)
  const limit = policy([[100_000, HOUR]])
  const charge = async (cost: number) => {
    await clock.advance(1)
    return await store.apply('k', limit, cost, 'charge')
  }
  // The ring wraps around, so that it is read in two parts.
  await charge(60_000)
  await charge(70_000)
  const { time } = await charge(5)
  await charge(10)
  await client.config('RESETSTAT')
  await store.refund('k', limit, 3, time)
  t.match(await store.apply('k', limit, 1, 'peek'), { states: [{ used: 99_997 }] })
  const commands = Number(/cmdstat_getrange:calls=(\d+)/.exec(await client.info('commandstats'))?.[1])
  t.ok(commands < 60, `${commands} reads`)
  await store.refund('k', limit, 5, time)
  t.match(await store.apply('k', limit, 1, 'peek'), { states: [{ used: 99_995 }] }, 'two were left of that time')
})

t.test('Redis store: foreign refusals are replaced', async t => {
  const { client, prefix, store } = await redisStore(t)
  await client.set(`${prefix}:rate-limit:refused:{k}`, 'x')
  const limit = policy([[1, MINUTE]], { ban: 1 })
  const banned = []
  for (let i = 0; i < 3; i++) banned.push((await store.apply('k', limit, 1, 'consume')).banned)
  t.same(banned, [false, false, true])
})

t.test('memory store: it has no more keys than its maximum', async t => {
  const store = createMemoryStore(10, createTestClock())
  const limit = policy([[1, MINUTE]])
  for (let i = 0; i < 11; i++) store.apply(`k${i}`, limit, 1, 'consume')
  t.equal(waitOf(await store.apply('k10', limit, 1, 'consume')), MINUTE)
  t.equal(waitOf(await store.apply('k0', limit, 1, 'consume')), 0, 'the oldest was dropped')
})

t.test('memory store: a clock that is set back changes no window', async t => {
  let now = 1_000_000
  const store = createMemoryStore(10, { ...systemClock, now: () => now })
  const limit = policy([[2, 1000]])
  store.apply('k', limit, 1, 'consume')
  now -= 500_000
  t.match(await store.apply('k', limit, 1, 'consume'), { states: [{ used: 2, retryAfter: 0 }] })
  t.ok(waitOf(await store.apply('k', limit, 1, 'consume')) <= 1000)
})

t.test('Redis store, sliding-log: windows that differ from request to request are each exact', async t => {
  const { store, clock } = await redisStore(t)
  const [short, long] = [policy([[5, MINUTE]]), policy([[5, HOUR]])]
  for (let i = 0; i < 4; i++) await store.apply('k', long, 1, 'consume')
  await clock.advance(2 * MINUTE)
  t.match(await store.apply('k', short, 1, 'consume'), { states: [{ used: 1, retryAfter: 0 }] })
  t.match(await store.apply('k', long, 1, 'peek'), { states: [{ used: 5 }] })
  t.equal(waitOf(await store.apply('k', long, 1, 'consume')), 58 * MINUTE)
  t.equal(waitOf(await store.apply('k', short, 1, 'consume')), 0)
})

const clock = createTestClock()
const guard = { run: <T>(operation: () => Promise<T>) => operation() }
const callsOf = (statistics: string) => Number(/cmdstat_evalsha:calls=(\d+),/.exec(statistics)?.[1] ?? 0)

t.test('calls of one turn are sent together: each has its own reply, and the failure of one does not affect the others', async t => {
  const store = createRedisStore(port, 'together', guard, clock)
  // Calls with a cost other than 1 are not merged.
  const twice = policy([[4, 60_000]])
  const malformed = { ...twice, limits: twice.limits.map(limit => ({ ...limit, max: 'nonsense' as never })) }
  const consume = (key: string, limits = twice) => store.apply(key, limits, 2, 'consume')
  await consume('warm')
  await server.client().config('RESETSTAT')
  const results = await Promise.allSettled([consume('a'), consume('a'), consume('a'), consume('b', malformed), consume('c')])
  t.same(results.map(({ status }) => status), ['fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'fulfilled'])
  const used = results.map(result => result.status === 'fulfilled' ? result.value.states[0]?.used : undefined)
  t.same(used, [2, 4, 4, undefined, 2])
  t.equal(callsOf(await server.client().info('commandstats')), 1)
})

t.test('each key of one turn is decided by its own policy', async t => {
  const store = createRedisStore(port, 'policies', guard, clock)
  const [one, three] = [policy([[1, 60_000]]), policy([[3, 60_000], [9, 3_600_000]])]
  const asked = [['a', one], ['b', one], ['c', three], ['d', three], ['e', one]] as const
  const verdicts = await Promise.all(asked.flatMap(([key, limits]) => [store.apply(key, limits, 1, 'consume'), store.apply(key, limits, 1, 'consume')]))
  t.same(verdicts.map(({ states }) => states.every(({ retryAfter }) => retryAfter === 0)), [true, false, true, false, true, true, true, true, true, false])
})

t.test('a thousand concurrent calls are split into batches, and none is lost', async t => {
  const store = createRedisStore(port, 'thousand', guard, clock)
  const results = await Promise.all(Array.from({ length: 1000 }, (_, i) => store.apply(`many-${i % 10}`, policy([[100, 60_000]]), 2, 'consume')))
  t.equal(results.filter(({ states }) => states[0]?.retryAfter === 0).length, 500)
})

t.test('every call is rejected without a server, and after a malformed reply', async t => {
  const gone = new Redis({ port: 1, retryStrategy: () => null, maxRetriesPerRequest: 0 })
  gone.on('error', () => {})
  const store = createRedisStore(portOf(gone), 'gone', guard, clock)
  const results = await Promise.allSettled([1, 2, 3].map(() => store.apply('k', policy([[5, 1000]]), 1, 'consume')))
  t.ok(results.every(({ status }) => status === 'rejected'))
  for (const answer of [null, [], ['x'], [0, 1], [2]]) {
    const odd = createRedisStore(port, 'odd', { run: async operation => { await operation(); return answer as never } }, clock)
    const settled = await Promise.allSettled([1, 2, 3].map(() => odd.apply('k', policy([[5, 1000]]), 1, 'consume')))
    t.ok(settled.every(({ status }) => status === 'rejected'), JSON.stringify(answer))
  }
})

forEachStore(['redis', 'cluster'], name => {
  for (const algorithm of ALGORITHMS) {
    t.test(`${name}, ${algorithm}: equal requests of one turn are decided as if one by one`, async t => {
      const { port: own = port, prefix, clock } = await openStore(t, name)
      const store = createRedisStore(own, prefix, guard, clock)
      const limits = policy([[10, 60_000], [40, 3_600_000]], { algorithm })
      const ask = async (count: number) => await Promise.all(Array.from({ length: count }, async () => await store.apply('k', limits, 1, 'consume')))
      const used = (verdicts: Awaited<ReturnType<typeof ask>>) => verdicts.map(({ states }) => states[0]?.used)
      const passed = (verdicts: Awaited<ReturnType<typeof ask>>) => verdicts.map(({ states }) => states.every(({ retryAfter }) => retryAfter === 0))
      const some = await ask(4)
      t.same(used(some), [1, 2, 3, 4])
      t.same(passed(some), [true, true, true, true])
      const rest = await ask(9)
      t.same(passed(rest), [true, true, true, true, true, true, false, false, false])
      t.same(used(rest), [5, 6, 7, 8, 9, 10, 10, 10, 10])
      t.ok(rest.slice(6).every(({ states }) => states[1]?.retryAfter === 0 && Number(states[0]?.retryAfter) > 0))
      t.match(await store.apply('k', limits, 1, 'peek'), { states: [{ used: 10 }, { used: 10 }] })
      const [first] = some
      await store.refund('k', limits, 1, first?.time ?? 0)
      t.same(passed(await ask(2)), [true, false], 'each of them can be given back')
    })
  }
})

t.test('exactly max of a thousand concurrent requests of one key pass, in a few calls', async t => {
  const store = createRedisStore(port, 'hot', guard, clock)
  const limit = policy([[700, 60_000]])
  await store.apply('k', limit, 1, 'consume')
  await server.client().config('RESETSTAT')
  const verdicts = await Promise.all(Array.from({ length: 1000 }, async () => await store.apply('k', limit, 1, 'consume')))
  t.equal(verdicts.filter(({ states }) => states[0]?.retryAfter === 0).length, 699)
  t.ok(callsOf(await server.client().info('commandstats')) <= 16)
})
