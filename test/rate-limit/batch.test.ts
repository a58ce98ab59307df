import { Redis } from 'ioredis'
import t from 'tap'
import { ScriptBatcher } from '../../plugins/rate-limit/batch.js'
import { createRedisStore } from '../../plugins/rate-limit/redis-store.js'
import { ALGORITHMS } from '../../plugins/rate-limit/policy.js'
import { applyScripts } from '../../plugins/rate-limit/scripts.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { forEachStore, openStore, startRedis } from '../helpers/index.js'
import { policy } from '../helpers/rate-limit/rate-limit-policies.js'

const server = await startRedis()
const client = new Redis(server.url)
t.teardown(() => client.disconnect())
const clock = createTestClock()
const guard = { run: <T>(operation: () => Promise<T>) => operation() }
/** A reply and how many come after it of those that it answers. */
const parse = (reply: unknown, later: number) => ({ reply: reply as number[], later })
const callsOf = (statistics: string) => Number(/cmdstat_evalsha:calls=(\d+),/.exec(statistics)?.[1] ?? 0)

t.test('calls of one turn are sent together, each gets its own reply, and one that fails does not affect the others', async t => {
  const batcher = new ScriptBatcher({ client, guard, clock, parse, script: applyScripts['sliding-log'] })
  const consume = (key: string, max: number | string = 2) => batcher.run(undefined, () => [key], ['consume', 1, 1, max, 60_000, max])
  await consume('warm')
  await server.client().config('RESETSTAT')
  const results = await Promise.allSettled([consume('a'), consume('a'), consume('a'), consume('b', 'nonsense'), consume('c')])
  t.same(results.map(({ status }) => status), ['fulfilled', 'fulfilled', 'fulfilled', 'rejected', 'fulfilled'])
  const used = results.map(result => result.status === 'fulfilled' ? result.value.reply[result.value.reply.length === 3 ? 1 : 3] : undefined)
  t.same(used, [1, 2, 2, undefined, 1])
  t.equal(callsOf(await server.client().info('commandstats')), 1)
})

t.test('each key of one turn is decided by its own policy', async t => {
  const store = createRedisStore(client, 'policies', guard, clock)
  const [one, three] = [policy([[1, 60_000]]), policy([[3, 60_000], [9, 3_600_000]])]
  const asked = [['a', one], ['b', one], ['c', three], ['d', three], ['e', one]] as const
  const verdicts = await Promise.all(asked.flatMap(([key, limits]) => [store.apply(key, limits, 1, 'consume'), store.apply(key, limits, 1, 'consume')]))
  t.same(verdicts.map(({ states }) => states.every(({ retryAfter }) => retryAfter === 0)), [true, false, true, false, true, true, true, true, true, false])
})

t.test('a thousand concurrent calls are split into batches, and none is lost', async t => {
  const batcher = new ScriptBatcher({ client, guard, clock, parse, script: applyScripts['sliding-log'] })
  const results = await Promise.all(Array.from({ length: 1000 }, (_, i) => batcher.run(undefined, () => [`many-${i % 10}`], ['consume', 1, 1, 50, 60_000, 50])))
  t.equal(results.filter(({ reply }) => reply.length === 3 || reply[5] === 0).length, 500)
})

t.test('every call is rejected without a server, and after a malformed reply', async t => {
  const gone = new Redis({ port: 1, retryStrategy: () => null, maxRetriesPerRequest: 0 })
  gone.on('error', () => {})
  const batcher = new ScriptBatcher({ client: gone, guard, clock, parse, script: applyScripts.gcra })
  const results = await Promise.allSettled([1, 2, 3].map(() => batcher.run('k', () => ['k'], ['consume', 1, 1, 5, 1000, 5])))
  t.ok(results.every(({ status }) => status === 'rejected'))
  for (const answer of [null, [], ['x'], [0, 1], [2]]) {
    const odd = createRedisStore(client, 'odd', { run: async operation => { await operation(); return answer as never } }, clock)
    const settled = await Promise.allSettled([1, 2, 3].map(() => odd.apply('k', policy([[5, 1000]]), 1, 'consume')))
    t.ok(settled.every(({ status }) => status === 'rejected'), JSON.stringify(answer))
  }
})

forEachStore(['redis', 'cluster'], name => {
  for (const algorithm of ALGORITHMS) {
    t.test(`${name}, ${algorithm}: equal requests of one turn are decided as if one by one`, async t => {
      const { client: own = client, prefix, clock } = await openStore(t, name)
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

t.test('of a thousand concurrent requests of one key exactly max pass, in a few calls', async t => {
  const store = createRedisStore(client, 'hot', guard, clock)
  const limit = policy([[700, 60_000]])
  await store.apply('k', limit, 1, 'consume')
  await server.client().config('RESETSTAT')
  const verdicts = await Promise.all(Array.from({ length: 1000 }, async () => await store.apply('k', limit, 1, 'consume')))
  t.equal(verdicts.filter(({ states }) => states[0]?.retryAfter === 0).length, 699)
  t.ok(callsOf(await server.client().info('commandstats')) <= 16)
})
