import t from 'tap'
import { encodeFrame } from '../../plugins/cache/frame.js'
import { ask, askTwice, buildCacheApp, onEachStore, settled } from '../helpers/cache/cache-app.js'
import { heapInUse } from '../helpers/timing/heap.js'
import { startRedis, until } from '../helpers/index.js'

// More of them by SCALE=10: it takes that much longer.
const SCALE = Number(process.env['SCALE'] ?? 1)

const server = await startRedis()
const promise = onEachStore(server)
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))

promise('no error becomes cacheable on a route with a ttl, whatever its headers say', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  app.get('/:status', { config: { cache: { ttl: '1m' } } }, async (request, reply) => {
    reply.code(Number((request.params as { status: string }).status)).header('cache-control', 'public, max-age=60').header('etag', '"x"')
    return 'x'
  })
  for (const status of [201, 202, 206, 302, 307, 400, 401, 403, 404, 405, 408, 410, 413, 414, 416, 418, 421, 429, 431, 451, 500, 501, 502, 503, 504, 511]) {
    const answers = await askTwice(app, `/${status}`)
    t.same(answers.map(answer => answer.cache), ['MISS', 'MISS'], String(status))
  }
  t.equal(app.cache.stats().stored, 0)
})

promise('an error that is thrown after a max-age was set is not stored, with ttl: "headers" and an error handler either', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { ttl: 'headers' } })
  app.get('/throw', { config: { cache: true } }, async (_request, reply) => {
    reply.header('cache-control', 'public, max-age=60')
    throw Object.assign(new Error('no'), { statusCode: 404 })
  })
  await app.register(async app => {
    app.setErrorHandler(async (_error, _request, reply) => await reply.code(200).header('cache-control', 'max-age=60').send('oops'))
    app.get('/handled', { config: { cache: true } }, async () => { throw new Error('no') })
  })
  app.get('/invalid', { config: { cache: true }, schema: { querystring: { type: 'object', required: ['q'], properties: { q: { type: 'string' } } } } }, async () => 'x')
  app.get('/serialize', { config: { cache: true }, schema: { response: { 200: { type: 'object', required: ['a'], properties: { a: { type: 'string' } } } } } }, async (_request, reply) => {
    reply.header('cache-control', 'max-age=60')
    return {}
  })
  for (const url of ['/throw', '/handled', '/invalid', '/serialize']) t.not((await askTwice(app, url))[1].cache, 'HIT', url)
  t.equal(app.cache.stats().stored, 0)
})

promise('a header that breaks something for one client breaks it for that client alone', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { vary: ['accept-language'] } })
  app.get('/', { config: { cache: true } }, async (request, reply) => {
    if ((request.headers['x-big'] ?? '').length > 1000) return await reply.code(431).send('too large')
    if (request.headers['x-bad'] === '\u00ff') throw new Error('bad')
    return 'fine'
  })
  t.equal((await ask(app, '/', { 'x-big': 'a'.repeat(8000) })).status, 431)
  t.equal((await ask(app, '/', { 'x-bad': '\u00ff' })).status, 500)
  t.equal((await ask(app, '/', { 'accept-language': ',;q=;;,' + 'x;q=2,'.repeat(500) })).body, 'fine')
  const [first] = await askTwice(app, '/')
  t.match(first, { status: 200, body: 'fine' })
})

promise('Vary: * in any form stores nothing, and names on several lines are all heeded', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  const varies: Record<string, string | string[]> = { '/star': '*', '/stars': '*, *', '/in': 'accept, *', '/lines': ['accept', '*'], '/two': ['x-a', 'X-B'] }
  for (const [url, vary] of Object.entries(varies)) {
    app.get(url, { config: { cache: true } }, async (request, reply) => { reply.header('vary', vary); return `${String(request.headers['x-a'])}${String(request.headers['x-b'])}` })
  }
  for (const url of ['/star', '/stars', '/in', '/lines']) t.equal((await askTwice(app, url))[1].cache, 'MISS', url)
  await askTwice(app, '/two', { 'x-a': '1', 'x-b': '2' })
  t.match(await ask(app, '/two', { 'x-a': '1', 'x-b': '3' }), { cache: 'MISS', body: '13' })
  t.match(await ask(app, '/two', { 'x-a': '1', 'x-b': '2' }), { cache: 'HIT', body: '12' })
})

