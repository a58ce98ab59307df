import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { systemClock } from '../../plugins/shared/clock.js'
import type { Verdict } from '../../plugins/rate-limit/decision.js'
import { createMemoryStore } from '../../plugins/rate-limit/memory-store.js'
import { ALGORITHMS, type Algorithm, type Policy } from '../../plugins/rate-limit/policy.js'
import { createRedisStore } from '../../plugins/rate-limit/redis-store.js'
import { idWithin } from '../../plugins/rate-limit/scope.js'
import type { Mode, RateLimitStore } from '../../plugins/rate-limit/store.js'
import { startRedis } from '../helpers/index.js'
import { policy } from '../helpers/rate-limit/rate-limit-policies.js'

const server = await startRedis()
const client = new Redis(server.url)
t.teardown(() => client.disconnect())

const stores: Record<string, () => RateLimitStore> = {
  memory: () => createMemoryStore(100),
  Redis: () => createRedisStore(client, 'test')
}
let keys = 0
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

interface Trial {
  algorithm: Algorithm
  apply: (policy: Policy, cost?: number, mode?: Mode) => Promise<Verdict>
  refund: (policy: Policy, cost: number, time: number) => Promise<void>
  reset: () => Promise<void>
}

/** Milliseconds until the next request of that cost passes all limits. */
const waitOf = ({ states, blockedFor }: Verdict) => Math.max(blockedFor, ...states.map(state => state.retryAfter))

/** The fixed windows of `sliding-counter` begin at multiples of their length: waits until one has begun. */
const freshWindow = async (ms: number) => await wait(ms - Date.now() % ms + 2)

