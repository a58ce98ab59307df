import Fastify, { type FastifyInstance, type RouteOptions } from 'fastify'
import t from 'tap'
import { decodeEntry, encodeEntry } from '../../plugins/cache/store/entry-codec.js'
import type { StoredResponse } from '../../plugins/cache/http/stored-response.js'
import { cache } from '../../plugins/cache/index.js'
import { ask, askTwice, createCacheApp, onBothStores, settled } from '../helpers/cache/cache-app.js'
import { createTestApp, sharedRedis } from '../helpers/index.js'
import { addLateAuth, requireKey, WAYS } from '../helpers/shared/late-auth.js'
import { cpuTimeOf } from '../helpers/timing/cpu.js'

const ROUTER = { ignoreDuplicateSlashes: true, ignoreTrailingSlash: true, caseSensitive: false, useSemicolonDelimiter: true }

for (const header of ['x-forwarded-host', 'x-original-url', 'x-http-method-override']) {
  onBothStores(`a response that depends on ${header} is not stored where unkeyed is "bypass", and others are`, async (t, store) => {
    const { app } = await createCacheApp(t, { store, options: { unkeyed: 'bypass' } })
    app.get('/', { config: { cache: true } }, async request => `for ${String(request.headers[header] ?? 'all')}`)
    const [poison, next] = await askTwice(app, '/', { [header]: 'evil' }, {})
    t.same([poison.body, next.body, next.cache], ['for evil', 'for all', 'MISS'])
    await settled(app)
    t.equal((await ask(app, '/')).cache, 'HIT')
    t.match(await ask(app, '/', { [header]: 'evil' }), { cache: 'MISS', body: 'for evil' })
    t.match(await ask(app, '/'), { cache: 'HIT', body: 'for all' })
  })
}

t.test('where unkeyed is "warn" each header is logged once, and the log stays short however many headers are read', async t => {
  const { app, warnings } = await createCacheApp(t, { options: { unkeyed: 'warn' } })
  app.get('/one', { config: { cache: true } }, async request => String(request.headers['x-forwarded-host']))
  app.get('/all', { config: { cache: true } }, async request => Object.keys({ ...request.headers }).length)
  for (const n of [1, 2]) await ask(app, `/one?${n}`, { 'x-forwarded-host': 'a' })
  t.equal(warnings().filter(line => line.includes('"x-forwarded-host"')).length, 1)
  for (let n = 0; n < 1100; n++) await ask(app, `/all?${n}`, { [`x-${n}`]: 'a' })
  t.ok(warnings().length < 1050, `${warnings().length} lines`)
})

t.test('reading a cookie that a plugin parsed counts as reading the header', async t => {
  const { app } = await createCacheApp(t, { options: { unkeyed: 'bypass' }, before: async app => { await app.register((await import('@fastify/cookie')).default) } })
  app.get('/', { config: { cache: true } }, async request => `for ${request.cookies['user'] ?? 'nobody'}`)
  const [ann, bob] = await askTwice(app, '/', { cookie: 'user=ann' }, { cookie: 'user=bob' })
  t.same([ann.body, bob.body], ['for ann', 'for bob'])
})

onBothStores('a query with several spellings of a name is never served another query\'s response', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  app.get('/', { config: { cache: true } }, async request => request.query)
  const queries = ['a=1&%61=2', '%61=2&a=1', 'a=2&a=1', 'a=1&a=2', 'a=1;a=2', 'a=1%26a=2', 'a=1&A=2', 'a%00=1', 'a=', 'a', 'a=1+2', 'a=1%202', 'a=1%2B2', '%c0%61=1', '%=1&%2=2']
  const fresh: string[] = []
  for (const query of queries) fresh.push((await ask(app, `/?${query}`, { authorization: 'x' })).body)
  for (const query of queries) await ask(app, `/?${query}`)
  await settled(app)
  for (const [i, query] of queries.entries()) t.equal((await ask(app, `/?${query}`)).body, fresh[i], query)
})

