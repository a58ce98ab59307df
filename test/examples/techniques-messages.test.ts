// examples/techniques: pub/sub, streams, invalidation, TTLs and memory, on one server and on a Cluster.
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { clusterOf, type RedisClient, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { sharedCluster, sharedRedis, startRedis, until } from '../helpers/index.js'

process.env['LOG_LEVEL'] = 'silent'
// No deadline passes on a busy machine.
const connections: Record<string, RedisPluginOptions> = {
  redis: { url: (await sharedRedis()).url, commandTimeout: '15s' },
  cluster: { cluster: { nodes: (await sharedCluster()).startupNodes }, commandTimeout: '15s' }
}

type App = Awaited<ReturnType<typeof import('../../examples/techniques/streams.js').build>>

function requests (t: Test, app: App) {
  t.teardown(() => app.close())
  const send = (method: 'GET' | 'POST' | 'DELETE') => async (url: string) => {
    const { statusCode, body } = await app.inject({ method, url })
    return statusCode > 299 ? statusCode : body === '' ? undefined : JSON.parse(body)
  }
  return { get: send('GET'), post: send('POST'), remove: send('DELETE') }
}

for (const [store, connection] of Object.entries(connections)) {
  t.test(`${store}: both instances hear what one of them publishes, by a raw pattern and by the plugin events`, async t => {
    const { build } = await import('../../examples/techniques/pubsub.js')
    const [one, two] = [requests(t, await build(connection)), requests(t, await build(connection))]
    await one.post('/prices/tea/499')
    await two.post('/prices/coffee/799')
    const all = { raw: { 'shop:prices:tea': 499, 'shop:prices:coffee': 799 }, events: { 'prices:tea': 499, 'prices:coffee': 799 } }
    for (const { get } of [one, two]) {
      await until('both prices are heard', async () => JSON.stringify(await get('/heard')).length === JSON.stringify(all).length)
      t.same(await get('/heard'), all)
    }
  })

  t.test(`${store}: a consumer of a group takes over what another one had taken and did not acknowledge`, async t => {
    const { build } = await import('../../examples/techniques/streams.js')
    const first = await build(connection, { idle: 200, handle: item => { if (item === 'poison') throw new Error('not by this one') } })
    const one = requests(t, first)
    await until('the group exists', async () => await one.get('/orders').then(orders => Array.isArray(orders)))
    for (const item of ['tea', 'poison', 'milk']) await one.post(`/orders/${item}`)
    t.same((await one.get('/orders')).map(({ item }: { item: string }) => item), ['milk', 'poison', 'tea'])
    await until('the first consumer has handled two', async () => (await one.get('/mailed')).length === 2)
    const mailed = await one.get('/mailed')
    t.same(mailed, ['tea', 'milk'])
    // It would claim the third order itself again and again.
    await first.close()
    const app = await build(connection, { idle: 200 })
    const two = requests(t, app)
    await until('the second consumer has the third', async () => (await two.get('/mailed')).includes('poison'))
    await until('nothing is pending', async () => (await app.redis.xpending('shop:orders', 'mail'))[0] === 0)
    t.same([...mailed, ...await two.get('/mailed')], ['tea', 'milk', 'poison'], 'each order was handled once')
  })

  t.test(`${store}: a pattern removes the keys that match it on all nodes and no others; a tag and a pattern of the cache do the same`, async t => {
    const { build } = await import('../../examples/techniques/invalidation.js')
    const { get, remove } = requests(t, await build(connection))
    const ids = Array.from({ length: 30 }, (_, i) => i)
    for (const path of ['/raw', '/products']) {
      const read = async (category: string) => await Promise.all(ids.map(async id => (await get(`${path}/${category}/${id}`)).load))
      const [tea, coffee, star] = [await read('tea'), await read('coffee'), await read('t*')]
      t.same(await read('tea'), tea, 'cached')
      t.same(await remove(`${path}/tea`), path === '/raw' ? { removed: 30 } : undefined)
      t.ok((await read('tea')).every(load => !tea.includes(load)), 'loaded again')
      t.same([await read('coffee'), await read('t*')], [coffee, star], 'the others are still cached')
      if (path === '/raw') t.same(await remove('/raw/t*'), { removed: 30 }, "a client's * is no pattern")
    }
    t.same(await remove('/products?glob=coffee:*'), { removed: 30 })
    t.same(await remove('/products?glob=coffee:*'), { removed: 0 })
  })

  t.test(`${store}: the report has the memory by prefix, the keys without a TTL, and the largest keys`, async t => {
    const { build } = await import('../../examples/techniques/memory.js')
    const app = await build(connection)
    const { get } = requests(t, app)
    const { redis } = app
    await Promise.all((clusterOf(redis)?.nodes('master') ?? [redis]).map(async node => await node.flushall()))
    await Promise.all(Array.from({ length: 60 }, async (_, i) => await redis.set(`shop:session:${100 + i}`, 'x'.repeat(200), 'EX', 600)))
    await Promise.all(Array.from({ length: 40 }, async (_, i) => await redis.set(`shop:view:${100 + i}`, 'x')))
    await redis.rpush('log:all', ...Array.from({ length: 500 }, (_, i) => `line ${i} of a log that is never trimmed`))
    const keys = await sizesOf(redis)
    const sum = (prefix: string) => [...keys].filter(([key]) => key.startsWith(prefix)).reduce((bytes, [, size]) => bytes + size, 0)
    const all = await get('/admin/memory?every=1')
    t.same(all.byPrefix, [
      { prefix: 'log:all', keys: 1, bytes: sum('log:'), withoutTtl: 1 },
      { prefix: 'shop:session', keys: 60, bytes: sum('shop:session'), withoutTtl: 0 },
      { prefix: 'shop:view', keys: 40, bytes: sum('shop:view'), withoutTtl: 40 }
    ])
    t.match(all.biggest[0], { key: 'log:all', bytes: sum('log:'), type: 'list', ttl: -1 })
    t.equal(all.biggest.length, 10)
    const sampled = await get('/admin/memory?every=7')
    t.same(sampled.byPrefix, all.byPrefix, 'the keys of a prefix have one size, so that a sample is exact')
    t.same((await get('/admin/memory?every=1&depth=1')).byPrefix.map(({ prefix }: { prefix: string }) => prefix).sort(), ['log', 'shop'])
  })
}

async function sizesOf (client: RedisClient): Promise<Map<string, number>> {
  const sizes = new Map<string, number>()
  for (const node of clusterOf(client)?.nodes('master') ?? [client as Redis]) {
    for (const key of await node.keys('*')) sizes.set(key, Number(await node.memory('USAGE', key)))
  }
  return sizes
}

t.test('a raw consumer goes on when Redis is back, and no order is lost', async t => {
  const { build } = await import('../../examples/techniques/streams.js')
  const server = await startRedis({ args: ['--appendonly', 'yes'] })
  const { get, post } = requests(t, await build({ url: server.url }))
  await post('/orders/tea')
  await until('the first order is handled', async () => (await get('/mailed')).length === 1)
  await server.kill()
  await server.restart()
  await until('an order is accepted', async () => typeof await post('/orders/milk') === 'object')
  await until('it is handled', async () => (await get('/mailed')).includes('milk'))
  t.equal((await get('/mailed')).filter((item: string) => item === 'tea').length, 1)
})

for (const [store, connection] of Object.entries(connections)) {
  t.test(`${store}: the TTL of a value follows its type, and that of an article its age`, async t => {
    const { build, ttlOf } = await import('../../examples/techniques/ttl.js')
    const clock = createTestClock()
    const HOUR = 3_600_000
    const articleOf = (id: string, age: number) => ({ id, title: id, changedAt: clock.now() - age })
    const articles = new Map([articleOf('new', 0), articleOf('recent', 10 * HOUR), articleOf('old', 10_000 * HOUR)].map(article => [article.id, article]))
    t.same([...articles.values()].map(article => ttlOf(article, clock.now())), [60_000, HOUR, 24 * HOUR])

    const app = await build(connection, { clock, articles })
    const { get } = requests(t, app)
    for (const id of articles.keys()) t.equal((await get(`/raw/articles/${id}`)).id, id)
    for (const [id, ttl] of [['new', 60_000], ['recent', HOUR], ['old', 24 * HOUR]] as const) {
      const left = await app.redis.pttl(`shop:article:${id}`)
      t.ok(left <= ttl && left > 0.89 * ttl - 30_000, `${id}: ${left} of ${ttl}`)
    }
    t.same([await get('/raw/articles/none'), await get('/articles/none')], [404, 404])

    /** Reads all values, and returns those that were loaded. */
    const readAll = async () => {
      const before = (await get('/loads')).length
      for (const id of articles.keys()) await get(`/articles/${id}`)
      for (const type of ['price', 'category', 'country']) await get(`/values/${type}/1`)
      return (await get('/loads')).slice(before)
    }
    t.same(await readAll(), ['new', 'recent', 'old', 'price 1', 'category 1', 'country 1'])
    t.same(await readAll(), [])
    await clock.advance(31_000)
    t.same(await readAll(), ['price 1'])
    await clock.advance(29_500)
    t.same(await readAll(), ['new'])
    await clock.advance(HOUR)
    t.same(await readAll(), ['new', 'recent', 'price 1', 'category 1'])
    await clock.advance(25 * HOUR)
    t.ok((await readAll()).includes('old'))
  })
}