for (const [name, createStore] of Object.entries(stores)) {
  const contract = (algorithms: readonly Algorithm[], promise: string, test: (t: Test, trial: Trial) => Promise<unknown>) => {
    for (const algorithm of algorithms) {
      t.test(`${name} store, ${algorithm}: ${promise}`, async t => {
        const store = createStore()
        const key = `key-${++keys}`
        await test(t, {
          algorithm,
          apply: async (policy, cost = 1, mode = 'consume') => await store.apply(key, policy, cost, mode),
          refund: async (policy, cost, time) => { await store.refund(key, policy, cost, time) },
          reset: async () => { await store.reset(key) }
        })
      })
    }
  }

  contract(ALGORITHMS, 'exactly max units pass at once, and the next is told when it will', async (t, { algorithm, apply }) => {
    const limit = policy([[3, 60_000]], { algorithm })
    await freshWindow(100)
    for (const used of [1, 2, 3]) {
      const verdict = await apply(limit)
      t.match(verdict, { states: [{ used, retryAfter: 0 }], blockedFor: 0, banned: false })
      t.ok(verdict.states[0] && verdict.states[0].resetAfter > 0 && verdict.states[0].resetAfter <= 120_000)
    }
    const refused = await apply(limit)
    t.equal(refused.states[0]?.used, 3, 'a refused request is not counted')
    t.ok(waitOf(refused) > 0 && waitOf(refused) <= 120_000)
  })

  contract(ALGORITHMS, 'a request that waits as long as it was told passes, and not much earlier', async (t, { algorithm, apply }) => {
    const limit = policy([[4, 200]], { algorithm })
    await freshWindow(200)
    await apply(limit, 4)
    for (let round = 0; round < 3; round++) {
      const cost = 1 + round
      // Charged to the brim, so that it is refused whatever time has gone by.
      await apply(limit, 4, 'charge')
      const asked = performance.now()
      const told = waitOf(await apply(limit, cost, 'peek'))
      const answered = performance.now()
      t.ok(told > 0)
      await wait(told - 20)
      const early = waitOf(await apply(limit, cost, 'peek'))
      // On a busy machine the answer may come after the time that it speaks of.
      if (performance.now() - asked < told) t.ok(early > 0, 'too early')
      await wait(told - (performance.now() - answered) + 2)
      t.equal(waitOf(await apply(limit, cost, 'peek')), 0, 'in time')
    }
  })

  contract(ALGORITHMS, 'several limits are all or nothing', async (t, { algorithm, apply }) => {
    const limits = policy([[10, 600_000], [2, 60_000]], { algorithm })
    await apply(limits, 2)
    const refused = await apply(limits)
    t.equal(refused.states[0]?.retryAfter, 0)
    t.ok(refused.states[1] && refused.states[1].retryAfter > 0)
    t.equal(refused.states[0]?.used, 2, 'the limit that would let it pass has lost nothing')
  })

  contract(ALGORITHMS, 'a cost above max never passes and takes nothing; a cost of 0 always passes', async (t, { algorithm, apply }) => {
    const limit = policy([[5, 60_000]], { algorithm })
    t.match(await apply(limit, 6), { states: [{ used: 0, retryAfter: Infinity }] })
    t.match(await apply(limit, 5), { states: [{ used: 5, retryAfter: 0 }] })
    t.match(await apply(limit, 0), { states: [{ used: 5, retryAfter: 0 }] })
  })

  contract(ALGORITHMS, 'max 0 lets nothing pass', async (t, { algorithm, apply }) => {
    t.match(await apply(policy([[0, 1000]], { algorithm })), { states: [{ used: 0, retryAfter: Infinity }] })
  })

  contract(ALGORITHMS, 'a peek takes nothing, a charge takes whatever is left', async (t, { algorithm, apply }) => {
    const limit = policy([[5, 60_000]], { algorithm })
    for (let i = 0; i < 10; i++) t.match(await apply(limit, 5, 'peek'), { states: [{ used: 0, retryAfter: 0 }] })
    await apply(limit, 4)
    await apply(limit, 3, 'charge')
    const refused = await apply(limit)
    t.ok((refused.states[0]?.used ?? 0) >= 5)
    t.ok(waitOf(refused) > 0)
  })

  contract(ALGORITHMS, 'what is refunded can be taken again, once', async (t, { algorithm, apply, refund }) => {
    const limit = policy([[3, 60_000]], { algorithm })
    await apply(limit, 1)
    await wait(3)
    const { time } = await apply(limit, 2)
    t.ok(waitOf(await apply(limit)) > 0)
    await refund(limit, 2, time)
    t.match(await apply(limit, 2), { states: [{ used: 3, retryAfter: 0 }] })
    t.ok(waitOf(await apply(limit)) > 0)
  })

  contract(ALGORITHMS, 'a reset forgets everything', async (t, { algorithm, apply, reset }) => {
    const limit = policy([[1, 60_000]], { algorithm, ban: 1 })
    for (let i = 0; i < 4; i++) await apply(limit)
    t.equal((await apply(limit)).banned, true)
    await reset()
    t.match(await apply(limit), { states: [{ used: 1, retryAfter: 0 }], blockedFor: 0, banned: false })
  })

  contract(['sliding-log'], 'a max that grows and shrinks keeps what was used', async (t, { apply }) => {
    for (let i = 0; i < 7; i++) await apply(policy([[5, 60_000]]))
    t.match(await apply(policy([[50, 60_000]])), { states: [{ used: 6, retryAfter: 0 }] })
    const smaller = await apply(policy([[3, 60_000]]))
    t.equal(smaller.states[0]?.used, 6)
    t.ok(waitOf(smaller) > 0)
  })

  contract(ALGORITHMS, 'several windows of one key are one count: asking by one does not begin the other anew', async (t, { algorithm, apply }) => {
    const [short, long, both] = [policy([[3, 60_000]], { algorithm }), policy([[3, 3_600_000]], { algorithm }), policy([[3, 60_000], [3, 3_600_000]], { algorithm })]
    let passed = 0
    for (let i = 0; i < 30; i++) if (waitOf(await apply([short, long, both][i % 3] ?? short)) === 0) passed++
    // A window that was never asked by knows nothing of what came before.
    t.ok(passed >= 3 && passed <= 4, `${passed} of 3`)
  })

  contract(ALGORITHMS, 'a key under two algorithms is limited by each, and a reset forgets both', async (t, { algorithm, apply, reset }) => {
    const [mine, other] = [policy([[3, 60_000]], { algorithm }), policy([[3, 60_000]], { algorithm: algorithm === 'gcra' ? 'sliding-log' : 'gcra' })]
    let passed = 0
    for (let i = 0; i < 30; i++) if (waitOf(await apply(i % 2 ? mine : other)) === 0) passed++
    t.equal(passed, 6)
    await reset()
    t.match(await apply(mine), { states: [{ used: 1 }] })
    t.match(await apply(other), { states: [{ used: 1 }] })
  })

  contract(ALGORITHMS, 'where refused requests count, the wait that is told counts them too', async (t, { algorithm, apply }) => {
    const limit = policy([[1, 300]], { algorithm, countRejected: true })
    await freshWindow(300)
    await apply(limit)
    await wait(100)
    const told = waitOf(await apply(limit))
    t.ok(told > 280, `${told}`)
    await wait(told + 5)
    t.equal(waitOf(await apply(limit, 1, 'peek')), 0)
  })

  contract(ALGORITHMS, 'what a long window counts stands, whatever shorter window or smaller max is asked for meanwhile', async (t, { algorithm, apply }) => {
    const [long, short, small] = [policy([[3, 3_600_000]], { algorithm }), policy([[100, 40]], { algorithm }), policy([[1, 3_600_000]], { algorithm })]
    await apply(long, 3)
    for (let i = 0; i < 40; i++) await apply(short)
    for (let i = 0; i < 5; i++) await apply(small)
    await wait(120)
    t.ok(waitOf(await apply(long)) > 0)
  })

  contract(['sliding-log'], 'a larger max that was asked for once is not forgotten for a smaller one', async (t, { apply }) => {
    const [large, small] = [policy([[20, 3_600_000]]), policy([[3, 20]])]
    for (let i = 0; i < 20; i++) await apply(large)
    for (let i = 0; i < 30; i++) await apply(small, 1, 'charge')
    t.ok(waitOf(await apply(large)) > 0)
    await wait(40)
    t.ok(waitOf(await apply(large)) > 0)
  })

  contract(['sliding-counter'], 'a refund is not taken off a window that was not there when it was charged', async (t, { apply, refund }) => {
    const [first, second] = [policy([[10, 7_200_000]], { algorithm: 'sliding-counter' }), policy([[3, 3_600_000]], { algorithm: 'sliding-counter' })]
    const { time } = await apply(first, 3)
    await wait(5)
    await apply(second, 3)
    await refund(first, 3, time)
    t.ok(waitOf(await apply(second)) > 0)
    t.match(await apply(first, 1, 'peek'), { states: [{ used: 3 }] })
  })

  contract(['gcra'], 'what has drained since is not given back: a late refund lets no more than the burst through', async (t, { apply, refund }) => {
    const limit = policy([[10, 200]], { algorithm: 'gcra' })
    const { time } = await apply(limit, 10)
    await wait(250)
    await apply(limit, 10)
    await refund(limit, 10, time)
    t.ok(waitOf(await apply(limit, 10, 'peek')) > 100)
  })

  contract(['sliding-log'], 'a refund takes out what was taken at that time, not something else', async (t, { apply, refund }) => {
    const limit = policy([[3, 150]])
    const first = await apply(limit)
    await wait(80)
    await apply(limit, 2)
    await refund(limit, 1, first.time)
    await wait(80)
    t.equal((await apply(limit, 1, 'peek')).states[0]?.used, 2, 'the two later ones are still in their window')
    await refund(limit, 1, first.time)
    t.equal((await apply(limit, 1, 'peek')).states[0]?.used, 2, 'what is not there is not given back')
  })

  contract(['gcra'], 'a burst below max spaces the rest evenly', async (t, { apply }) => {
    const spaced: Policy = { ...policy([[10, 1000]], { algorithm: 'gcra' }), limits: [{ name: 'default', max: 10, window: 1000, burst: 2 }] }
    await apply(spaced)
    await apply(spaced)
    const refused = await apply(spaced)
    t.ok(waitOf(refused) > 50 && waitOf(refused) <= 100, 'one each 100 ms')
  })

  contract(['sliding-log'], 'countRejected keeps a key that hammers refused', async (t, { apply }) => {
    const limit = policy([[2, 120]], { countRejected: true })
    for (let i = 0; i < 8; i++) {
      const verdict = await apply(limit)
      t.equal(waitOf(verdict) > 0, i >= 2)
      await wait(40)
    }
  })

  contract(ALGORITHMS, 'after `ban` refusals a key is banned for banDuration, longer than its window', async (t, { algorithm, apply }) => {
    const limit = policy([[1, 100]], { algorithm, ban: 2, banDuration: 400 })
    await freshWindow(100)
    await apply(limit, 1, 'charge')
    await apply(limit, 1, 'charge')
    const banned = []
    for (let i = 0; i < 4; i++) banned.push((await apply(limit)).banned)
    t.same(banned, [false, false, true, true])
    await wait(220)
    const later = await apply(limit)
    t.equal(later.banned, true, 'the window is over, the ban is not')
    t.ok(later.blockedFor > 0 && later.blockedFor < 200, 'and hammering does not lengthen it')
    await wait(Math.ceil(later.blockedFor) + 2)
    t.match(await apply(limit), { banned: false, blockedFor: 0, states: [{ retryAfter: 0 }] })
  })

  contract(ALGORITHMS, 'a penalty doubles with each refusal up to its cap', async (t, { algorithm, apply }) => {
    const limit = policy([[1, 60_000]], { algorithm, penalty: { base: 100_000, cap: 500_000 } })
    await apply(limit)
    const waits = []
    for (let i = 0; i < 4; i++) waits.push(Math.round((await apply(limit)).blockedFor / 10_000) * 10_000)
    t.same(waits, [100_000, 200_000, 400_000, 500_000])
  })

  contract(ALGORITHMS, 'a peek does not count as a refusal', async (t, { algorithm, apply }) => {
    const limit = policy([[1, 60_000]], { algorithm, ban: 1, penalty: { base: 1000, cap: 9000 } })
    await apply(limit)
    for (let i = 0; i < 5; i++) t.match(await apply(limit, 1, 'peek'), { blockedFor: 0, banned: false })
  })
}

