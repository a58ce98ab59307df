import t, { type Test } from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { waitForReplies } from '../helpers/app/store.js'
import { sharedRedis, until } from '../helpers/index.js'

process.env['REDIS_URL'] = (await sharedRedis()).url
process.env['LOG_LEVEL'] = 'silent'

const { build, database, keys } = await import('../../examples/guides/api-keys.js')

async function start (t: Test) {
  await (await sharedRedis()).client().flushall()
  const clock = createTestClock()
  const apps = [await build({ clock }), await build({ clock })]
  t.teardown(() => Promise.all(apps.map(app => app.close())))
  waitForReplies(t, clock, () => apps.map(app => app.redis))
  database.lookups = 0
  const get = async (url: string, key?: string, { instance = 0, address = '203.0.113.1' } = {}) => {
    const response = await apps[instance]?.inject({ url, remoteAddress: address, headers: key === undefined ? {} : { 'x-api-key': key } })
    if (response === undefined) throw new Error('no such instance')
    return response
  }
  const statuses = async (count: number, ...args: Parameters<typeof get>) => {
    const counts: Record<number, number> = {}
    const [url, key, options] = args
    for (let i = 0; i < count; i++) {
      const { statusCode } = await get(url, key, { instance: i % 2, ...options })
      counts[statusCode] = (counts[statusCode] ?? 0) + 1
    }
    return counts
  }
  return { apps, clock, get, statuses }
}

t.test('each key has the limit of its plan, across all instances and addresses, and one query looks the key up', async t => {
  const { clock, get, statuses } = await start(t)
  t.same(await statuses(61, '/products', 'free-key'), { 200: 60, 429: 1 })
  t.equal(database.lookups, 1)
  t.equal((await get('/products', 'free-key', { address: '203.0.113.9' })).statusCode, 429, 'another address does not help')
  t.same(await statuses(61, '/products', 'pro-key'), { 200: 61 })
  t.equal((await get('/products', 'pro-key')).headers['x-ratelimit-limit'], '600')
  await clock.advance('1 minute')
  t.equal((await get('/products', 'free-key')).statusCode, 200)
})

t.test('a route may cost more, and all routes share one count', async t => {
  const { get, statuses } = await start(t)
  t.same(await statuses(6, '/search', 'free-key'), { 200: 6 })
  t.equal((await get('/products', 'free-key')).statusCode, 429)
})

t.test('a day has a limit of its own', async t => {
  const { clock, get, statuses } = await start(t)
  for (let minute = 0; minute < 16; minute++) {
    t.same(await statuses(60, '/products', 'free-key'), { 200: 60 })
    await clock.advance('1 minute')
  }
  t.same(await statuses(41, '/products', 'free-key'), { 200: 40, 429: 1 })
  t.equal((await get('/products', 'pro-key')).statusCode, 200)
})

t.test('an upgrade counts at once on all instances', async t => {
  const { apps, get, statuses } = await start(t)
  const [entry] = [...keys].filter(([, { id }]) => id === 'k1')
  if (entry === undefined) throw new Error('the example has no key k1')
  const [hash, key] = entry
  t.teardown(() => keys.set(hash, key))
  await statuses(60, '/products', 'free-key')
  t.equal((await get('/products', 'free-key')).statusCode, 429)
  keys.set(hash, { ...key, plan: 'pro' })
  t.equal((await get('/products', 'free-key')).statusCode, 429, 'the plan is cached')
  await apps[0]?.inject({ method: 'POST', url: '/internal/accounts/a1/changed' })
  await until('the other instance has the new plan', async () => (await get('/products', 'free-key', { instance: 1 })).statusCode === 200)
  t.equal((await get('/plan', 'free-key')).json().plan, 'pro')
})

t.test('guessed keys are limited by address, and reach the database once each', async t => {
  const { get, statuses } = await start(t)
  t.same(await statuses(8, '/products', 'guess'), { 401: 5, 429: 3 })
  t.equal(database.lookups, 1)
  t.equal((await get('/products', undefined, { address: '203.0.113.2' })).statusCode, 401)
  t.equal((await get('/products', 'pro-key')).statusCode, 200, 'a valid key from the same address is not affected')
})

t.test('responses are shared by all keys, and a response from the cache counts as well', async t => {
  const { get } = await start(t)
  t.equal((await get('/products', 'free-key')).headers['x-cache'], 'MISS')
  await until('the response is stored', async () => (await get('/products', 'pro-key')).headers['x-cache'] === 'HIT')
  const hit = await get('/products', 'free-key')
  t.match(hit.headers, { 'x-cache': 'HIT', 'x-ratelimit-remaining': '58' })
})
