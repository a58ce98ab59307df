import type { FastifyBaseLogger } from 'fastify'
import { Cluster, Redis } from 'ioredis'
import t from 'tap'
import { TwoTierCache } from '../../plugins/cache/tiers/two-tier-cache.js'
import type { CacheEvents } from '../../plugins/cache/events.js'
import { dataKey } from '../../plugins/cache/store/cache-key.js'
import { MemoryCacheStore } from '../../plugins/cache/store/memory-store.js'
import { pathTag } from '../../plugins/cache/store/path-tag.js'
import { RedisCacheStore } from '../../plugins/cache/store/redis-store.js'
import { ALL_TAG, type CacheStore } from '../../plugins/cache/store/store.js'
import { TagVersions } from '../../plugins/cache/store/tag-versions.js'
import { systemClock } from '../../plugins/shared/plugin/clock.js'
import { hashId } from '../../plugins/shared/plugin/keys.js'
import { SafeEmitter } from '../../plugins/shared/plugin/safe-emitter.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { ask, settled } from '../helpers/cache/cache-app.js'
import { upTo } from '../helpers/cache/factories.js'
import { interceptCommands } from '../helpers/redis/intercept-commands.js'
import { advanceUntil, createTestApp, forEachStore, mastersOf, openStore } from '../helpers/index.js'

const MINUTE = 60_000
/** How long a version is kept that no entry uses. */
const MINUTES = 15 * MINUTE

