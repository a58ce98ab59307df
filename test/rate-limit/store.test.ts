import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Limit, LimitState } from '../../plugins/rate-limit/decision.js'
import { createMemoryStore } from '../../plugins/rate-limit/memory-store.js'
import { createRedisStore } from '../../plugins/rate-limit/redis-store.js'
import type { RateLimitStore } from '../../plugins/rate-limit/store.js'
import { startRedis } from '../helpers/index.js'

const server = await startRedis()
const client = new Redis(server.url)
t.teardown(() => client.disconnect())

const stores: Record<string, () => RateLimitStore> = {
  memory: () => createMemoryStore(100),
  Redis: () => createRedisStore(client, 'test')
}
let keys = 0
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

for (const [name, createStore] of Object.entries(stores)) {
  const contract = (promise: string, test: (t: Test, take: (limits: Limit[], cost?: number) => Promise<LimitState[]>) => Promise<unknown>) =>
    t.test(`${name} store: ${promise}`, async t => {
      const store = createStore()
      const key = `key-${++keys}`
      await test(t, (limits, cost = 1) => store.consume(key, limits, cost))
    })

  contract('exactly max units pass, and the next is told when it will', async (t, take) => {
    const limits = [{ max: 3, window: 60_000 }]
    for (const used of [1, 2, 3]) {
      const [state] = await take(limits)
      t.match(state, { used, retryAfter: 0 })
      t.ok(state && state.resetAfter <= 60_000 && state.resetAfter > 59_000, 'reset is when the oldest leaves')
    }
    const [refused] = await take(limits)
    t.equal(refused?.used, 3, 'a refused request is not counted')
    t.ok(refused && refused.retryAfter > 59_000 && refused.retryAfter <= 60_000)
  })

  contract('a request that waits as long as it was told passes', async (t, take) => {
    const limits = [{ max: 1, window: 80 }]
    await take(limits)
    const [refused] = await take(limits)
    await wait(Math.ceil(refused?.retryAfter ?? 0) + 1)
    t.equal((await take(limits))[0]?.retryAfter, 0)
  })

  contract('several limits are all or nothing', async (t, take) => {
    const limits = [{ max: 10, window: 60_000 }, { max: 2, window: 1000 }]
    await take(limits)
    await take(limits)
    const refused = await take(limits)
    t.equal(refused[0]?.retryAfter, 0)
    t.ok(refused[1] && refused[1].retryAfter > 0)
    t.equal(refused[0]?.used, 2, 'the limit that would let it pass has lost nothing')
  })

  contract('a cost above max never passes and takes nothing', async (t, take) => {
    const limits = [{ max: 5, window: 1000 }]
    t.match(await take(limits, 6), [{ used: 0, retryAfter: Infinity }])
    t.match(await take(limits, 5), [{ used: 5, retryAfter: 0 }])
  })

  contract('max 0 lets nothing pass', async (t, take) => {
    t.match(await take([{ max: 0, window: 1000 }]), [{ used: 0, retryAfter: Infinity }])
  })

  contract('a max that grows and shrinks keeps what was used', async (t, take) => {
    for (let i = 0; i < 5; i++) await take([{ max: 5, window: 60_000 }])
    t.match(await take([{ max: 50, window: 60_000 }]), [{ used: 6, retryAfter: 0 }])
    const [state] = await take([{ max: 3, window: 60_000 }])
    t.equal(state?.used, 6)
    t.ok(state && state.retryAfter > 0)
  })

  contract('agrees with a brute-force model on 400 random requests', async (t, take) => {
    const limits = [{ max: 7, window: 40 }, { max: 20, window: 150 }]
    const taken: number[] = []
    const started = Date.now()
    for (let i = 0; i < 400; i++) {
      const cost = 1 + Math.floor(Math.random() * 3)
      const [a, b] = await take(limits, cost)
      const now = Date.now()
      if (a?.retryAfter === 0 && b?.retryAfter === 0) {
        for (let unit = 0; unit < cost; unit++) taken.push(now)
      }
      if (i % 10 === 0) await wait(Math.random() * 20)
    }
    for (const { max, window } of limits) {
      // The model's clock is read a moment after the store's, hence a slack of 5 ms a window.
      const worst = Math.max(...taken.map((time, i) => taken.slice(i).filter(later => later < time + window - 5).length))
      t.ok(worst <= max, `at most ${max} in any ${window} ms, seen ${worst}`)
    }
    t.ok(taken.length > (Date.now() - started) / 150 * 10, 'and not far fewer than allowed')
  })
}

t.test('Redis store: every key has a TTL of its longest window, and hostile keys stay inside their prefix', async t => {
  const store = createRedisStore(client, 'ttl')
  for (const key of ['*', '{}', 'a\nb', '\0', 'x'.repeat(1_000_000), '../..', 'é', '']) {
    await store.consume(key, [{ max: 1, window: 5000 }, { max: 2, window: 30_000 }], 1)
  }
  const names = await client.keys('*')
  const mine = names.filter(name => name.startsWith('ttl:rate-limit:log:'))
  t.equal(mine.length, 8, 'no two share a key')
  for (const name of mine) {
    const ttl = await client.pttl(name)
    t.ok(ttl > 29_000 && ttl <= 30_001)
  }
})

t.test('Redis store: a server that lost its scripts gets them again', async t => {
  const store = createRedisStore(client, 'flush')
  await store.consume('a', [{ max: 5, window: 1000 }], 1)
  await client.script('FLUSH')
  t.match(await store.consume('a', [{ max: 5, window: 1000 }], 1), [{ used: 2 }])
})

t.test('memory store: it never keeps more keys than it is told', async t => {
  const store = createMemoryStore(10)
  for (let i = 0; i < 11; i++) await store.consume(`k${i}`, [{ max: 1, window: 60_000 }], 1)
  t.match(await store.consume('k10', [{ max: 1, window: 60_000 }], 1), [{ used: 1 }])
  t.match(await store.consume('k0', [{ max: 1, window: 60_000 }], 1), [{ used: 1, retryAfter: 0 }], 'the oldest was dropped')
})