onBothStores('a query parameter that is not in the key does not reach the handler, however it is spelt', async (t, store) => {
  const { app } = await createCacheApp(t, { store, server: { rewriteUrl: request => request.url ?? '' } })
  const seen = async (request: { query: unknown, url: string, originalUrl: string }) => ({ query: request.query, url: request.url, original: request.originalUrl })
  app.get('/in', { config: { cache: { key: { query: { include: ['id'] } } } } }, seen)
  app.get('/ex', { config: { cache: { key: { query: { exclude: ['utm'] } } } } }, seen)
  for (const evil of ['utm=evil', '%75tm=evil', 'u%74m=evil&utm=evil', 'utm=evil;id=2', 'utm=evil%26id=2', 'utm', 'utm[]=evil&utm=evil']) {
    for (const url of [`/in?id=1&${evil}`, `/in?${evil}&id=1`]) {
      const { body } = await ask(app, url)
      t.notMatch(body, 'evil', url)
    }
    if (!evil.includes('[')) t.notMatch((await ask(app, `/ex?id=1&${evil}`)).body, 'evil', evil)
  }
  t.match(await ask(app, '/in?id=1&utm=other'), { cache: 'HIT', body: '"id":"1"' })
  t.match(await ask(app, '/in?utm=x;id=1'), { cache: 'MISS', body: '"query":{}' })
})

onBothStores('a custom query parser cannot add values that are not in the key', async (t, store) => {
  const querystringParser = (text: string) => Object.fromEntries(new URLSearchParams(text.replaceAll(';', '&').replaceAll('[x]', '')))
  // The second one is the deprecated option of Fastify 5, which has no type in Fastify 6.
  for (const server of [{ routerOptions: { querystringParser } }, { querystringParser } as object]) {
    const { app } = await createCacheApp(t, { store, server })
    app.get('/in', { config: { cache: { key: { query: { include: ['id'] } } } } }, async request => request.query)
    for (const evil of ['utm=1;id=evil', 'id=1&id[x]=evil', 'id[x]=evil', 'utm=1;id=evil&id=1']) {
      await ask(app, `/in?${evil}`)
      await settled(app)
    }
    for (const [query, body] of [['', {}], ['id=1', { id: '1' }], ['utm=1', {}], ['utm=1&id=1', { id: '1' }]] as const) {
      t.same(JSON.parse((await ask(app, `/in?${query}`)).body), body, query)
    }
  }
})

onBothStores('paths that a proxy may take for the same, or for a file, have responses of their own', async (t, store) => {
  const { app } = await createCacheApp(t, { store, server: { routerOptions: ROUTER } })
  app.get('/account', { config: { cache: false } }, async () => 'secret')
  app.get('/account/*', { config: { cache: true } }, async request => `${request.url} ${JSON.stringify(request.params)} ${JSON.stringify(request.query)}`)
  const urls = ['/account/x.css', '/account/x.css/', '/account//x.css', '/account/x%2ecss', '/account/x%2Ecss', '/account/%2fx.css', '/account/..;/x.css', '/account/x.css;a=1', '/account/x.css?a=1',
    '/account/x.css.', '/account/x.css..', '/account/X.css', '/account/x.css%00', '/account/x.css%23', '/account/x.css#a=1', '/account/./x.css', '/account/%2e%2e/x.css']
  const fresh: string[] = []
  for (const url of urls) fresh.push((await ask(app, url, { authorization: 'x' })).body)
  for (const url of urls) await ask(app, url)
  await settled(app)
  for (const [i, url] of urls.entries()) t.match(await ask(app, url), { body: fresh[i] }, url)
  for (const url of ['/account', '/account?x.css', '/account;x.css', '/account#x.css']) t.match((await askTwice(app, url))[1], { cache: 'undefined', body: 'secret' }, url)
})

