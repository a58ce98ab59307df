import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { cache } from '../../plugins/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { waitForReplies } from '../helpers/app/store.js'
import { sharedRedis, until } from '../helpers/index.js'

process.env['REDIS_URL'] = (await sharedRedis()).url
process.env['LOG_LEVEL'] = 'silent'

const { createApp, passThrough } = await import('../../examples/gateway.js')
const { build, database, products } = await import('../../examples/guides/behind-a-cdn.js')

/** Starts two origins, a CDN in front of the first one that follows RFC 9111 and has cache tags, and its API for purges. */
async function start (t: Test, { failures = 0 } = {}) {
  await (await sharedRedis()).client().flushall()
  const clock = createTestClock()
  const purged: string[][] = []
  const cdn = createApp()
  const api = createServer((request, response) => {
    let body = ''
    request.on('data', chunk => { body += chunk }).on('end', async () => {
      if (failures-- > 0) return response.writeHead(503).end()
      const { tags } = JSON.parse(body)
      purged.push(tags)
      await cdn.cache.invalidateTags(tags)
      response.end('{"success":true}')
    })
  })
  await new Promise<void>(resolve => api.listen(0, '127.0.0.1', resolve))
  process.env['CDN_PURGE_URL'] = `http://127.0.0.1:${(api.address() as AddressInfo).port}/purge_cache`
  const [one, two] = [await build({ clock }), await build({ clock })]
  waitForReplies(t, clock, () => [one.redis, two.redis])
  await cdn.register(cache, { clock, redis: false, global: true, ttl: 'headers', etag: false, key: { host: true }, unkeyed: false })
  cdn.addHook('onSend', async (_request, reply) => {
    const tags = reply.getHeader('cache-tag')
    if (typeof tags === 'string') reply.cacheTags(...tags.split(',')).removeHeader('cache-tag')
  })
  await passThrough(cdn, await one.listen({ port: 0, host: '127.0.0.1' }))
  t.teardown(async () => {
    await cdn.close()
    await Promise.all([one.close(), two.close()])
    api.closeAllConnections()
    api.close()
    products.set('1', { id: '1', name: 'Teapot', cents: 3000 })
  })
  database.reads = 0
  const get = async (url: string, headers: Record<string, string> = {}) => await cdn.inject({ url, headers })
  /** Advances the clock for the timers of the queue, with real time for its requests. */
  const untilPurged = async (what: string, check: () => Promise<boolean> | boolean) => {
    await until(what, async () => { await clock.advance(100); return await check() })
  }
  return { one, two, get, purged, clock, untilPurged }
}

t.test('the CDN serves a page without the origin, and browsers validate it', async t => {
  const { get } = await start(t)
  const first = await get('/products/1')
  t.match(first.headers, { 'x-cache': 'MISS', 'cache-control': 'public, max-age=0, must-revalidate', 'cache-tag': undefined })
  const second = await get('/products/1')
  t.match([second.headers['x-cache'], second.json().cents], ['HIT', 3000])
  t.equal((await get('/products/1', { 'if-none-match': String(second.headers.etag) })).statusCode, 304)
  t.equal(database.reads, 1)
})

t.test('a write on any instance purges its pages at the CDN, and no others', async t => {
  const { two, get, purged, untilPurged } = await start(t)
  for (const url of ['/products/1', '/products/2', '/products']) await get(url)
  await two.inject({ method: 'PUT', url: '/products/1', payload: { cents: 3500 } })
  await untilPurged('the page is purged', () => purged.length > 0)
  t.same(purged.flat().sort(), ['product:1', 'products'], 'both tags, in one request')
  t.equal(purged.length, 1)
  t.match([(await get('/products/1')).json().cents, (await get('/products')).json()[0].cents], [3500, 3500])
  t.equal((await get('/products/2')).headers['x-cache'], 'HIT')
})

t.test('a purge that the CDN refuses is repeated', async t => {
  const { two, get, purged, untilPurged } = await start(t, { failures: 2 })
  await get('/products/1')
  await two.inject({ method: 'PUT', url: '/products/1', payload: { cents: 3600 } })
  await untilPurged('the page is purged after all', () => purged.length > 0)
  t.equal((await get('/products/1')).json().cents, 3600)
})

t.test('clear() purges all pages', async t => {
  const { one, get, purged, untilPurged } = await start(t)
  for (const url of ['/products/1', '/products/2']) await get(url)
  await one.cache.clear()
  await untilPurged('all pages are purged', () => purged.length > 0)
  t.same(purged, [['all']])
  t.equal((await get('/products/2')).headers['x-cache'], 'MISS')
})

t.test('both caches together serve no page that is older than the ttl', async t => {
  const { one, get, clock } = await start(t)
  await one.inject('/products/2')
  await until('the origin has stored it', async () => (await one.inject('/products/2')).headers['x-cache'] === 'HIT')
  await clock.advance('40m')
  const fetched = await get('/products/2')
  t.match([fetched.headers.age, database.reads], ['2400', 1], 'the CDN gets the stored response of the origin, with its age')
  await clock.advance('19m')
  t.equal((await get('/products/2')).headers['x-cache'], 'HIT')
  await clock.advance('2m')
  await get('/products/2')
  t.equal(database.reads, 2)
})
