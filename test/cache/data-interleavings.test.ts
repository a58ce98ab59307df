// Short seeded runs of random interleavings, and the fixed ones that once went wrong. Thousands are in test/stress/data-cache-interleavings.test.ts.
import t, { type Test } from 'tap'
import type { CachePluginOptions, DataCache } from '../../plugins/cache/index.js'
import { createTestApp, forEachStore, newPrefix, sharedRedis, startProxy, until, type TestAppOptions } from '../helpers/index.js'
import { createStep, upTo } from '../helpers/cache/factories.js'
import { createSeen, KINDS, play, Source, used, type Chance } from '../helpers/cache/interleavings.js'

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

// In real time, in which claims are polled: no bound of it is asserted.
const openApps = async (t: Test, store: TestAppOptions['store'], instances: number, options: CachePluginOptions = {}, prefix = newPrefix()) =>
  (await createTestApp(t, { store, instances, prefix, clock: 'real', connection: { commandTimeout: '10s' }, plugins: { cache: { timeout: '10s', ttl: '1m', l1: false, ...options } } })).apps

for (const [store, instances] of [['memory', 1], ['redis', 3], ['cluster', 2]] as const) {
  t.test(`${store}: no answer of 200 random interleavings is older than what was acknowledged before the call`, async t => {
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
  t.test(`${store}: a value whose factory began before a removal by pattern is not read after it, however late it is stored`, async t => {
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
      // The reply to the write comes later.
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
