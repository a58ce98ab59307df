// Thousands of random interleavings are in test/stress/cache-interleavings.test.ts.
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { CachePluginOptions, DataCache } from '../../plugins/cache/index.js'
import { finishFillsScript } from '../../plugins/cache/store/scripts.js'
import { createCacheApp, gate, settled } from '../helpers/cache/cache-app.js'
import { createStep, upTo } from '../helpers/cache/factories.js'
import { createSeen, KINDS, play, Source, used, type Chance } from '../helpers/cache/interleavings.js'
import { interceptCommands } from '../helpers/redis/intercept-commands.js'
import { advanceWhile, createTestApp, forEachStore, newPrefix, sharedRedis, startProxy, until, type TestAppOptions } from '../helpers/index.js'

/** Two instances with a route whose first handler reads its source and then waits until `open` is called. */
async function gated (t: Test, headers: Record<string, string> = {}, lateTag?: string) {
  const { opened, open } = gate()
  const source = { value: 1, runs: 0 }
  const { apps, clock } = await createCacheApp(t, {
    store: 'redis',
    instances: 2,
    options: { l1: false },
    routes (app) {
      app.get('/gated', { config: { cache: true } }, async (_request, reply) => {
        const { value } = source
        if (++source.runs === 1) await opened
        reply.headers(headers)
        if (lateTag !== undefined) reply.cacheTags(lateTag)
        return { value }
      })
      app.put('/gated', async () => ++source.value)
    }
  })
  const [a, b] = apps as [FastifyInstance, FastifyInstance]
  return { a, b, clock, source, open }
}

const valueOf = async (app: FastifyInstance, language = 'de') => (await app.inject({ url: '/gated', headers: { 'accept-language': language } })).json<{ value: number }>().value

t.test('a variant begun before its URL was changed is not stored among those made after the change', async t => {
  const { a, b, clock, source, open } = await gated(t, { vary: 'accept-language' })
  const old = valueOf(a, 'fr')
  await until('it is begun', () => source.runs === 1)
  await b.inject({ method: 'PUT', url: '/gated' })
  t.equal(await valueOf(b, 'de'), 2)
  await settled(b)
  t.equal(b.cache.stats().stored, 1, 'another variant is stored, and before it the list of them')
  open()
  t.equal(await old, 1)
  await settled(a)
  t.same((await advanceWhile(clock, Promise.all([valueOf(b, 'fr'), valueOf(a, 'fr')]))).value, [2, 2])
})

t.test('a request after a removal by pattern does not join a fill that its instance began before it', async t => {
  const { a, b, clock, source, open } = await gated(t)
  const old = valueOf(a)
  await until('it is begun', () => source.runs === 1)
  source.value++
  await b.cache.invalidatePattern('/gated')
  const after = valueOf(a)
  await settled(a)
  open()
  t.same((await advanceWhile(clock, Promise.all([old, after]))).value, [1, 2])
})

t.test('a request after the invalidation of a tag that only the handler named does not get the response that was being stored', async t => {
  const { a, b, clock, source, open } = await gated(t, {}, 'late')
  // Between the check of the tag and the write.
  await clock.advance(1)
  const held = gate()
  let writes = 0
  interceptCommands(a, async (name, [digest], send) => {
    if (name === 'evalsha' && digest === finishFillsScript.sha1 && writes++ === 0) await held.opened
    return await send()
  })
  const old = valueOf(a)
  await until('it is begun', () => source.runs === 1)
  open()
  await until('it is about to be stored', () => writes === 1)
  source.value++
  await b.cache.invalidateTags(['late'])
  const after = valueOf(a)
  await settled(a)
  held.open()
  t.same((await advanceWhile(clock, Promise.all([old, after]))).value, [1, 2])
})

// The cached values are numbers that only grow.
const ROUNDS = 12
const KEYS_EACH = 2
const LANGUAGES = ['de', 'fr', 'it']
const SEED = 16

