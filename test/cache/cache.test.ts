import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import cookie from '@fastify/cookie'
import type { FastifyInstance, RouteHandlerMethod } from 'fastify'
import t, { type Test } from 'tap'
import type { CachePluginOptions, RouteCacheOptions } from '../../plugins/cache/index.js'
import { ask, createCacheApp, gate, onBothStores, settled, type CacheAppOptions } from '../helpers/cache/cache-app.js'
import { advanceUntil, advanceWhile, sharedRedis, startRedis, until } from '../helpers/index.js'
import { makeCertificate } from '../helpers/servers/certificate.js'

/** An app with a route whose handler counts its runs, and waits for `runs.hold`. */
async function build (t: Test, given: CacheAppOptions, config: RouteCacheOptions | boolean = true) {
  const runs = { count: 0, hold: Promise.resolve() }
  const test = await createCacheApp(t, given)
  test.app.get<{ Params: { id: string } }>('/items/:id', { config: { cache: config } }, async request => {
    const run = ++runs.count
    await runs.hold
    return { id: request.params.id, run }
  })
  return { ...test, runs }
}

/** Asks for as many at once. */
const askMany = (app: FastifyInstance, count: number, url: string) => Promise.all(Array.from({ length: count }, () => ask(app, url)))

onBothStores('the second response comes from the cache, byte for byte, with its headers and age', async (t, store) => {
  const { app, clock, runs } = await build(t, { store })
  const miss = await ask(app, '/items/1')
  await settled(app)
  await clock.advance('3s')
  const hit = await ask(app, '/items/1')
  t.same([miss.cache, hit.cache, runs.count], ['MISS', 'HIT', 1])
  t.equal(hit.body, miss.body)
  t.match(hit.headers, { 'content-type': 'application/json; charset=utf-8', age: '3', etag: miss.headers['etag'] })
  t.equal((await ask(app, '/items/2')).cache, 'MISS')
  t.equal((await ask(app, '/items/1?q=1')).cache, 'MISS')
})

onBothStores('HEAD and If-None-Match are served from the cache', async (t, store) => {
  const { app, runs } = await build(t, { store })
  const { headers, body } = await ask(app, '/items/1')
  await settled(app)
  t.match(await ask(app, '/items/1', {}, { method: 'HEAD' }), { cache: 'HIT', body: '', headers: { 'content-length': String(body.length) } })
  const unchanged = await ask(app, '/items/1', { 'if-none-match': String(headers['etag']) })
  t.same([unchanged.status, unchanged.body, unchanged.cache, runs.count], [304, '', 'HIT', 1])
})

onBothStores('100 concurrent requests for a cold key run the handler once', async (t, store) => {
  const { app, runs } = await build(t, { store })
  const { opened, open } = gate()
  runs.hold = opened
  const asked = askMany(app, 100, '/items/1')
  await until('the other 99 wait', () => app.cache.stats().coalesced === 99)
  open()
  const bodies = (await asked).map(({ body }) => body)
  t.same([runs.count, ...new Set(bodies)], [1, '{"id":"1","run":1}'])
})

onBothStores('a stale response is served while one request refreshes it', async (t, store) => {
  const { app, clock, runs } = await build(t, { store, options: { ttl: '1m', staleWhileRevalidate: '1h' } })
  await ask(app, '/items/1')
  await settled(app)
  await clock.advance('61s')
  const { opened, open } = gate()
  runs.hold = opened
  const answers = await askMany(app, 20, '/items/1')
  t.same(answers.map(({ cache, body }) => `${cache} ${body}`), Array(20).fill('STALE {"id":"1","run":1}'))
  open()
  await settled(app)
  t.match(await ask(app, '/items/1'), { cache: 'HIT', body: '{"id":"1","run":2}' })
  t.equal(runs.count, 2)
})