t.test('thousands of variants of one URL leave as many as are allowed, in Redis and in the first tier', async t => {
  const own = await startRedis()
  const app = await buildCacheApp(t, { connection: { url: own.url }, options: { maxVariants: 10 } })
  app.get('/', { config: { cache: true } }, async (request, reply) => { reply.header('vary', 'x-v'); return request.headers['x-v'] })
  for (let i = 0; i < 2000 * SCALE; i += 50) await Promise.all(Array.from({ length: 50 }, (_, j) => ask(app, '/', { 'x-v': String(i + j) })))
  const client = own.client()
  const entries = async () => {
    const keys = await client.keys('*:entry:*')
    const lengths = await Promise.all(keys.map(key => client.strlen(key)))
    return lengths.filter(length => length > 100).length
  }
  await until('those that are too many are gone', async () => await entries() <= 11 + 50)
  t.ok(app.cache.stats().l1Entries <= 11 + 50, `${app.cache.stats().l1Entries} in the first tier`)
  for (const key of await client.keys('*')) if (await client.pttl(key) === -1) t.fail(`${key} has no TTL`)
})

promise('thousands of different URLs leave no more than is allowed, however long they are', async (t, connection) => {
  const most = 2 * 1024 ** 2
  const app = await buildCacheApp(t, { connection, options: { l1: most, maxSize: most } })
  app.get('/', { config: { cache: true } }, async () => 'x')
  const padding = 'x'.repeat(4000)
  const before = heapInUse()
  for (let i = 0; i < 3000 * SCALE; i += 100) await Promise.all(Array.from({ length: 100 }, (_, j) => ask(app, `/?q=${i + j}&${padding}`)))
  const { l1Bytes, l1Entries } = app.cache.stats()
  t.ok(l1Bytes <= most)
  t.ok(l1Entries * padding.length <= most, `${l1Entries} long URLs are counted with their length`)
  // What the requests themselves took goes a turn later.
  await wait(1000)
  const grown = (heapInUse() - before) / 1024 ** 2
  t.ok(grown < 60, `the heap grew by ${grown} MiB`)
})

promise('client directives are ignored by default and heeded with requestDirectives: "obey"', async (t, connection) => {
  for (const requestDirectives of ['ignore', 'obey'] as const) {
    const app = await buildCacheApp(t, { connection, options: { requestDirectives, ttl: 400 } })
    const obeys = requestDirectives === 'obey'
    let runs = 0
    app.get(`/${requestDirectives}`, { config: { cache: true } }, async (_request, reply) => await reply.header('etag', `"${++runs}"`).send('x'))
    const say = (directive: string) => ask(app, `/${requestDirectives}`, { 'cache-control': directive })
    t.match(await say('only-if-cached'), { status: obeys ? 504 : 200 })
    await say('max-age=100')
    await settled()
    for (const directive of ['no-cache', 'max-age=0', 'min-fresh=100', 'no-store']) {
      const count = runs
      const { cache } = await say(directive)
      t.same([cache === 'HIT', runs - count], obeys ? [false, 1] : [true, 0], `${requestDirectives} ${directive}`)
      await settled()
    }
    t.equal((await ask(app, `/${requestDirectives}`, { pragma: 'no-cache' })).cache === 'HIT', !obeys)
    await wait(450)
    t.equal((await say('max-stale')).cache, obeys ? 'STALE' : 'MISS', `${requestDirectives} max-stale`)
  }
})

promise('an unsafe method invalidates its URL and those it names, by the keys of whoever stored them, and none on another host', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  let location = ''
  app.get('/a', { config: { cache: { key: { host: true, query: { exclude: ['utm'] } } } } }, async () => 'x')
  app.get('/b', { config: { cache: true } }, async () => 'x')
  app.post('/a', async (_request, reply) => await reply.header('location', location).send('changed'))
  app.post('/b', async (_request, reply) => await reply.header('location', location).send('changed'))
  await askTwice(app, '/a')
  await app.inject({ method: 'POST', url: '/a' })
  t.equal((await ask(app, '/a')).cache, 'MISS', 'its own')
  await settled()
  for (location of ['http://other/b', 'https://other:80/b', '//other/b', 'http://[/b', '\\\\other/b', 'http://localhost:81/b', 'javascript:/b']) {
    app.inject({ method: 'GET', url: '/b' })
    await settled()
    await app.inject({ method: 'POST', url: '/a' })
    t.equal((await ask(app, '/b')).cache, 'HIT', location)
  }
  location = '/b'
  await app.inject({ method: 'POST', url: '/b' })
  t.equal((await ask(app, '/b')).cache, 'MISS')
})