/** Returns numbers from 0 up to 1, the same in each run (mulberry32). */
function randomFrom (seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

t.test('none of 168 interleavings on three instances responds with an entry that was invalidated before the request', async t => {
  const random = randomFrom(SEED)
  const below = (n: number) => Math.floor(random() * n)
  /** Takes none to seven turns of the event loop. */
  const pause = async () => { for (let turns = below(8); turns > 0; turns--) await new Promise(resolve => setImmediate(resolve)) }
  const values = new Map<string, number>()
  /** The values that have been invalidated. */
  const invalidated = new Map<string, number>()
  const valueAt = (name: string) => values.get(name) ?? 0
  const change = (name: string) => values.set(name, valueAt(name) + 1)
  const readSlowly = async (name: string) => {
    await pause()
    const value = valueAt(name)
    await pause()
    return value
  }
  const { apps, clock } = await createCacheApp(t, {
    store: 'redis',
    instances: 3,
    options: { l1: false },
    routes (app) {
      app.get('/tag/:id', { config: { cache: { tags: request => [request.url] } } }, async ({ url }) => ({ value: await readSlowly(url) }))
      app.get('/late/:id', { config: { cache: true } }, async ({ url }, reply) => {
        if (below(2)) reply.cacheTags(url)
        const value = await readSlowly(url)
        reply.cacheTags(url)
        return { value }
      })
      for (const path of ['/unsafe/:id', '/varies/:id']) {
        app.get(path, { config: { cache: true } }, async ({ url }, reply) => {
          if (path.startsWith('/v')) reply.header('vary', 'accept-language')
          return { value: await readSlowly(url) }
        })
        app.put(path, async ({ url }) => { change(url) })
      }
      app.get('/varies-tag/:id', { config: { cache: { tags: request => [request.url] } } }, async ({ url }, reply) => {
        const value = await readSlowly(url)
        reply.header('vary', 'accept-language')
        return { value }
      })
    }
  })
  type Read = (app: FastifyInstance, name: string) => Promise<number>
  type Write = (app: FastifyInstance, name: string) => Promise<unknown>
  const get: Read = async (app, url) => (await app.inject({ url, headers: { 'accept-language': LANGUAGES[below(3)]! } })).json<{ value: number }>().value
  const getValue = (isTagged: boolean): Read => async (app, name) => await app.cache.getOrSet(name, () => readSlowly(name), { ttl: '1h', tags: isTagged ? [name] : [] })
  const invalidateTag: Write = (app, name) => { change(name); return app.cache.invalidateTags([name]) }
  const put: Write = (app, url) => app.inject({ method: 'PUT', url })
  const remove: Write = (app, name) => { change(name); return app.cache.delete(name) }
  const kinds: Record<string, [read: Read, write: Write]> = {
    '/tag': [get, invalidateTag],
    '/late': [get, invalidateTag],
    '/unsafe': [get, put],
    '/varies': [get, put],
    '/varies-tag': [get, invalidateTag],
    'value-tag': [getValue(true), invalidateTag],
    value: [getValue(false), remove]
  }
  const stale: string[] = []
  let answers = 0
  const play = async (name: string, [read, write]: [Read, Write]) => {
    const any = () => apps[below(3)]!
    const check = async () => {
      const before = invalidated.get(name) ?? 0
      const value = await read(any(), name)
      answers++
      if (!(value >= before)) stale.push(`${name}: ${value} after ${before}`)
    }
    const pending: Array<Promise<void>> = []
    for (let round = 0; round < ROUNDS; round++) {
      pending.push(check())
      await pause()
      // Writes to one name are sequential.
      await write(any(), name)
      invalidated.set(name, valueAt(name))
      pending.push(check())
      if (round % 3 === 2) await Promise.all(pending)
    }
    await Promise.all(pending)
  }
  const names = Object.entries(kinds).flatMap(([kind, actions]) => Array.from({ length: KEYS_EACH }, (_, i) => [`${kind}/${i}`, actions] as const))
  await advanceWhile(clock, Promise.all(names.map(([name, actions]) => play(name, actions))), { step: 5 })
  t.same(stale, [])
  t.equal(answers, names.length * ROUNDS * 2)
  t.ok(apps.reduce((sum, app) => sum + app.cache.stats().stored, 0) > 30, 'the cache was used')
})

// Short seeded runs of random interleavings, and the fixed ones that once went wrong. Thousands are in test/stress/data-cache-interleavings.test.ts.
const KINDS_AND_PATTERN = [...Object.keys(KINDS), 'pattern']

/** The same numbers for the same seed; pauses are turns of the event loop. */
function seeded (seed: number): Chance {
  let state = seed
  const random = () => {
    // Mulberry32.
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const pause = async () => { for (let turns = Math.floor(random() * 4); turns > 0; turns--) await new Promise(resolve => setImmediate(resolve)) }
  return { random, pause }
}

// Leases are polled in real time: the test asserts no bound.
const openApps = async (t: Test, store: TestAppOptions['store'], instances: number, options: CachePluginOptions = {}, prefix = newPrefix()) =>
  (await createTestApp(t, { store, instances, prefix, clock: 'real', connection: { commandTimeout: '10s' }, plugins: { cache: { timeout: '10s', ttl: '1m', l1: false, ...options } } })).apps

for (const [store, instances] of [['memory', 1], ['redis', 3], ['cluster', 2]] as const) {
  t.test(`${store}: no result of 200 random interleavings is older than the last write acknowledged before the call`, async t => {
    const apps = await openApps(t, store, instances)
    const seen = createSeen()
    await Promise.all(KINDS_AND_PATTERN.flatMap((kind, k) => upTo(2).map(async i => {
      const chance = seeded(100 * k + i)
      await play(apps, new Source(`${kind}/${i}`, chance), 11, seen, chance, kind)
    })))
    t.same(seen.obsolete, [])
    t.ok(seen.answers > 200, `${seen.answers} answers`)
    const { hits, stored, storeErrors } = used(apps)
    t.ok(hits > 10 && stored > 20, `the cache was used: ${hits} hits, ${stored} stored`)
    t.equal(storeErrors, 0)
  })
}

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: a value whose factory began during one write-through is not served during the next`, async t => {
    const [app] = await openApps(t, store, 1)
    const { cache } = app as { cache: DataCache }
    const [first, second, making] = [createStep(), createStep(), createStep()]
    const writingFirst = cache.writeThrough('key', 'one', first.run)
    await first.begun
    const early = cache.getOrSet('key', making.run)
    await making.begun
    first.end('one')
    await writingFirst
    await cache.set('key', 'two')
    const writingSecond = cache.writeThrough('key', 'three', second.run)
    await second.begun
    let late: string | undefined
    cache.getOrSet('key', async () => 'new').then(value => { late = value }, () => {})
    await until('the late caller has a value without waiting for the early factory', () => late !== undefined)
    t.equal(late, 'new')
    making.end('old')
    t.equal(await early, 'old', 'its call came before')
    t.equal(await cache.getOrSet('key', async () => 'new'), 'new')
    second.end('three')
    await writingSecond
    t.equal(await cache.get('key'), 'three')
  })
})

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: a value whose factory began before a removal by pattern is not read after it, even if it is stored much later`, async t => {
    const { port } = await sharedRedis()
    const proxy = await startProxy(port)
    const prefix = newPrefix()
    const [near] = await openApps(t, store, 1, {}, prefix)
    const [far] = await openApps(t, store === 'redis' ? { url: `redis://${proxy.host}:${proxy.port}` } : store, 1, {}, prefix)
    for (let i = 0; i < 5; i++) {
      const factory = createStep()
      const making = far!.cache.getOrSet(`late/${i}`, factory.run)
      await factory.begun
      await near!.cache.invalidatePattern('late/*')
      // The reply to the write is delayed.
      proxy.delay(20)
      factory.end('old')
      const values: unknown[] = []
      for (let looks = 0; looks < 20; looks++) values.push(await near!.cache.get(`late/${i}`))
      t.equal(await making, 'old', 'its call came before')
      for (let looks = 0; looks < 20; looks++) values.push(await near!.cache.get(`late/${i}`))
      t.same(values, Array(40).fill(undefined))
      proxy.delay(0)
    }
  })
})
