import t, { type Test } from 'tap'
import type { CachePluginOptions, DataCache } from '../../plugins/cache/index.js'
import { createTestApp, newPrefix, startProxy, startRedis, until } from '../helpers/index.js'
import { upTo } from '../helpers/cache/factories.js'
import { startHeartbeat } from '../helpers/timing/heartbeat.js'

const ANSWER_MS = 1500
const BACK_MS = 3000

async function openApp (t: Test, url: string, prefix: string, options: CachePluginOptions = {}): Promise<DataCache> {
  return (await createTestApp(t, { store: { url }, prefix, clock: 'real', connection: { required: false }, plugins: { cache: { ttl: '1h', ...options } } })).app.cache
}

for (const fault of ['paused', 'severed', 'unreachable'] as const) {
  t.test(`while the store is ${fault} changes end within 1.5 s, and within 3 s of its return all instances see them and values are cached again`, async t => {
    const { span } = await startHeartbeat(t)
    const own = await startRedis()
    const proxy = await startProxy(own.port)
    const prefix = newPrefix()
    const a = await openApp(t, `redis://127.0.0.1:${proxy.port}`, prefix)
    const b = await openApp(t, own.url, prefix)
    const keys = ['deleted', 'tagged', 'written']
    const source: Record<string, string> = Object.fromEntries(keys.map(key => [key, 'old']))
    for (const key of keys) await a.set(key, 'old', { tags: [`tag:${key}`] })
    t.same(await b.getMany(keys), keys.map(() => 'old'))

    if (fault === 'paused') own.pause()
    else if (fault === 'severed') proxy.sever()
    else proxy.blackhole(true)
    for (const key of ['deleted', 'tagged']) source[key] = 'new'
    const changing = span()
    await Promise.allSettled([a.delete('deleted'), a.invalidateTags(['tag:tagged']), a.writeThrough('written', 'new', () => { source['written'] = 'new' }), a.set('set', 'new')])
    await changing.within(ANSWER_MS, 'the changes end')

    if (fault === 'paused') own.resume()
    else proxy.blackhole(false)
    const returned = span()
    const read = (cache: DataCache) => Promise.all(keys.map(async key => await cache.getOrSet(key, () => source[key])))
    await until('the other instance sees the changes', async () => (await read(b)).every(value => value === 'new'))
    await returned.within(BACK_MS, 'the other instance sees the changes')
    await until('they are cached again', async () => {
      await read(a)
      return (await b.getMany(keys)).every(value => value === 'new')
    })
    await returned.within(2 * BACK_MS, 'they are cached again')
    await until('a set succeeds', async () => await a.set('set', 'newer').then(() => true))
    await returned.within(2 * BACK_MS, 'a set succeeds')
    const set = span()
    await until('the other instance sees a set', async () => await b.get('set') === 'newer')
    await set.within(500, 'the other instance sees a set')
  })
}

t.test('5,000 removals that could not be written are written within 3 s of the return of the store', async t => {
  const { span } = await startHeartbeat(t)
  const own = await startRedis()
  const prefix = newPrefix()
  const a = await openApp(t, own.url, prefix, { l1: false })
  const b = await openApp(t, own.url, prefix, { l1: false })
  const pages = upTo(10).map(page => upTo(500).map(i => `k${page * 500 + i}`))
  for (const keys of pages) await a.setMany(keys.map(key => [key, 'old']))
  own.pause()
  for (const keys of pages) await t.rejects(a.deleteMany(keys))
  own.resume()
  const returned = span()
  await until('they are written', async () => (await b.getMany(['k0', 'k2500', 'k4999'])).every(value => value === undefined))
  await returned.within(BACK_MS, 'they are written')
  for (const keys of pages) t.same((await b.getMany(keys)).filter(Boolean), [])
})