async function keysOf (client: Redis | Cluster, prefix: string): Promise<Array<{ key: string, ttl: number }>> {
  const keys = (await Promise.all((await mastersOf(client)).map(node => node.keys(`${prefix}:*`)))).flat()
  const found = await Promise.all(keys.map(async key => ({ key, ttl: await client.pttl(key) })))
  // The TTL of a key that has expired meanwhile is -2: real time passes in Redis.
  return found.filter(({ ttl }) => ttl !== -2)
}

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: the keys that 500 requests for 404 responses leave in Redis expire within minutes`, async t => {
    const { app, clock, prefix, client } = await createTestApp(t, {
      store,
      plugins: { cache: { timeout: '1h' } },
      routes: app => app.get<{ Params: { id: string } }>('/products/:id', {
        config: { cache: { ttl: '5m', tags: request => [`product:${String((request.params as { id: string }).id)}`, `stock:${String((request.params as { id: string }).id)}`] } }
      }, async (_request, reply) => reply.code(404).send('none'))
    })
    await Promise.all(upTo(500).map(i => ask(app, `/products/${i}`)))
    await settled(app)
    const left = await keysOf(client(), prefix)
    t.ok(left.length >= 1000)
    t.same(left.filter(({ ttl }) => ttl > MINUTES || ttl < 0), [])
    await clock.advance(MINUTES)
    t.same(await keysOf(client(), prefix), [])
  })

  t.test(`${store}: the version of a tag is kept as long as the entries that use it`, async t => {
    const { app, clock } = await createTestApp(t, { store, plugins: { cache: { timeout: '10h', l1: false, jitter: 0 } } })
    const { cache } = app
    let runs = 0
    const read = (key: string, ttl: string) => cache.getOrSet(key, () => ++runs, { ttl, tags: ['t'] })
    // The version is created for a value with a TTL of a minute, and used by one with a TTL of hours.
    await read('short', '1m')
    await clock.advance(14 * MINUTE)
    t.equal(await read('long', '2h'), 2)
    await settled(app)
    await cache.set('set', 'x', { ttl: '2h', tags: ['t'] })
    await clock.advance(119 * MINUTE)
    t.same([await read('long', '2h'), await cache.get('set')], [2, 'x'])
    await cache.invalidateTags(['t'])
    t.same([await read('long', '2h'), await cache.get('set')], [3, undefined])
  })

  t.test(`${store}: an entry from before an invalidation stays invalid after the version has expired`, async t => {
    const { app, clock } = await createTestApp(t, { store, plugins: { cache: { timeout: '10h', l1: false, jitter: 0 } } })
    await app.cache.set('k', 1, { ttl: '10h', tags: ['t'] })
    await app.cache.invalidateTags(['t'])
    for (let quarter = 1; quarter <= 4; quarter++) {
      await clock.advance(MINUTES)
      t.equal(await app.cache.get('k'), undefined)
    }
    await app.cache.set('other', 1, { ttl: '10h', tags: ['t'] })
    t.same([await app.cache.get('k'), await app.cache.get('other')], [undefined, 1])
  })

  t.test(`${store}: a tag whose key holds another type is replaced`, async t => {
    const { app, prefix, client } = await createTestApp(t, { store, plugins: { cache: { timeout: '10h', l1: false } } })
    await client().lpush(`${prefix}:cache:tag:t`, 'x')
    await client().lpush(`${prefix}:cache:entry:${hashId('=k')}`, 'x')
    let runs = 0
    for (let round = 1; round <= 3; round++) {
      await app.cache.getOrSet('k', () => ++runs, { tags: ['t'] })
      await settled(app)
    }
    t.equal(runs, 1)
  })
})

/** Returns the same numbers in each run. */
function randomFrom (seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor(state / 2 ** 32 * below)
  }
}

interface Fill {
  id: string
  tags: string[]
  begunAt: number
  write: () => Promise<boolean>
}

async function begin (store: CacheStore, id: string, tags: string[], begunAt: number, life: number): Promise<Fill> {
  const { token, versions: seen } = await store.read(id, tags)
  const unknown = [ALL_TAG, ...tags].filter(tag => seen[tag] === undefined)
  const { now, versions } = await store.lease(`${id} ${begunAt} ${Math.random()}`, 'me').acquire(unknown, 1000)
  const known = Object.fromEntries(Object.entries({ ...seen, ...versions }).filter((each): each is [string, string] => each[1] !== undefined))
  return { id, tags, begunAt, write: () => store.write(id, { kind: 'value', label: id, meta: { begunAt }, body: Buffer.from('x'), storedAt: now, deleteAt: now + life, tags: known }, token) }
}

forEachStore(['memory', 'redis'], name => {
  t.test(`${name}: in 400 steps over hours, no entry whose fill began before an invalidation is read after it`, async t => {
    const { port, clock, prefix } = await openStore(t, name)
    const store = port === undefined ? new MemoryCacheStore(64 * 1024 ** 2, clock) : new RedisCacheStore(port, prefix, undefined, clock)
    const random = randomFrom(22)
    const invalidatedAt = new Map<string, number>()
    let [step, found, wrong] = [0, 0, 0]
    let fills: Array<Fill & { until: number }> = []
    let minutes = 0
    const tagsOf = (key: number): string[] => [`t${key % 3}`, 'all']
    for (step = 1; step <= 400; step++) {
      const key = random(4)
      const action = random(10)
      if (action < 4) fills.push({ ...await begin(store, `k${key}`, tagsOf(key), step, [MINUTE, 30 * MINUTE, 300 * MINUTE][random(3)] ?? 0), until: minutes + 10 })
      else if (action < 7) await fills.splice(random(fills.length), 1)[0]?.write()
      else if (action === 7) {
        const tag = ['t0', 't1', 't2', 'all', ALL_TAG][random(5)] ?? ''
        await store.invalidate([tag])
        invalidatedAt.set(tag, step)
      } else {
        const passed = random(8)
        await clock.advance(passed * MINUTE)
        minutes += passed
        // The cache does not store the result of a fill that took longer.
        fills = fills.filter(({ until }) => until > minutes)
      }
      for (const each of upTo(4)) {
        const { entry } = await store.read(`k${each}`, tagsOf(each))
        if (entry === undefined) continue
        found++
        const last = Math.max(...[...tagsOf(each), ALL_TAG].map(tag => invalidatedAt.get(tag) ?? 0))
        if ((entry.meta as { begunAt: number }).begunAt < last) wrong++
      }
    }
    t.equal(wrong, 0)
    t.ok(found > 100, `${found} entries were read`)
  })
})

t.test('keys of path tags are bounded, have no braces and no pattern characters, and differ from each other and from other tags', async t => {
  const versions = new TagVersions(portOf(new Redis({ lazyConnect: true })), 'p', systemClock)
  const paths = ['/', '/a', '/a/b', '/a//b', '/a b', '/{a}', '/*', '/?', '/[a]', '/é', '/#a', '/\0', '/\n', `/${'a'.repeat(100)}`, `/${'a'.repeat(101)}`, `/${'a'.repeat(5000)}`]
  const tags = ['a', 'path:a', 'path:/a', '/a', 'a/b']
  const keys = [...paths.map(path => versions.keyOf(pathTag(path))), ...tags.map(tag => versions.keyOf(tag))]
  t.equal(new Set(keys).size, paths.length + tags.length)
  for (const key of keys) t.match(key, /^p:cache:(?:path:[\w.@:/-]{0,100}|tag:#?[\w.@:-]{1,64})$/)
})

const MANY = 5000
const MAX_BATCH = 200
const tags = upTo(MANY).map(i => `tag-${i}`)

/** A cache on a store that fails on demand, or on nodes that refuse some tags. It records the sizes of batches, and how many run at once. */
function recording (failsAt: () => boolean, refuses?: (tag: string) => boolean) {
  const clock = createTestClock()
  const memory = new MemoryCacheStore(64 * 1024 ** 2, clock)
  const batches: number[] = []
  const done = new Set<string>()
  let [running, most] = [0, 0]
  const store: CacheStore = Object.assign(memory, {
    isSpread: refuses !== undefined,
    async invalidate (tags: readonly string[]) {
      batches.push(tags.length)
      if (refuses !== undefined && tags.some(refuses)) throw new Error('down')
      for (const tag of tags) done.add(tag)
    },
    async remove (id: string, label?: string) { done.add(label ?? id); return true }
  })
  const run = async <T>(operation: () => Promise<T>): Promise<T> => {
    if (failsAt()) throw new Error('down')
    most = Math.max(most, ++running)
    return await operation().finally(() => running--)
  }
  const { logger } = collectLog()
  const log = logger as FastifyBaseLogger
  const core = new TwoTierCache({ store, guard: { run, isWhole: true, troubledAt: -Infinity }, events: new SafeEmitter<CacheEvents>('cache', log, []), log, clock })
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
  t.same([batches.length, Math.max(...batches), batches.reduce((sum, size) => sum + size), most()], [MANY / MAX_BATCH, MAX_BATCH, MANY, 1])
  t.ok(turns >= batches.length - 1, `${turns} turns`)
  t.equal(core.stats.invalidations, 1)
})

t.test('where one batch fails the rest is not attempted, but pending, and written once the store is available', async t => {
  let calls = 0
  let isDown = false
  const { core, clock, batches, done } = recording(() => isDown || (isDown = ++calls === 4))
  await t.rejects(core.invalidate(tags), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  t.same([batches.length, done.size], [3, 3 * MAX_BATCH])
  isDown = false
  await clock.advance(100)
  t.equal(done.size, MANY)
  await core.close()
})

t.test('while one master of a Cluster is unavailable, pending invalidations for the others are written once each', async t => {
  const away = new Set(tags.slice(0, MANY / 2))
  const { core, clock, batches, done } = recording(() => false, tag => away.has(tag))
  await t.rejects(core.invalidate(tags), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  await advanceUntil(clock, 'the other masters have their pending invalidations', () => done.size === MANY / 2, { step: 50 })
  batches.length = 0
  away.clear()
  await advanceUntil(clock, 'so has the master that is available again', () => done.size === MANY, { step: 50 })
  t.equal(batches.length, MANY / 2)
  await core.close()
})

t.test('keys are removed in batches as well, and those of a failed batch are removed later', async t => {
  let calls = 0
  let isDown = false
  const { core, clock, done } = recording(() => isDown || (isDown = ++calls === 4))
  await t.rejects(core.remove(tags.map(tag => dataKey(tag))), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  t.equal(done.size, 3 * MAX_BATCH)
  isDown = false
  await clock.advance(100)
  t.equal(done.size, MANY)
  await core.close()
})

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: 1,000 keys are set, read, invalidated by 1,000 tags and deleted on two instances, in scripts of few keys`, async t => {
    const { apps } = await createTestApp(t, { store, instances: 2, plugins: { cache: { timeout: '1h' } } })
    const [a, b] = apps.map(app => app.cache) as [typeof apps[0]['cache'], typeof apps[0]['cache']]
    let most = 0
    let messages = 0
    interceptCommands(apps[0]!, (name, [, keys], send) => {
      if (name === 'evalsha') most = Math.max(most, Number(keys))
      return send()
    })
    b.on('invalidate', () => { messages++ })
    const names = upTo(1000).map(i => `k${i}`)
    const values = (cache: typeof a) => cache.getMany<number>(names)
    await a.setMany(names.map((name, i) => [name, i, { tags: [`t${i}`, 'all'] }]))
    t.same(await values(b), upTo(1000))
    await a.invalidateTags(names.map((_, i) => `t${i}`))
    t.same((await values(a)).filter(value => value !== undefined), [])
    await a.setMany(names.map((name, i) => [name, i]))
    t.equal(await a.deleteMany(names), 1000)
    t.same((await values(a)).filter(value => value !== undefined), [])
    // Each entry has the tag of all entries and a common one.
    t.ok(most <= MAX_BATCH + 2, `a script with ${most} keys`)
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
