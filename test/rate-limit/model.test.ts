import fc from 'fast-check'
import t from 'tap'
import { systemClock } from '../../plugins/shared/plugin/clock.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import type { Verdict } from '../../plugins/rate-limit/decision.js'
import { createMemoryStore } from '../../plugins/rate-limit/store/memory-store.js'
import { ALGORITHMS, type Algorithm, type Limit, type Policy } from '../../plugins/rate-limit/policy.js'
import { createRedisStore } from '../../plugins/rate-limit/store/redis-store.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { newPrefix, sharedRedis } from '../helpers/index.js'
import { policy } from '../helpers/rate-limit/rate-limit-policies.js'

const MINUTE = 60_000
const client = portOf((await sharedRedis()).client())

interface Taken { time: number, cost: number }

const passes = ({ states, blockedFor }: Verdict) => blockedFor === 0 && states.every(state => state.retryAfter === 0)

/** Returns the units in the window that ends at `now`, counted one by one. */
const usedAt = (taken: Taken[], { window }: Pick<Limit, 'window'>, now: number) =>
  taken.filter(({ time }) => time + window > now).reduce((sum, { cost }) => sum + cost, 0)

/** Returns the largest number of units in any window: the fullest one begins with a unit. */
const worstWindow = (taken: Taken[], { window }: Pick<Limit, 'window'>) =>
  Math.max(0, ...taken.map(({ time }, i) => taken.slice(i).filter(later => later.time < time + window).reduce((sum, { cost }) => sum + cost, 0)))

const limits = fc.array(fc.tuple(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 5, max: 400 })), { minLength: 1, maxLength: 3 })
const arrivals = fc.array(fc.record({ gap: fc.integer({ min: 0, max: 120 }), cost: fc.integer({ min: 1, max: 5 }) }), { minLength: 1, maxLength: 150 })

t.test('memory, sliding-log: a brute-force model agrees on every decision, with simulated time', async () => {
  fc.assert(fc.property(limits, arrivals, (given, requests) => {
    let now = 1_700_000_000_000
    const store = createMemoryStore(10, { ...systemClock, now: () => now, monotonic: () => now })
    const limit = policy(given)
    const taken: Taken[] = []
    for (const { gap, cost } of requests) {
      now += gap
      const expected = limit.limits.every(one => usedAt(taken, one, now) + cost <= one.max)
      const verdict = store.apply('k', limit, cost, 'consume') as Verdict
      if (passes(verdict) !== expected) return false
      if (expected) taken.push({ time: now, cost })
      for (const [i, state] of verdict.states.entries()) {
        const one = limit.limits[i]
        if (one === undefined || state.used !== usedAt(taken, one, now)) return false
        // The stated wait is exact to the millisecond.
        if (state.retryAfter > 0 && Number.isFinite(state.retryAfter)) {
          if (usedAt(taken, one, now + state.retryAfter) + cost > one.max || usedAt(taken, one, now + state.retryAfter - 1) + cost <= one.max) return false
        }
      }
    }
    return limit.limits.every(one => worstWindow(taken, one) <= one.max)
  }), { numRuns: 300 })
})

t.test('Redis, sliding-log: the same model agrees on every decision, with simulated time', async () => {
  // TTLs in Redis pass in real time: windows of minutes outlive the run.
  const windows = limits.map(given => given.map(([max, window]): [number, number] => [max, window * MINUTE]))
  const requests = fc.array(fc.record({ gap: fc.integer({ min: 0, max: 120 }), cost: fc.integer({ min: 1, max: 4 }) }), { minLength: 5, maxLength: 40 })
  await fc.assert(fc.asyncProperty(windows, requests, async (given, requests) => {
    const clock = createTestClock()
    const store = createRedisStore(client, newPrefix(), undefined, clock)
    const limit = policy(given)
    const taken: Taken[] = []
    for (const { gap, cost } of requests) {
      await clock.advance(gap * MINUTE)
      const verdict = await store.apply('k', limit, cost, 'consume')
      const expected = limit.limits.every(one => usedAt(taken, one, clock.now()) + cost <= one.max)
      if (verdict.time !== clock.now() || passes(verdict) !== expected) return false
      if (expected) taken.push({ time: verdict.time, cost })
    }
    return limit.limits.every(one => worstWindow(taken, one) <= one.max)
  }), { numRuns: 40 })
})

// The largest number of units that pass in any window, as a multiple of max.
const BOUND: Record<Algorithm, number> = { 'sliding-log': 1, 'sliding-counter': 2, gcra: 2 }

for (const algorithm of ALGORITHMS) {
  t.test(`memory, ${algorithm}: no window of any run holds more than ${BOUND[algorithm]} times max`, async () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 10, max: 300 }), arrivals, (max, window, requests) => {
      let now = 1_700_000_000_000
      const store = createMemoryStore(10, { ...systemClock, now: () => now, monotonic: () => now })
      const limit = policy([[max, window]], { algorithm })
      const taken: Taken[] = []
      for (const { gap, cost } of requests) {
        now += gap
        if (passes(store.apply('k', limit, cost, 'consume') as Verdict)) taken.push({ time: now, cost })
      }
      return worstWindow(taken, { window }) <= BOUND[algorithm] * max
    }), { numRuns: 300 })
  })

  t.test(`${algorithm}: both stores make the same decisions on the same arrivals`, async t => {
    const limit: Policy = policy([[9, 60 * MINUTE], [5, 30 * MINUTE]], { algorithm })
    const clock = createTestClock()
    const memory = createMemoryStore(10, clock)
    const redis = createRedisStore(client, newPrefix(), undefined, clock)
    for (const cost of [1, 3, 2, 1, 1, 4, 1, 9, 10]) {
      const [a, b] = [memory.apply('k', limit, cost, 'consume') as Verdict, await redis.apply('k', limit, cost, 'consume')]
      t.equal(passes(a), passes(b))
      t.same(a.states.map(({ used }) => used), b.states.map(({ used }) => used))
      const [waits, others] = [a, b].map(({ states }) => states.map(({ retryAfter }) => Math.round(retryAfter)))
      t.same(waits, others)
      await clock.advance(7 * MINUTE)
    }
  })
}
