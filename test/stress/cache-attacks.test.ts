import t from 'tap'
import { ask, createCacheApp } from '../helpers/cache/cache-app.js'
import { forEachStore, startRedis, until } from '../helpers/index.js'
import { heapInUse } from '../helpers/timing/heap.js'
import { scaled } from '../helpers/stress/scale.js'

t.test('thousands of variants of one URL leave as many variants as are allowed, in Redis and in L1', async t => {
  const own = await startRedis()
  const { app } = await createCacheApp(t, { clock: 'real', store: { url: own.url }, options: { maxVariants: 10 } })
  app.get('/', { config: { cache: true } }, async (request, reply) => { reply.header('vary', 'x-v'); return request.headers['x-v'] })
  for (let i = 0; i < scaled(2000); i += 50) await Promise.all(Array.from({ length: 50 }, (_, j) => ask(app, '/', { 'x-v': String(i + j) })))
  const client = own.client()
  const entries = async () => {
    const keys = await client.keys('*:entry:*')
    const lengths = await Promise.all(keys.map(key => client.strlen(key)))
    return lengths.filter(length => length > 100).length
  }
  await until('those that are too many are gone', async () => await entries() <= 11 + 50)
  t.ok(await entries() <= 11 + 50, `${await entries()} entries`)
  t.ok(app.cache.stats().l1Entries <= 11 + 50, `${app.cache.stats().l1Entries} in L1`)
  const ttls = await Promise.all((await client.keys('*')).map(key => client.pttl(key)))
  t.equal(ttls.filter(ttl => ttl === -1).length, 0, 'each key has a TTL')
})

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: thousands of different URLs leave no more entries than are allowed, whatever their length`, async t => {
    const most = 2 * 1024 ** 2
    const { app } = await createCacheApp(t, { clock: 'real', store, options: { l1: most, maxSize: most } })
    app.get('/', { config: { cache: true } }, async () => 'x')
    const padding = 'x'.repeat(4000)
    const before = heapInUse()
    for (let i = 0; i < scaled(3000); i += 100) await Promise.all(Array.from({ length: 100 }, (_, j) => ask(app, `/?q=${i + j}&${padding}`)))
    const { l1Bytes, l1Entries } = app.cache.stats()
    t.ok(l1Bytes <= most)
    t.ok(l1Entries * padding.length <= most, `${l1Entries} long URLs are counted with their length`)
    // The memory of the requests themselves is freed some turns later.
    await until('the memory is freed', () => (heapInUse() - before) / 1024 ** 2 < 60).catch(() => {})
    const grown = (heapInUse() - before) / 1024 ** 2
    t.ok(grown < 60, `the heap grew by ${grown} MiB`)
  })
})