promise('a pattern means what it says where keys hold its characters themselves', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  app.get('/*', { config: { cache: true } }, async request => request.url)
  const urls = ['/a*', '/ab', '/[x]', '/x', '/a?b=*', '/a?b=1', '/%5Bx%5D', '/a\\b']
  for (const url of urls) await ask(app, url)
  await settled()
  t.equal(await app.cache.invalidatePattern('/a\\*'), 1)
  t.equal(await app.cache.invalidatePattern('/\\[x\\]'), 1)
  t.equal((await ask(app, '/ab')).cache, 'HIT')
  t.equal((await ask(app, '/x')).cache, 'HIT')
  t.equal((await ask(app, '/a*')).cache, 'MISS')
  const started = performance.now()
  await app.cache.invalidatePattern('*a'.repeat(15) + 'b')
  t.ok(performance.now() - started < 1000)
})

promise('a forged header of a request in the background does nothing', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  app.get('/', { config: { cache: true } }, async request => Object.keys(request.headers).join())
  const forged = { 'x-fastify-redis-suite-refresh': '00000000-0000-0000-0000-000000000000' }
  const [miss] = await askTwice(app, '/', forged)
  t.notMatch(miss.body, 'refresh')
  t.equal((await ask(app, '/', forged)).cache, 'HIT')
})

t.test('a stored frame that was tampered with is a miss, and nothing of it is sent', async t => {
  const own = await startRedis()
  const app = await buildCacheApp(t, { connection: { url: own.url }, options: { l1: false } })
  app.get('/', { config: { cache: true } }, async () => 'right')
  const client = own.client()
  await askTwice(app, '/')
  const [key = ''] = await client.keys('*:entry:*')
  const frame = await client.getBuffer(key) as Buffer
  const length = frame.readUInt32BE(13)
  const meta = JSON.parse(frame.toString('utf8', 17, 17 + length)) as Record<string, unknown> & { meta: { headers: object } }
  const body = Buffer.from('wrong')
  const withMeta = (change: object) => encodeFrame({ ...meta, body, meta: { ...meta.meta, ...change } } as never)
  const raw = (text: string, rest = body) => Buffer.concat([frame.subarray(0, 13), Buffer.from([0, 0, 0, Buffer.byteLength(text)]), Buffer.from(text), rest])
  const frames: Record<string, Buffer> = {
    cut: frame.subarray(0, -1),
    longer: Buffer.concat([frame, body]),
    empty: Buffer.alloc(0),
    version: Buffer.concat([Buffer.from([9]), frame.subarray(1)]),
    json: raw('{"kind"'),
    proto: raw('{"__proto__":{}}'),
    array: raw('[]'),
    crlf: withMeta({ headers: { ...meta.meta.headers, 'x-a': 'a\r\nset-cookie: evil' } }),
    name: withMeta({ headers: { 'x a': 'b' } }),
    protoHeader: withMeta({ headers: JSON.parse('{"__proto__":"a"}') }),
    number: withMeta({ headers: { 'x-a': 5 } }),
    framing: withMeta({ headers: { 'transfer-encoding': 'chunked' } }),
    length: withMeta({ headers: { 'content-length': '1' } }),
    upper: withMeta({ headers: { 'Content-Length': '1' } }),
    ...Object.fromEntries([0, 99, 101, 206, 304, 600, 200.5, '200', null].map(status => [`status ${status}`, withMeta({ status })])),
    fresh: withMeta({ fresh: 'long' }),
    vary: withMeta({ vary: ['a'] })
  }
  for (const [name, bytes] of Object.entries(frames)) {
    await settled()
    await client.set(key, bytes, 'PX', 60_000)
    const answer = await ask(app, '/')
    t.match(answer, { status: 200, cache: 'MISS', body: 'right' }, name)
    t.notOk(answer.headers['set-cookie'])
  }
  await settled()
  await client.set(key, withMeta({}), 'PX', 60_000)
  t.equal((await ask(app, '/')).body, 'wrong', 'a frame that is well-formed is read')
})