onBothStores('a route that reads the identity of a client stores nothing of it for others: cookies, Authorization, sessions', async (t, store) => {
  const { app, clock } = await createCacheApp(t, { store, options: { ttl: '1m', staleIfError: '1h', staleWhileRevalidate: '1h' } })
  let runs = 0
  app.get('/me', { config: { cache: true } }, async (request, reply) => {
    runs++
    await settled(app)
    if (request.headers['x-login']) reply.header('set-cookie', `sid=${String(request.headers['x-login'])}`)
    if (request.headers.authorization) return `secret of ${request.headers.authorization}`
    return 'public'
  })
  const logins = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(app, '/me', { 'x-login': `u${i}` })))
  t.same(logins.map(answer => answer.headers['set-cookie']), logins.map((_, i) => `sid=u${i}`), 'each has his own, who waited too')
  t.equal(app.cache.stats().stored, 0)
  const known = await Promise.all(['ann', 'bob', undefined].map(name => ask(app, '/me', name ? { authorization: name } : {})))
  t.same(known.map(answer => answer.body), ['secret of ann', 'secret of bob', 'public'])
  await settled(app)
  await clock.advance('61s')
  const before = runs
  t.match(await ask(app, '/me', { 'x-login': 'ann', cookie: 'sid=ann' }), { cache: 'STALE', body: 'public' })
  await settled(app)
  t.equal(runs, before + 1, 'it is refreshed')
  t.notOk((await ask(app, '/me')).headers['set-cookie'], 'the first client left no trace')
})

onBothStores('a response refreshed for one user is never stored for other users', async (t, store) => {
  const { app, clock } = await createCacheApp(t, { store, options: { ttl: '1m', staleWhileRevalidate: '1h' } })
  // An admin views the site as another user, whom a header names that a request in the background lacks.
  const owner = (headers: Record<string, unknown>) => String(headers['x-as'] ?? headers['cookie'])
  app.get('/me', { config: { cache: { private: request => owner(request.headers) } } }, async request => `for ${owner(request.headers)}`)
  await ask(app, '/me', { cookie: 'admin', 'x-as': 'bob' })
  await settled(app)
  await clock.advance('61s')
  t.match(await ask(app, '/me', { cookie: 'admin', 'x-as': 'bob' }), { cache: 'STALE', body: 'for bob' })
  await settled(app)
  await settled(app)
  t.match(await ask(app, '/me', { cookie: 'bob' }), { body: 'for bob' })
})

onBothStores('a response refreshed for one host is never stored for other hosts', async (t, store) => {
  const { app, clock } = await createCacheApp(t, { store, server: { trustProxy: true }, options: { ttl: '1m', staleWhileRevalidate: '1h', key: { host: true } } })
  app.get('/', { config: { cache: true } }, async request => `for ${request.host}`)
  const proxied = { host: 'inner', 'x-forwarded-host': 'outer' }
  await ask(app, '/', proxied)
  await settled(app)
  await clock.advance('61s')
  const stale = await ask(app, '/', proxied)
  t.equal(stale.cache, 'STALE')
  await settled(app)
  await settled(app)
  t.equal((await ask(app, '/', proxied)).body, 'for outer')
})

