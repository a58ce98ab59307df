import type { FastifyBaseLogger } from 'fastify'
import type { Redis } from 'ioredis'
import t from 'tap'
import { CacheCore } from '../../plugins/cache/core.js'
import type { CacheEvents } from '../../plugins/cache/events.js'
import { dataKey } from '../../plugins/cache/key.js'
import { createMemoryStore } from '../../plugins/cache/memory-store.js'
import type { CacheStore } from '../../plugins/cache/store.js'
import { Listeners } from '../../plugins/shared/listeners.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { ask, settled } from '../helpers/cache/cache-app.js'
import { upTo } from '../helpers/cache/factories.js'
import { advanceUntil, createTestApp, forEachStore } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'

const MANY = 5000
const MOST_A_BATCH = 200
const tags = upTo(MANY).map(i => `tag-${i}`)

/** A cache on a store that fails where it is told to, or on nodes that refuse some tags; it records the sizes of what it is asked, and how much of it at a time. */
function recording (failsAt: () => boolean, refuses?: (tag: string) => boolean) {
  const clock = createTestClock()
  const memory = createMemoryStore(64 * 1024 ** 2, clock)
  const batches: number[] = []
  const done = new Set<string>()
  let [running, most] = [0, 0]
  const store: CacheStore = {
    ...memory,
    isSpread: refuses !== undefined,
    async invalidate (tags) {
      batches.push(tags.length)
      if (refuses !== undefined && tags.some(refuses)) throw new Error('down')
      for (const tag of tags) done.add(tag)
    },
    async remove (id, label) { done.add(label ?? id); return true }
  }
  const run = async <T>(operation: () => Promise<T>): Promise<T> => {
    if (failsAt()) throw new Error('down')
    most = Math.max(most, ++running)
    return await operation().finally(() => running--)
  }
  const { logger } = collectLog()
  const log = logger as FastifyBaseLogger
  const core = new CacheCore({ store, run, l1: undefined, coherence: undefined, servesAlone: false, events: new Listeners<CacheEvents>('cache', log, []), log, clock })
  return { core, clock, batches, done, most: () => most }
}

t.test(`${MANY} tags are invalidated in batches, one after another, each with its own deadline and a turn of the event loop between`, async t => {
  const { core, batches, most } = recording(() => false)
  let turns = 0
  let isDone = false
  const count = (): void => { turns++; if (!isDone) setImmediate(count) }
  setImmediate(count)
  await core.invalidate(tags)
  isDone = true
  t.same([batches.length, Math.max(...batches), batches.reduce((sum, size) => sum + size), most()], [MANY / MOST_A_BATCH, MOST_A_BATCH, MANY, 1])
  t.ok(turns >= batches.length - 1, `${turns} turns`)
  t.equal(core.stats.invalidations, 1)
})

t.test('where one batch fails the rest is not tried, but owed, and written once the store is back', async t => {
  let calls = 0
  let isDown = false
  const { core, clock, batches, done } = recording(() => isDown || (isDown = ++calls === 4))
  await t.rejects(core.invalidate(tags), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  t.same([batches.length, done.size], [3, 3 * MOST_A_BATCH])
  isDown = false
  await clock.advance(100)
  t.equal(done.size, MANY)
  await core.settle()
})

t.test('while one master of a Cluster is away, what is owed to the others is written once each', async t => {
  const away = new Set(tags.slice(0, MANY / 2))
  const { core, clock, batches, done } = recording(() => false, tag => away.has(tag))
  await t.rejects(core.invalidate(tags), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  await advanceUntil(clock, 'the others have all that they are owed', () => done.size === MANY / 2, { step: 50 })
  batches.length = 0
  away.clear()
  await advanceUntil(clock, 'so has the one that is back', () => done.size === MANY, { step: 50 })
  t.equal(batches.length, MANY / 2)
  await core.settle()
})

t.test('keys are removed in batches as well, and the ones that were not are removed later', async t => {
  let calls = 0
  let isDown = false
  const { core, clock, done } = recording(() => isDown || (isDown = ++calls === 4))
  await t.rejects(core.remove(tags.map(tag => dataKey(tag))), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  t.equal(done.size, 3 * MOST_A_BATCH)
  isDown = false
  await clock.advance(100)
  t.equal(done.size, MANY)
  await core.settle()
})

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: 1,000 keys are set, read, invalidated by 1,000 tags and deleted on two instances, in scripts of few keys`, async t => {
    const { apps } = await createTestApp(t, { store, instances: 2, plugins: { cache: { timeout: '1h' } } })
    const [a, b] = apps.map(app => app.cache) as [typeof apps[0]['cache'], typeof apps[0]['cache']]
    const client = apps[0]!.redis as Redis
    let most = 0
    let messages = 0
    const evalsha = client.evalsha.bind(client) as (...args: unknown[]) => Promise<unknown>
    Object.assign(client, { evalsha: (...args: unknown[]) => { most = Math.max(most, Number(args[1])); return evalsha(...args) } })
    b.on('invalidate', () => { messages++ })
    const names = upTo(1000).map(i => `k${i}`)
    const values = (cache: typeof a) => cache.getMany<number>(names)
    await a.setMany(names.map((name, i) => [name, i, { tags: [`t${i}`, 'all'] }]))
    t.same(await values(b), upTo(1000))
    await a.invalidateTags(names.map((_, i) => `t${i}`), { everywhere: false })
    t.same((await values(a)).filter(value => value !== undefined), [])
    await a.setMany(names.map((name, i) => [name, i]))
    t.equal(await a.deleteMany(names), 1000)
    t.same((await values(a)).filter(value => value !== undefined), [])
    // With the tag of all entries, and a common one.
    t.ok(most <= MOST_A_BATCH + 2, `a script with ${most} keys`)
    // A script on a Cluster has one key.
    t.ok(store === 'cluster' || messages <= 1100, `${messages} messages`)
  })
})

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: an entry has at most 1,000 tags: a value with more is refused, and a response with more is not stored`, async t => {
    const { app } = await createTestApp(t, {
      store,
      plugins: { cache: { timeout: '1h' } },
      routes: app => app.get<{ Querystring: { tags: string } }>('/', { config: { cache: { ttl: '1m' } } }, async (request, reply) => {
        reply.cacheTags(...tags.slice(0, Number(request.query.tags)))
        return 'x'
      })
    })
    const code = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'
    await app.cache.set('k', 1, { tags: tags.slice(0, 1000) })
    t.equal(await app.cache.get('k'), 1)
    await t.rejects(app.cache.set('k', 1, { tags: tags.slice(0, 1001) }), { code })
    await t.rejects(app.cache.getOrSet('n', () => 1, { tags: () => tags.slice(0, 1001) }), { code })
    for (const [count, outcome] of [[1000, 'HIT'], [1001, 'MISS']] as const) {
      await ask(app, `/?tags=${count}`)
      await settled(app)
      t.equal((await ask(app, `/?tags=${count}`)).cache, outcome)
    }
  })
})