onBothStores('a stale response that only members may see is refreshed by the request of a member', async (t, store) => {
  const { app, clock } = await build(t, { store })
  let runs = 0
  app.get('/members', {
    config: { cache: { ttl: '1m', staleWhileRevalidate: '1h' } },
    onRequest: async (request, reply) => { if (request.headers['x-member'] !== 'yes') return reply.code(401).send('who are you?') }
  }, async () => ({ runs: ++runs }))
  const member = async () => {
    const { cache } = await ask(app, '/members', { 'x-member': 'yes' })
    await settled(app)
    return cache
  }
  t.equal(await member(), 'MISS')
  await clock.advance('61s')
  // The refresh in the background is refused, as it is no member's.
  t.same([await member(), runs], ['STALE', 1])
  await member()
  t.same([await member(), runs], ['HIT', 2])
  t.equal((await ask(app, '/members')).status, 401)
})

onBothStores('each of several concurrent sets is stored, and a value computed before a set does not replace it', async (t, store) => {
  const { app } = await build(t, { store })
  let finish = (_value: string): void => {}
  const computed = app.cache.getOrSet('k', () => new Promise<string>(resolve => { finish = resolve }))
  await settled(app)
  await app.cache.set('k', 'set')
  finish('computed')
  t.equal(await computed, 'computed')
  await settled(app)
  t.equal(await app.cache.get('k'), 'set')
  const all = Array.from({ length: 40 }, (_, i) => `v${i}`)
  await Promise.all(all.map(async value => { await app.cache.set('k', value) }))
  t.ok(all.includes(await app.cache.get('k') ?? ''))
  await t.rejects(app.cache.set('k', undefined), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION' })
})

onBothStores('the invalidation of a tag removes its responses and values, and no others', async (t, store) => {
  const { app } = await build(t, { store }, { ttl: '1m', tags: request => [`item:${request.params.id}`, 'items'] })
  app.put<{ Params: { id: string } }>('/items/:id', { config: { cache: { invalidates: request => [`item:${request.params.id}`] } } }, async () => 'changed')
  app.put('/fail', { config: { cache: { invalidates: ['items'] } } }, async (_request, reply) => reply.code(400).send('no'))
  for (const id of ['1', '2']) await ask(app, `/items/${id}`)
  await app.cache.set('value', 5, { tags: ['items'] })
  await settled(app)
  await app.inject({ method: 'PUT', url: '/fail' })
  t.equal((await ask(app, '/items/1')).cache, 'HIT', 'a failed write invalidates nothing')
  await app.inject({ method: 'PUT', url: '/items/1' })
  t.equal((await ask(app, '/items/1')).cache, 'MISS')
  t.equal((await ask(app, '/items/2')).cache, 'HIT')
  await app.cache.invalidateTags(['items'])
  t.equal((await ask(app, '/items/2')).cache, 'MISS')
  t.equal(await app.cache.get('value'), undefined)
})

onBothStores('a response begun before an invalidation is never served after it', async (t, store) => {
  const { app, runs } = await build(t, { store }, { ttl: '1m', tags: ['items'] })
  const { opened, open } = gate()
  runs.hold = opened
  const slow = ask(app, '/items/1')
  await until('the handler runs', () => runs.count === 1)
  await app.cache.invalidateTags(['items'])
  open()
  await slow
  await settled(app)
  t.match(await ask(app, '/items/1'), { cache: 'MISS', body: '{"id":"1","run":2}' })
})

onBothStores('a tag that the handler names takes effect, also where it is invalidated before the handler names it', async (t, store) => {
  const { app, clock } = await build(t, { store })
  const { opened, open } = gate()
  const state = { version: 1, runs: 0 }
  app.get('/late', { config: { cache: true } }, async (_request, reply) => {
    const body = { version: state.version }
    if (++state.runs === 1) await opened
    reply.cacheTags('late')
    return body
  })
  const slow = ask(app, '/late')
  await until('the handler runs', () => state.runs === 1)
  state.version = 2
  await app.cache.invalidateTags(['late'])
  open()
  await slow
  await settled(app)
  t.equal((await ask(app, '/late')).body, '{"version":2}')
  // A fill that begins in the millisecond of an invalidation is not stored.
  await clock.advance(1)
  await ask(app, '/late')
  await settled(app)
  t.equal((await ask(app, '/late')).cache, 'HIT')
  await app.cache.invalidateTags(['late'])
  t.equal((await ask(app, '/late')).cache, 'MISS')
})

onBothStores('clear() empties the cache', async (t, store) => {
  const { app } = await build(t, { store })
  await ask(app, '/items/1')
  await settled(app)
  t.equal((await ask(app, '/items/1')).cache, 'HIT')
  await app.cache.clear()
  t.equal((await ask(app, '/items/1')).cache, 'MISS')
})

onBothStores('a response that is not for every client is not stored', async (t, store) => {
  const { app } = await build(t, { store })
  const handlers: Record<string, RouteHandlerMethod> = {
    '/cookie': (_request, reply) => { reply.header('set-cookie', 'a=b').send('x') },
    '/no-store': (_request, reply) => { reply.header('cache-control', 'no-store').send('x') },
    '/private': (_request, reply) => { reply.header('cache-control', 'max-age=60, private').send('x') },
    '/vary': (_request, reply) => { reply.header('vary', 'accept, *').send('x') },
    '/created': (_request, reply) => { reply.code(201).send('x') },
    '/missing': (_request, reply) => { reply.code(404).send('x') },
    '/broken': () => { throw new Error('broken') },
    '/no-cache': (_request, reply) => { reply.noCache().send('x') },
    '/large': (_request, reply) => { reply.send('x'.repeat(2 * 1024 ** 2)) },
    '/session': (request, reply) => { Object.assign(request, { session: { cookie: {}, userId: 'ann' } }); reply.send('x') }
  }
  for (const [url, handler] of Object.entries(handlers)) app.get(url, { config: { cache: true } }, handler)
  for (const url of Object.keys(handlers)) {
    await ask(app, url)
    await settled(app)
    t.not((await ask(app, url)).cache, 'HIT', url)
  }
  t.equal(app.cache.stats().stored, 0)
})

onBothStores('a request that carries an identity or a body bypasses the cache', async (t, store) => {
  const { app, runs } = await build(t, { store })
  await ask(app, '/items/1')
  await settled(app)
  t.equal((await ask(app, '/items/1')).cache, 'HIT')
  t.equal((await ask(app, '/items/1', { authorization: 'Bearer x' })).cache, 'BYPASS')
  const withBody = await ask(app, '/items/1', { 'content-type': 'application/json', 'content-length': '7' }, { method: 'GET', payload: '{"a":1}' })
  t.equal(withBody.cache, 'BYPASS')
  t.equal(runs.count, 3)
})

onBothStores('private responses are stored per owner, and not at all without one', async (t, store) => {
  const { app } = await build(t, { store })
  app.get('/me', { config: { cache: { private: request => request.headers['x-user'] as string | undefined } } }, async request => ({ me: request.headers['x-user'] ?? 'nobody' }))
  const me = (user?: string) => ask(app, '/me', user === undefined ? {} : { 'x-user': user, authorization: 'Bearer x' })
  await me('ann')
  await settled(app)
  t.match(await me('ann'), { cache: 'HIT', body: '{"me":"ann"}' })
  t.match(await me('bob'), { cache: 'MISS', body: '{"me":"bob"}' })
  t.match(await me(), { cache: 'BYPASS', body: '{"me":"nobody"}' })
  t.match(await me('ann'), { cache: 'HIT', body: '{"me":"ann"}' })
})

onBothStores('a route with the option public has one response for all users, also for those with a session or Authorization', async (t, store) => {
  const { app } = await build(t, { store })
  app.decorateRequest('session', null as never)
  app.addHook('onRequest', async request => { Reflect.set(request, 'session', { user: request.headers['x-user'] }) })
  let runs = 0
  app.get('/shared', { config: { cache: { public: true } } }, async () => ({ run: ++runs }))
  app.get('/own', { config: { cache: {} } }, async () => ({ run: ++runs }))
  const send = (path: string, user: string) => ask(app, path, { 'x-user': user, authorization: `Bearer ${user}` })
  t.match(await send('/shared', 'ann'), { cache: 'MISS', body: '{"run":1}' })
  await settled(app)
  t.match(await send('/shared', 'bob'), { cache: 'HIT', body: '{"run":1}' })
  t.match(await send('/own', 'ann'), { cache: 'BYPASS' }, 'without the option it bypasses')
})

/** The address of an app, and the headers that its clients send. */
const SERVERS: Record<string, { server: (tls: object) => object, headers: Record<string, string>, remoteAddress: string }> = {
  'on a TLS server': { server: https => ({ https }), headers: { host: 'a.example' }, remoteAddress: '127.0.0.1' },
  'behind a TLS proxy': {
    server: () => ({ trustProxy: '127.0.0.1' }),
    headers: { host: 'internal', 'x-forwarded-proto': 'https', 'x-forwarded-host': 'a.example', 'x-forwarded-for': '203.0.113.7' },
    remoteAddress: '203.0.113.7'
  }
}

for (const [where, { server, headers, remoteAddress }] of Object.entries(SERVERS)) {
  onBothStores(`${where} a request in the background has the URL, the host, the protocol and the address of the one that was asked`, async (t, store) => {
    const tls = await makeCertificate()
    const seen: string[] = []
    const { app, clock, warnings } = await createCacheApp(t, {
      store,
      server: { ...server(tls), rewriteUrl: (raw: IncomingMessage) => raw.url?.startsWith('/v1/') ? raw.url : `/v1${raw.url}` } as never,
      options: { ttl: '1m', staleWhileRevalidate: '1h', timeout: '1h', unkeyed: 'bypass' },
      before: app => {
        app.addHook('onRequest', async (request, reply) => {
          seen.push(`${request.protocol}://${request.host}${request.originalUrl} ${request.url} of ${request.ip}`)
          if (request.protocol !== 'https') return await reply.redirect(`https://${request.host}${request.url}`)
          return request.ip === remoteAddress ? undefined : await reply.code(400).send('unknown address')
        })
      }
    })
    let version = 0
    const handler: RouteHandlerMethod = async request => `${++version} ${request.protocol}://${request.host}${request.originalUrl}`
    app.get('/v1/links/*', { config: { cache: { key: { host: true } } } }, handler)
    app.get('/v1/plain/*', { config: { cache: { harmless: ['request.protocol', 'request.host', 'x-forwarded-host', 'host'] } } }, handler)
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    const send = 'key' in app.server ? httpsRequest : request
    const get = async (path: string) => {
      const [response] = await once(send({ port, host: '127.0.0.1', path, headers, rejectUnauthorized: false, agent: false }).end(), 'response') as [IncomingMessage]
      let body = ''
      for await (const chunk of response.setEncoding('utf8')) body += chunk
      await settled(app)
      return `${response.statusCode} ${String(response.headers['x-cache'])} ${body}`
    }
    // A URL parser would change it.
    for (const path of ['/links/a/../b|c?q="', '/plain/a']) {
      version = 0
      const link = `https://a.example${path}`
      t.same([await get(path), await get(path)], [`200 MISS 1 ${link}`, `200 HIT 1 ${link}`])
      await clock.advance('61s')
      t.same([await get(path), await get(path)], [`200 STALE 1 ${link}`, `200 HIT 2 ${link}`])
    }
    t.same(new Set(seen).size, 2, 'no request is another one')
    t.same(warnings(), [])
  })
}

onBothStores('an unstorable response to a request in the background is logged once a route, and clients refresh it', async (t, store) => {
  const { app, clock, lines } = await createCacheApp(t, {
    store,
    options: { ttl: '1m', staleWhileRevalidate: '1h', timeout: '1h', unkeyed: 'bypass', harmless: ['x-key', 'cookie:seen'] },
    before: app => app.register(cookie)
  })
  const runs = new Map<string, number>()
  const count = (url: string): string => { runs.set(url, (runs.get(url) ?? 0) + 1); return `run ${runs.get(url)}` }
  const cached = { config: { cache: true } }
  app.get('/hook/:id', { ...cached, onRequest: async (request, reply) => request.headers['x-key'] === undefined ? await reply.code(400).send('no key') : undefined }, async request => count(request.url))
  app.get('/cookie', cached, async (request, reply) => { if (request.cookies['seen'] === undefined) reply.header('set-cookie', 'seen=1'); return count(request.url) })
  app.get('/fails', cached, async request => request.headers['x-key'] === undefined ? await Promise.reject(new Error('no key')) : count(request.url))
  const get = async (url: string) => { const { cache, body } = await ask(app, url, { 'x-key': 'k', cookie: 'seen=1' }); await settled(app); return `${cache} ${body}` }
  for (const url of ['/hook/1', '/hook/2']) {
    t.equal(await get(url), 'MISS run 1')
    await clock.advance('61s')
    t.same([await get(url), await get(url), await get(url)], ['STALE run 1', 'MISS run 2', 'HIT run 2'], 'a client refreshed it')
    await clock.advance('61s')
    t.same([await get(url), await get(url)], ['MISS run 3', 'HIT run 3'], 'and does so from then on')
  }
  t.equal(await get('/cookie'), 'MISS run 1')
  await clock.advance('61s')
  t.same([await get('/cookie'), await get('/cookie')], ['STALE run 1', 'MISS run 3'], 'the response with a cookie is not stored')
  t.equal(await get('/fails'), 'MISS run 1')
  await clock.advance('61s')
  t.same([await get('/fails'), await get('/fails')], ['STALE run 1', 'STALE run 1'], 'a failure may pass')
  const refused = lines.filter(({ msg }) => String(msg).includes('not refreshed in the background'))
  t.same(refused.map(({ level, route, reason }) => [level, route, reason]), [
    [40, '/hook/:id', 'a hook or another route answered 400 in place of the route'],
    [40, '/cookie', 'the response, with the status 200, must not be stored ("set-cookie")'],
    [40, '/fails', 'the request in the background was answered 500']
  ])
  await clock.advance('11m')
  t.same([await get('/hook/1'), await get('/hook/1')], ['STALE run 3', 'MISS run 4'], 'after 10 minutes it is tried again')
})

t.test('a request in the background does not read an endless stream, and the app closes', async t => {
  const { app, clock } = await createCacheApp(t, { options: { ttl: '1m', staleWhileRevalidate: '1h', maxEntrySize: 100 } })
  const streams: Readable[] = []
  let isEndless = false
  const endless = () => { const stream = new Readable({ read () { setImmediate(() => this.push('x'.repeat(50))) } }); streams.push(stream); return stream }
  app.get('/events', { config: { cache: true } }, async (_, reply) => isEndless ? await reply.type('text/event-stream').send(endless()) : 'page')
  app.get('/large', { config: { cache: true } }, async (_, reply) => isEndless ? await reply.send(endless()) : 'page')
  const urls = ['/events', '/large']
  for (const url of urls) await ask(app, url)
  await settled(app)
  await clock.advance('61s')
  isEndless = true
  for (const url of urls) t.equal((await ask(app, url)).cache, 'STALE')
  await until('both streams are closed', () => streams.length === 2 && streams.every(stream => stream.destroyed))
  await app.close()
})

onBothStores('a response of any size and form is refreshed in the background each time it is stale, beside hooks that read the connection and wait for the end of the body', async (t, store) => {
  const written: number[] = []
  const { app, clock, warnings } = await createCacheApp(t, {
    store,
    options: { ttl: '1m', staleWhileRevalidate: '1h', timeout: '1h', unkeyed: 'bypass' },
    before: app => {
      app.addHook('onRequest', async ({ raw }) => {
        raw.socket.address()
        raw.socket.setTimeout(60_000)
        await once(raw.resume(), 'end')
      })
      app.addHook('onResponse', async (request, { raw: { socket } }) => { written.push(Number((socket ?? request.raw.socket).bytesWritten)) })
    }
  })
  const runs = new Map<string, number>()
  const count = (url: string): number => { runs.set(url, (runs.get(url) ?? 0) + 1); return runs.get(url) ?? 0 }
  const chunks = (url: string): Buffer[] => Array.from({ length: 10 }, () => Buffer.alloc(50_000, String(count(url) % 10)))
  const cached = { config: { cache: true } }
  app.get('/text', cached, async ({ url }) => 'x'.repeat(200_000) + count(url))
  app.get('/stream', cached, async ({ url }) => Readable.from(chunks(url)))
  app.get('/web', cached, async ({ url }) => new Response(Readable.toWeb(Readable.from(chunks(url))) as never))
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  for (const path of ['/text', '/stream', '/web']) {
    const get = async () => {
      const response = await fetch(`http://127.0.0.1:${port}${path}`)
      await response.arrayBuffer()
      await settled(app)
      return response.headers.get('x-cache')
    }
    t.equal(await get(), 'MISS')
    for (let round = 1; round <= 3; round++) {
      await clock.advance('61s')
      t.same([await get(), await get()], ['STALE', 'HIT'], `${path}, refresh ${round}`)
    }
  }
  t.ok(written.length > 20 && written.every(bytes => bytes > 0), written.join())
  t.same(warnings(), [])
})

t.test('a request in the background without a response is aborted after a minute or when the app closes, also for its handler', async t => {
  const { app, clock, lines } = await createCacheApp(t, { options: { ttl: '1m', staleWhileRevalidate: '1h', timeout: '1h' } })
  let runs = 0
  let aborts = 0
  app.get('/', { config: { cache: true }, onRequestAbort: async _request => { aborts++ } }, async () => ++runs === 1 ? 'page' : await new Promise(() => {}))
  await ask(app, '/')
  await settled(app)
  await clock.advance('61s')
  t.equal((await ask(app, '/')).cache, 'STALE')
  await until('the handler runs in the background', () => runs === 2)
  await advanceUntil(clock, 'it is given up', () => aborts === 1, { step: 5000 })
  await clock.advance('10s')
  t.equal((await ask(app, '/')).cache, 'STALE')
  await until('another request in the background is sent', () => runs === 3)
  await advanceWhile(clock, app.close(), { step: 100 })
  await until('it is given up', () => aborts === 2)
  t.same(lines.filter(({ msg }) => String(msg).includes('not refreshed in the background')).map(({ reason }) => reason), ['no response within 60 seconds'])
})

onBothStores('headers named by vary are part of the key', async (t, store) => {
  const { app } = await build(t, { store }, { vary: ['Accept-Language'] })
  await ask(app, '/items/1', { 'accept-language': 'de' })
  await settled(app)
  t.equal((await ask(app, '/items/1', { 'accept-language': 'fr' })).cache, 'MISS')
  t.equal((await ask(app, '/items/1', { 'accept-language': 'de' })).cache, 'HIT')
})

onBothStores('Vary names the parts of the key for caches in front: on a miss, a hit, a 304, an error, and beside the Vary of the app', async (t, store) => {
  const config = { cache: { vary: ['x-tenant'], key: { cookies: ['lang', 'theme'] } } }
  const { app } = await createCacheApp(t, { store })
  app.get('/', { config }, async () => 'page')
  app.get('/own', { config }, async (_, reply) => await reply.header('vary', ['Origin', 'X-Tenant']).send('page'))
  app.get('/error', { config }, async () => { throw new Error('no') })
  app.get('/hook', { config, onRequest: async (_, reply) => await reply.code(403).send('no') }, async () => 'page')
  app.get('/plain', { config: { cache: true } }, async () => 'page')
  const headers = { 'x-tenant': 'a', cookie: 'lang=de; id=1' }
  const varies = async (url: string, more = {}) => { const { cache, status, headers: { vary } } = await ask(app, url, { ...headers, ...more }); await settled(app); return [cache, status, vary] }
  t.same([await varies('/'), await varies('/', { cookie: 'lang=de; id=2' })], [['MISS', 200, 'cookie, x-tenant'], ['HIT', 200, 'cookie, x-tenant']], 'other cookies do not distinguish responses')
  t.same(await varies('/', { 'if-none-match': '*' }), ['HIT', 304, 'cookie, x-tenant'])
  t.equal((await varies('/', { 'x-tenant': 'b' }))[0], 'MISS')
  t.same([await varies('/own'), await varies('/own')], [['MISS', 200, 'Origin, X-Tenant, cookie'], ['HIT', 200, 'Origin, X-Tenant, cookie']])
  t.same([(await varies('/error'))[2], (await varies('/hook'))[2], (await varies('/plain'))[2]], ['cookie, x-tenant', 'cookie, x-tenant', undefined])
})

onBothStores('getOrSet runs its factory once for 50 concurrent callers, and again after an invalidation', async (t, store) => {
  const { app } = await build(t, { store })
  const { opened, open } = gate()
  let runs = 0
  const get = () => app.cache.getOrSet('k', async () => { const run = ++runs; await opened; return { run } }, { ttl: '1m', tags: ['t'] })
  const asked = Promise.all(Array.from({ length: 50 }, get))
  await until('the other 49 wait', () => app.cache.stats().coalesced === 49)
  open()
  t.same(await asked, Array(50).fill({ run: 1 }))
  t.equal(runs, 1)
  await settled(app)
  await app.cache.invalidateTags(['t'])
  t.same(await get(), { run: 2 })
  await settled(app)
  t.equal(await app.cache.delete('k'), true)
  t.equal(await app.cache.get('k'), undefined)
})

onBothStores('a factory that throws rejects all concurrent callers, and the next call runs its own', async (t, store) => {
  const { app } = await build(t, { store })
  const { opened, open } = gate()
  const asked = Promise.allSettled(Array.from({ length: 10 }, () => app.cache.getOrSet('k', async () => { await opened; throw new Error('no') })))
  await until('the other 9 wait', () => app.cache.stats().coalesced === 9)
  open()
  t.same((await asked).map(({ status }) => status), Array(10).fill('rejected'))
  t.equal(await app.cache.getOrSet('k', () => 'yes'), 'yes')
})

onBothStores('a client that may not see a response is refused before the cache is asked', async (t, store) => {
  const { app } = await build(t, { store })
  app.get('/guarded', {
    config: { cache: true },
    preHandler: async (request, reply) => { if (request.headers['x-key'] !== 'k') await reply.code(401).send('no') }
  }, async () => 'secret')
  await ask(app, '/guarded', { 'x-key': 'k' })
  await settled(app)
  t.equal((await ask(app, '/guarded', { 'x-key': 'k' })).cache, 'HIT')
  t.match(await ask(app, '/guarded'), { status: 401, body: 'no' })
})

t.test('while Redis hangs the handler answers within the time-out, and afterwards the cache is used again', async t => {
  const server = await startRedis()
  const redis = { url: server.url, answers: true }
  const { app, clock, runs } = await build(t, { store: redis, options: { timeout: 60, explain: () => true } })
  await ask(app, '/items/1')
  await settled(app)
  // L1 is not used 100 ms later.
  await clock.advance(200)
  redis.answers = false
  server.pause()
  const { value: answers, passed } = await advanceWhile(clock, askMany(app, 30, '/items/1'))
  t.same(answers.map(({ status, body }) => `${status} ${body}`), Array(30).fill('200 {"id":"1","run":2}'))
  t.ok(passed <= 70, `${passed} ms`)
  t.equal(runs.count, 2)
  const reported = answers.map(({ headers }) => String(headers['cache-status']))
  t.same(reported.filter(text => text.includes('stored')), [], 'nothing is stored')
  t.ok(reported.some(text => text.includes('detail="store unavailable"')), reported.join('\n'))
  redis.answers = true
  server.resume()
  await advanceUntil(clock, 'the cache is used again', async () => (await ask(app, '/items/1')).cache === 'HIT')
  t.equal((await ask(app, '/items/1')).cache, 'HIT')
})

t.test('the cache works on a Cluster', async t => {
  const { app } = await build(t, { store: 'cluster' }, { tags: ['all'] })
  const askEach = async () => (await Promise.all(Array.from({ length: 10 }, (_, i) => ask(app, `/items/${i}`)))).map(({ cache }) => cache)
  t.same(await askEach(), Array(10).fill('MISS'))
  await settled(app)
  t.same(await askEach(), Array(10).fill('HIT'))
  await app.cache.invalidateTags(['all'])
  t.same(await askEach(), Array(10).fill('MISS'))
})

t.test('every key has a TTL, and a damaged entry is a miss and is replaced', async t => {
  const { app, prefix } = await build(t, { store: 'redis', options: { l1: false } }, { tags: ['*', 'a:b', '{x}'] })
  await ask(app, '/items/1')
  await settled(app)
  t.equal((await ask(app, '/items/1')).cache, 'HIT')
  const client = (await sharedRedis()).client()
  const keys = await client.keys(`${prefix}:*`)
  t.ok(keys.length > 4)
  t.same(keys.filter(key => !/^[\w-]+:cache:(?:(?:entry|tag):[\w#:-]+|path:items\/1)$/.test(key)), [])
  t.same((await Promise.all(keys.map(key => client.pttl(key)))).filter(ttl => ttl <= 0), [])
  for (const key of keys.filter(key => key.includes(':cache:entry'))) await client.set(key, 'damaged')
  t.equal((await ask(app, '/items/1')).cache, 'MISS')
  await settled(app)
  t.equal((await ask(app, '/items/1')).cache, 'HIT')
})

t.test('only routes that are cached have a name in the figures, however many others there are', async t => {
  const { app } = await createCacheApp(t, {})
  for (let i = 0; i < 1000; i++) app.get(`/plain/${i}`, async () => '')
  app.post('/changes', { config: { cache: { invalidates: ['a'] } } }, async () => '')
  app.get('/off', { config: { cache: false } }, async () => '')
  app.get('/cached', { config: { cache: true } }, async () => '')
  for (const [method, url] of [['GET', '/plain/0'], ['POST', '/changes'], ['GET', '/off'], ['GET', '/cached']] as const) await app.inject({ method, url })
  t.match(app.cache.stats(), { misses: 1, invalidations: 1, names: { '/cached': { misses: 1 } } })
  t.same(Object.keys(app.cache.stats().names).filter(name => name !== 'data'), ['/cached'])
})

t.test('options that cannot be used fail at registration, of the plugin and of a route', async t => {
  const code = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'
  for (const options of [{ ttl: 'soon' }, { staleWhileRevalidate: -1 }, { maxEntrySize: 0 }, { maxSize: 5 }, { redis: {} }, { tttl: 1 }, { clock: Date }]) {
    await t.rejects(async () => { await build(t, { options: options as CachePluginOptions }) }, { code }, JSON.stringify(options))
  }
  const { app } = await build(t, {})
  for (const config of [5, 'on', { ttl: 'x' }, { tags: 'a' }, { tags: [''] }, { vary: 'accept' }, { vary: ['*'] }, { vary: ['x a'] }, { vary: [''] }, { private: true }, { public: 1 }, { public: true, private: () => 'a' }, { invalidates: {} }, { tll: 1 }]) {
    t.throws(() => app.get('/wrong', { config: { cache: config as never } }, async () => ''), { code }, JSON.stringify(config))
  }
  await t.rejects(app.cache.getOrSet('', () => 1), { code })
})