onBothStores('no error becomes cacheable on a route with a ttl, whatever its headers say', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
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

onBothStores('an error that is thrown after a max-age was set is not stored, also with ttl: "headers" and with an error handler', async (t, store) => {
  const { app } = await createCacheApp(t, { store, options: { ttl: 'headers' } })
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

onBothStores('a header that breaks something for one client breaks it for that client alone', async (t, store) => {
  const { app } = await createCacheApp(t, { store, options: { vary: ['accept-language'] } })
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

onBothStores('Vary: * in any form stores nothing, and names on several lines are all heeded', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  const varies: Record<string, string | string[]> = { '/star': '*', '/stars': '*, *', '/in': 'accept, *', '/lines': ['accept', '*'], '/two': ['x-a', 'X-B'] }
  for (const [url, vary] of Object.entries(varies)) {
    app.get(url, { config: { cache: true } }, async (request, reply) => { reply.header('vary', vary); return `${String(request.headers['x-a'])}${String(request.headers['x-b'])}` })
  }
  for (const url of ['/star', '/stars', '/in', '/lines']) t.equal((await askTwice(app, url))[1].cache, 'MISS', url)
  await askTwice(app, '/two', { 'x-a': '1', 'x-b': '2' })
  t.match(await ask(app, '/two', { 'x-a': '1', 'x-b': '3' }), { cache: 'MISS', body: '13' })
  t.match(await ask(app, '/two', { 'x-a': '1', 'x-b': '2' }), { cache: 'HIT', body: '12' })
})

// Thousands of them: test/stress/cache-attacks.test.ts.
t.test('many variants of one URL leave as many as are allowed, in Redis and in L1', async t => {
  const { app, prefix } = await createCacheApp(t, { store: 'redis', options: { maxVariants: 10 } })
  app.get('/', { config: { cache: true } }, async (request, reply) => { reply.header('vary', 'x-v'); return request.headers['x-v'] })
  for (let i = 0; i < 40; i++) await askTwice(app, '/', { 'x-v': String(i) })
  const client = (await sharedRedis()).client()
  const keys = await client.keys(`${prefix}:*`)
  const lengths = await Promise.all(keys.filter(key => key.includes(':entry:')).map(key => client.strlen(key)))
  t.equal(lengths.filter(length => length > 100).length, 11, 'ten, and the list of them')
  t.ok(app.cache.stats().l1Entries <= 11, `${app.cache.stats().l1Entries} in L1`)
  t.same((await Promise.all(keys.map(key => client.pttl(key)))).filter(ttl => ttl === -1), [], 'each key has a TTL')
})

onBothStores('many different URLs leave no more than is allowed, however long they are', async (t, store) => {
  const most = 256 * 1024
  const { app } = await createCacheApp(t, { store, options: { l1: most, maxSize: most } })
  app.get('/', { config: { cache: true } }, async () => 'x')
  const padding = 'x'.repeat(4000)
  await Promise.all(Array.from({ length: 200 }, (_, i) => ask(app, `/?q=${i}&${padding}`)))
  await settled(app)
  const { stored, l1Bytes, l1Entries } = app.cache.stats()
  t.equal(stored, 200)
  t.ok(l1Bytes <= most)
  t.ok(l1Entries * padding.length <= most, `${l1Entries} long URLs are counted with their length`)
})

onBothStores('client directives are ignored by default and heeded with requestDirectives: "obey"', async (t, store) => {
  for (const requestDirectives of ['ignore', 'obey'] as const) {
    const { app, clock } = await createCacheApp(t, { store, options: { requestDirectives, ttl: '1m' } })
    const obeys = requestDirectives === 'obey'
    let runs = 0
    app.get(`/${requestDirectives}`, { config: { cache: true } }, async (_request, reply) => await reply.header('etag', `"${++runs}"`).send('x'))
    const say = (directive: string) => ask(app, `/${requestDirectives}`, { 'cache-control': directive })
    t.match(await say('only-if-cached'), { status: obeys ? 504 : 200 })
    await say('max-age=100')
    await settled(app)
    await clock.advance('1s')
    for (const directive of ['no-cache', 'max-age=0', 'min-fresh=100', 'no-store']) {
      await clock.advance('1s')
      const count = runs
      const { cache } = await say(directive)
      t.same([cache === 'HIT', runs - count], obeys ? [false, 1] : [true, 0], `${requestDirectives} ${directive}`)
      await settled(app)
    }
    t.equal((await ask(app, `/${requestDirectives}`, { pragma: 'no-cache' })).cache === 'HIT', !obeys)
    await settled(app)
    await clock.advance('61s')
    t.equal((await say('max-stale')).cache, obeys ? 'STALE' : 'MISS', `${requestDirectives} max-stale`)
  }
})

onBothStores('an unsafe method invalidates its URL and those it names, by the keys of the routes that stored them, and none on another host', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  let location = ''
  app.get('/a', { config: { cache: { key: { host: true, query: { exclude: ['utm'] } } } } }, async () => 'x')
  app.get('/b', { config: { cache: true } }, async () => 'x')
  app.post('/a', async (_request, reply) => await reply.header('location', location).send('changed'))
  app.post('/b', async (_request, reply) => await reply.header('location', location).send('changed'))
  await askTwice(app, '/a')
  await app.inject({ method: 'POST', url: '/a' })
  t.equal((await ask(app, '/a')).cache, 'MISS', 'its own')
  await settled(app)
  for (location of ['http://other/b', 'https://other:80/b', '//other/b', 'http://[/b', '\\\\other/b', 'http://localhost:81/b', 'javascript:/b']) {
    await ask(app, '/b')
    await settled(app)
    await app.inject({ method: 'POST', url: '/a' })
    t.equal((await ask(app, '/b')).cache, 'HIT', location)
  }
  location = '/b'
  await app.inject({ method: 'POST', url: '/b' })
  t.equal((await ask(app, '/b')).cache, 'MISS')
})

onBothStores('a pattern matches literally where keys hold its special characters', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  app.get('/*', { config: { cache: true } }, async request => request.url)
  const urls = ['/a*', '/ab', '/[x]', '/x', '/a?b=*', '/a?b=1', '/%5Bx%5D', '/a\\b']
  for (const url of urls) await ask(app, url)
  await settled(app)
  t.equal(await app.cache.invalidatePattern('/a\\*'), 1)
  // In both spellings of the path.
  t.equal(await app.cache.invalidatePattern('/\\[x\\]'), 2)
  t.equal((await ask(app, '/ab')).cache, 'HIT')
  t.equal((await ask(app, '/x')).cache, 'HIT')
  t.equal((await ask(app, '/a*')).cache, 'MISS')
  const spent = await cpuTimeOf(() => app.cache.invalidatePattern('*a'.repeat(15) + 'b'))
  t.ok(spent < 1000, `${spent} ms of CPU`)
})

onBothStores('internal requests of the suite are not limited, and no header lets a client pass for one', async (t, store) => {
  const seen: string[] = []
  const { app, clock } = await createTestApp(t, {
    store,
    plugins: { rateLimit: { max: 6, timeWindow: '1h', timeout: '1h' }, cache: { ttl: '1m', staleWhileRevalidate: '1h', timeout: '1h', unkeyed: false } },
    routes: app => {
      app.addHook('onRequest', async request => { seen.push(Object.keys(request.headers).sort().join()) })
      app.get('/:id', { config: { cache: true } }, async () => 'page')
    }
  })
  const asking = { 'x-fastify-redis-suite-refresh': '00000000-0000-0000-0000-000000000000' }
  const pages = ['/1', '/2', '/3']
  for (const page of pages) await ask(app, page, asking)
  await settled(app)
  await clock.advance('61s')
  for (const page of pages) t.equal((await ask(app, page, asking)).cache, 'STALE')
  await settled(app)
  t.equal(seen.length, 9)
  t.same(seen.filter(names => names === 'host,user-agent').length, 3, 'the requests in the background have nothing else')
  t.equal((await ask(app, '/1', asking)).status, 429, 'a client is limited, whatever it sends')
})

t.test('a stored frame that was tampered with is a miss, and nothing of it is sent', async t => {
  const { app, prefix } = await createCacheApp(t, { store: 'redis', options: { l1: false } })
  app.get('/', { config: { cache: true } }, async () => 'right')
  const client = (await sharedRedis()).client()
  await askTwice(app, '/')
  const [key = ''] = await client.keys(`${prefix}:cache:entry:*`)
  const frame = await client.getBuffer(key) as Buffer
  const entry = decodeEntry(frame).entry as StoredResponse
  const body = Buffer.from('wrong')
  const withMeta = (change: object) => encodeEntry({ ...entry, body, meta: { ...entry.meta, ...change } } as never)
  const raw = (text: string, rest = body) => Buffer.concat([frame.subarray(0, 13), Buffer.from([0, 0, 0, Buffer.byteLength(text)]), Buffer.from(text), rest])
  const frames: Record<string, Buffer> = {
    cut: frame.subarray(0, -1),
    longer: Buffer.concat([frame, body]),
    empty: Buffer.alloc(0),
    version: Buffer.concat([Buffer.from([9]), frame.subarray(1)]),
    json: raw('{"kind"'),
    proto: raw('{"__proto__":{}}'),
    array: raw('[]'),
    cr: withMeta({ headers: { 'x-a': 'a\rset-cookie: evil' } }),
    nul: withMeta({ headers: { 'x-a': 'a\0b' } }),
    crlf: withMeta({ headers: { ...entry.meta.headers, 'x-a': 'a\r\nset-cookie: evil' } }),
    name: withMeta({ headers: { 'x a': 'b' } }),
    protoHeader: withMeta({ headers: JSON.parse('{"__proto__":"a"}') }),
    number: withMeta({ headers: { 'x-a': 5 } }),
    framing: withMeta({ headers: { 'transfer-encoding': 'chunked' } }),
    length: withMeta({ headers: { 'content-length': '1' } }),
    upper: withMeta({ headers: { 'Content-Length': '1' } }),
    ...Object.fromEntries([0, 99, 101, 206, 304, 600, 200.5, '200', null].map(status => [`status ${status}`, withMeta({ status })])),
    fresh: withMeta({ staleAt: 'long' }),
    vary: withMeta({ vary: ['a'] })
  }
  for (const [name, bytes] of Object.entries(frames)) {
    await settled(app)
    await client.set(key, bytes, 'PX', 60_000)
    const answer = await ask(app, '/')
    t.match(answer, { status: 200, cache: 'MISS', body: 'right' }, name)
    t.notOk(answer.headers['set-cookie'])
  }
  await settled(app)
  await client.set(key, withMeta({}), 'PX', 60_000)
  t.equal((await ask(app, '/')).body, 'wrong', 'a frame that is well-formed is read')
})

const noop = async () => {}

/** Asks without the key, with it, and without it again. */
async function statuses (app: FastifyInstance, url: string, method: 'GET' | 'HEAD' = 'GET'): Promise<Array<number | string>> {
  const before = await ask(app, url, {}, { method })
  await ask(app, url, { 'x-key': 'k' })
  await settled(app)
  const hit = await ask(app, url, { 'x-key': 'k' }, { method })
  return [before.status, hit.status, hit.cache, (await ask(app, url, {}, { method })).status]
}

const REFUSED = [401, 200, 'HIT', 401]

for (const name of ['preHandler', 'onRequest'] as const) {
  for (const way of Object.keys(WAYS)) {
    t.test(`no stored response is served before the ${name} hook of a plugin that ${way} in a later onRoute hook`, async t => {
      const { app } = await createCacheApp(t)
      addLateAuth(app, way, name)
      const config = { cache: { hook: name } }
      app.get('/none', { config }, async () => 'secret')
      app.get('/function', { config, [name]: noop }, async () => 'secret')
      app.get('/array', { config, [name]: [noop, noop] }, async () => 'secret')
      for (const url of ['/none', '/function', '/array']) {
        t.same(await statuses(app, url), REFUSED, url)
        t.same(await statuses(app, url, 'HEAD'), REFUSED, `HEAD ${url}`)
      }
    })
  }
}

t.test('no stored response is served before a hook of the instance or the context, whenever it is added', async t => {
  const { app } = await createCacheApp(t)
  app.get('/root', { config: { cache: true } }, async () => 'secret')
  app.addHook('preHandler', async (request, reply) => { if (request.url.startsWith('/root')) await requireKey(request, reply) })
  await app.register(async child => {
    child.get('/', { config: { cache: true } }, async () => 'secret')
    child.get('/a', { config: { cache: true } }, async () => 'secret')
    child.addHook('preHandler', requireKey)
  }, { prefix: '/child' })
  for (const url of ['/root', '/child', '/child/', '/child/a']) t.same(await statuses(app, url), REFUSED, url)
})

t.test('no stored response is served before a hook that an onRoute hook of the context adds', async t => {
  const { app } = await createCacheApp(t)
  await app.register(async child => {
    child.addHook('onRoute', route => { route.preHandler = [...[route.preHandler ?? []].flat(), requireKey] })
    child.get('/', { config: { cache: true } }, async () => 'secret')
  }, { prefix: '/child' })
  for (const url of ['/child', '/child/']) t.same(await statuses(app, url), REFUSED, url)
})

t.test('a route that another plugin registers as a copy of a cached one has its own lookup, once, after all hooks', async t => {
  const { app } = await createCacheApp(t)
  const routes: RouteOptions[] = []
  app.addHook('onRoute', function (route) {
    if (route.url.startsWith('/v1') || route.method === 'HEAD') return
    routes.push(route)
    this.route({ ...route, url: `/v1${route.url}` })
  })
  app.addHook('onRoute', route => { route.preHandler = [...[route.preHandler ?? []].flat(), requireKey] })
  app.get('/', { config: { cache: true } }, async request => request.url)
  await app.after()
  for (const route of routes) app.route({ ...route, url: '/v1/later' })
  for (const url of ['/', '/v1/', '/v1/later']) {
    t.same(await statuses(app, url), REFUSED, url)
    t.equal((await ask(app, url, { 'x-key': 'k' })).body, url)
  }
})

t.test('other plugins find in a route only their own hooks while it is registered', async t => {
  const { app } = await createCacheApp(t)
  const seen: unknown[] = []
  app.addHook('onRoute', route => { if (route.method === 'GET') seen.push(route.preHandler, route.onSend) })
  app.get('/a', { config: { cache: true } }, async () => 'a')
  app.get('/b', { config: { cache: true }, preHandler: noop, onSend: [noop] }, async () => 'b')
  t.same(seen, [undefined, undefined, noop, [noop]])
})

t.test('the payload that a hook of a later onRoute hook sends is stored', async t => {
  const { app } = await createCacheApp(t)
  app.addHook('onRoute', route => { route.onSend = async (_request, reply) => { reply.header('x-late', 'yes'); return 'replaced' } })
  app.get('/', { config: { cache: true } }, async () => 'original')
  t.match(await ask(app, '/'), { body: 'replaced', cache: 'MISS' })
  await settled(app)
  t.match(await ask(app, '/'), { body: 'replaced', cache: 'HIT', headers: { 'x-late': 'yes' } })
})

t.test('a later onRoute hook that assigns onError does not make an error storable', async t => {
  const { app } = await createCacheApp(t)
  app.addHook('onRoute', route => { route.onError = async () => {} })
  let fails = true
  app.get('/', { config: { cache: true }, errorHandler: async (_error, _request, reply) => await reply.code(200).send('sorry') }, async () => {
    if (fails) throw new Error('not now')
    return 'found'
  })
  t.equal((await ask(app, '/')).body, 'sorry')
  await settled(app)
  fails = false
  t.equal((await ask(app, '/')).body, 'found')
})

const REPLACEMENTS: Record<string, (route: RouteOptions) => void> = {
  'redefines preHandler': route => { Object.defineProperty(route, 'preHandler', { value: [requireKey] }) },
  'deletes preHandler': route => { delete route.preHandler },
  'redefines onSend': route => { Object.defineProperty(route, 'onSend', { value: [noop] }) }
}

for (const [what, replace] of Object.entries(REPLACEMENTS)) {
  t.test(`an app does not start where another plugin ${what} of a cached route: the error names the route`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(cache)
    app.addHook('onRoute', route => { if (route.method === 'GET') replace(route) })
    app.get('/orders', { config: { cache: true } }, async () => 'secret')
    await t.rejects(async () => await app.ready(), { code: 'FST_REDIS_SUITE_CACHE_HOOK_REPLACED', message: /GET \/orders/ })
  })
}

t.test('a route that an earlier plugin has frozen is refused when it is registered', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  app.addHook('onRoute', route => { Object.freeze(route) })
  await app.register(cache)
  t.throws(() => app.get('/orders', { config: { cache: true }, exposeHeadRoute: false }, async () => 'secret'), { code: 'FST_REDIS_SUITE_CACHE_HOOK_REPLACED', message: /GET \/orders/ })
})