t.test('Redis store: every key has a TTL, and hostile keys stay inside their prefix', async t => {
  const store = createRedisStore(client, 'ttl')
  const limits = policy([[1, 5000], [2, 30_000]], { ban: 3 })
  for (const algorithm of ALGORITHMS) {
    for (const key of ['*', '{}', '}{', 'a\nb', '\0', 'x'.repeat(1_000_000), '../..', 'é', '', '[a-z]']) {
      for (let i = 0; i < 3; i++) await store.apply(idWithin(algorithm)(key), { ...limits, algorithm }, 1, 'consume')
    }
  }
  const mine = (await client.keys('*')).filter(name => /^ttl:rate-limit:(log|counter|gcra|refused):\{[\w-]+~[\w#.:-]+\}$/.test(name))
  t.equal(mine.length, 3 * 10 * 2, 'no two share a key')
  t.same((await client.keys('*')).filter(name => !mine.includes(name) && !name.startsWith('test:rate-limit:')), [])
  for (const name of mine) {
    const ttl = await client.pttl(name)
    t.ok(ttl > 4000 && ttl <= 60_010, `${name} ${ttl}`)
  }
})

t.test('Redis store: a server that lost its scripts gets them again', async t => {
  const store = createRedisStore(client, 'flush')
  await store.apply('a', policy([[5, 1000]]), 1, 'consume')
  await client.script('FLUSH')
  t.match(await store.apply('a', policy([[5, 1000]]), 1, 'consume'), { states: [{ used: 2 }] })
})

t.test('Redis store: what is not ours, or damaged, counts as nothing and is replaced', async t => {
  const store = createRedisStore(client, 'foreign')
  let key = ''
  const plant: Array<() => Promise<unknown>> = [
    () => client.set(key, 'x'), () => client.set(key, 'x'.repeat(18)), () => client.set(key, 'x'.repeat(4000)), () => client.set(key, ''),
    () => client.set(key, 'x'.repeat(32)), () => client.set(key, Buffer.alloc(8, 0xff)), () => client.set(key, Buffer.alloc(8, 0x7e)),
    () => client.rpush(key, 'a', 'b'), () => client.hset(key, 'count', 'many')
  ]
  for (const algorithm of ALGORITHMS) {
    key = `foreign:rate-limit:${algorithm.split('-').at(-1)}:{k}`
    for (const [i, put] of plant.entries()) {
      await client.del(key)
      await put()
      const limit = policy([[5, 60_000]], { algorithm })
      t.match(await store.apply('k', limit, 1, 'consume'), { states: [{ used: 1, retryAfter: 0 }] }, `${algorithm} ${i}`)
      t.match(await store.apply('k', limit, 1, 'consume'), { states: [{ used: 2, retryAfter: 0 }] })
    }
  }
})

t.test('Redis store: a refund from a long log blocks nobody', async t => {
  const store = createRedisStore(client, 'long')
  const limit = policy([[100_000, 60_000]])
  // The ring goes round, so that it is read in two pieces.
  await store.apply('k', limit, 60_000, 'charge')
  await store.apply('k', limit, 70_000, 'charge')
  const { time } = await store.apply('k', limit, 5, 'charge')
  await store.apply('k', limit, 10, 'charge')
  await client.config('RESETSTAT')
  await store.refund('k', limit, 3, time)
  t.match(await store.apply('k', limit, 1, 'peek'), { states: [{ used: 99_997 }] })
  const commands = Number(/cmdstat_getrange:calls=(\d+)/.exec(await client.info('commandstats'))?.[1])
  t.ok(commands < 60, `${commands} reads`)
  await store.refund('k', limit, 5, time)
  t.match(await store.apply('k', limit, 1, 'peek'), { states: [{ used: 99_995 }] }, 'two were left of that time')
})

t.test('Redis store: refusals that are not ours are begun anew', async t => {
  const store = createRedisStore(client, 'foreign-refusals')
  await client.set('foreign-refusals:rate-limit:refused:{k}', 'x')
  const limit = policy([[1, 60_000]], { ban: 1 })
  const banned = []
  for (let i = 0; i < 3; i++) banned.push((await store.apply('k', limit, 1, 'consume')).banned)
  t.same(banned, [false, false, true])
})

t.test('memory store: it never keeps more keys than it is told', async t => {
  const store = createMemoryStore(10)
  const limit = policy([[1, 60_000]])
  for (let i = 0; i < 11; i++) store.apply(`k${i}`, limit, 1, 'consume')
  t.ok(waitOf(await store.apply('k10', limit, 1, 'consume')) > 0)
  t.equal(waitOf(await store.apply('k0', limit, 1, 'consume')), 0, 'the oldest was dropped')
})

t.test('memory store: a clock that is set back stands still', async t => {
  let now = 1_000_000
  const store = createMemoryStore(10, { ...systemClock, now: () => now })
  const limit = policy([[2, 1000]])
  store.apply('k', limit, 1, 'consume')
  now -= 500_000
  t.match(await store.apply('k', limit, 1, 'consume'), { states: [{ used: 2, retryAfter: 0 }] })
  t.ok(waitOf(await store.apply('k', limit, 1, 'consume')) <= 1000)
})

t.test('Redis store, sliding-log: windows that differ from request to request are each exact', async t => {
  const store = createRedisStore(client, 'windows')
  const [short, long] = [policy([[5, 30]]), policy([[5, 60_000]])]
  for (let i = 0; i < 4; i++) await store.apply('k', long, 1, 'consume')
  await wait(40)
  t.match(await store.apply('k', short, 1, 'consume'), { states: [{ used: 1, retryAfter: 0 }] })
  t.match(await store.apply('k', long, 1, 'peek'), { states: [{ used: 5 }] })
  t.ok(waitOf(await store.apply('k', long, 1, 'consume')) > 0)
  t.equal(waitOf(await store.apply('k', short, 1, 'consume')), 0)
})
