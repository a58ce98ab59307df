import { request as httpRequest } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import zlib, { gunzipSync } from 'node:zlib'
import type { FastifyInstance, FastifyPluginCallback, FastifyReply, FastifyRequest } from 'fastify'
import { Minipass } from 'minipass'
import t, { type Test } from 'tap'
import { rateLimit } from '../../plugins/rate-limit/index.js'
import { ask, askTwice, createCacheApp, gate, onBothStores, settled } from '../helpers/cache/cache-app.js'
import { advanceWhile, until, type StoreName } from '../helpers/index.js'

// Hooks of others

/** Registers something before the cache or after it. */
const orders = ['before', 'after'] as const
async function ordered (t: Test, order: typeof orders[number], store: StoreName, register: (app: FastifyInstance) => unknown) {
  const { app } = await createCacheApp(t, { store, ...order === 'before' && { before: register } })
  if (order === 'after') await register(app)
  return app
}

const guard = async (request: FastifyRequest, reply: FastifyReply) => {
  if (request.headers['x-key'] !== 'k') return await reply.code(401).send('no')
}

for (const order of orders) {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    onBothStores(`a client that may not see a response is refused by an ${hook} hook registered ${order} the cache, also by one of a plugin`, async (t, store) => {
      for (const way of ['hook', 'onRoute'] as const) {
        const app = await ordered(t, order, store, app => {
          if (way === 'hook') app.addHook(hook, guard)
          else app.addHook('onRoute', route => { if (Array.isArray(route[hook])) (route[hook] as unknown[]).push(guard); else Object.assign(route, { [hook]: [guard] }) })
        })
        app.get('/', { config: { cache: true } }, async () => 'secret')
        const [first, hit] = await askTwice(app, '/', { 'x-key': 'k' })
        t.same([first.cache, hit.cache, hit.body], ['MISS', 'HIT', 'secret'], way)
        t.match(await ask(app, '/'), { status: 401, body: 'no' }, way)
        await app.cache.clear()
      }
    })
  }

  onBothStores(`a rate limit registered ${order} the cache counts stored responses too, in each hook`, async (t, store) => {
    for (const hook of ['onRequest', 'preHandler'] as const) {
      const app = await ordered(t, order, store, app => app.register(rateLimit, { max: 2, hook, redis: false }))
      app.get('/', { config: { cache: { hook } } }, async () => 'answer')
      const statuses = []
      for (let i = 0; i < 3; i++) statuses.push((await ask(app, '/')).status)
      t.same(statuses, [200, 200, 429], hook)
      await app.cache.clear()
    }
  })

  onBothStores(`a user's onSend hook registered ${order} the cache changes the stored response once, and sets headers per request`, async (t, store) => {
    let id = 0
    const app = await ordered(t, order, store, app => {
      app.addHook('onRequest', async (_request, reply) => { reply.header('x-request-id', ++id) })
      app.addHook('onSend', async (_request, reply, payload) => { reply.header('x-sent', id); return `<${String(payload)}>` })
    })
    app.get('/', { config: { cache: true } }, async (_request, reply) => { reply.type('text/html'); return 'body' })
    const [miss, hit] = await askTwice(app, '/')
    t.same([miss.body, hit.body, hit.cache], ['<body>', '<body>', 'HIT'])
    t.match(hit.headers, { 'x-request-id': '2', 'x-sent': '2', 'content-length': '6' })
    t.match(await ask(app, '/', { range: 'bytes=1-2' }), { status: 206, body: 'bo', headers: { 'content-length': '2', 'content-range': 'bytes 1-2/6' } })
    t.match(await ask(app, '/', { 'if-none-match': String(hit.headers['etag']) }), { status: 304, body: '' })
  })
}

onBothStores('reply.cacheTags adds a tag that invalidates the response, and reply.noCache prevents storing', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  app.get('/tagged', { config: { cache: true } }, async (_request, reply) => await reply.cacheTags('a', 'b').send('x'))
  app.get('/none', { config: { cache: true } }, async (_request, reply) => await reply.noCache().send('x'))
  t.equal((await askTwice(app, '/tagged'))[1].cache, 'HIT')
  await app.cache.invalidateTags(['b'])
  t.equal((await ask(app, '/tagged')).cache, 'MISS')
  t.equal((await askTwice(app, '/none'))[1].cache, 'MISS')
})

onBothStores('HEAD, Range, If-Range and If-None-Match are served from a stored complete response', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  app.get('/', { config: { cache: true } }, async (_request, reply) => await reply.type('text/plain').send('0123456789'))
  const [{ headers: { etag } }] = await askTwice(app, '/')
  t.match(await ask(app, '/', {}, { method: 'HEAD' }), { cache: 'HIT', body: '', headers: { 'content-length': '10', etag } })
  const ranges: Array<[range: string, status: number, body: string, contentRange?: string]> = [
    ['bytes=0-0', 206, '0', 'bytes 0-0/10'], ['bytes=-3', 206, '789', 'bytes 7-9/10'], ['bytes=8-99', 206, '89', 'bytes 8-9/10'],
    ['bytes=10-', 416, '', 'bytes */10'], ['bytes=-0', 416, '', 'bytes */10'], ['bytes=3-2', 200, '0123456789'], ['bytes=0-1,3-4', 200, '0123456789'],
    ['lines=0-1', 200, '0123456789'], ['bytes=99999999999999999999-', 416, '', 'bytes */10']
  ]
  for (const [range, status, body, contentRange] of ranges) {
    const answer = await ask(app, '/', { range })
    t.same([answer.status, answer.body, answer.headers['content-range'], answer.headers['content-length']], [status, body, contentRange, String(body.length)], range)
  }
  t.equal((await ask(app, '/', { range: 'bytes=0-0', 'if-range': String(etag) })).status, 206)
  for (const ifRange of ['"other"', `W/${String(etag)}`, new Date().toUTCString()]) t.equal((await ask(app, '/', { range: 'bytes=0-0', 'if-range': ifRange })).status, 200, ifRange)
  for (const field of [String(etag), `W/${String(etag)}`, `"a", ${String(etag)}`, '*']) t.match(await ask(app, '/', { 'if-none-match': field }), { status: 304, body: '' }, field)
  t.match(await ask(app, '/', { 'if-none-match': String(etag), range: 'bytes=0-0' }), { status: 304 })
  t.equal((await ask(app, '/')).body, '0123456789')
})

onBothStores('a ttl may be a function or a tier, and jitter only shortens it', async (t, store) => {
  const { app } = await createCacheApp(t, { store, options: { tiers: { short: '10s' } } })
  app.get('/fn', { config: { cache: { ttl: request => Number(request.query.ttl) } } }, async () => 'x')
  app.get('/bad', { config: { cache: { ttl: () => 'soon' } } }, async () => 'x')
  app.get('/tier', { config: { cache: { ttl: 'short', jitter: 0.5 } } }, async () => 'x')
  const ttlOf = ({ headers }: { headers: Record<string, unknown> }) => Number(/ttl=(-?\d+)/.exec(String(headers['cache-status']))?.[1])
  for (const [url, hit] of [['/fn?ttl=60000', true], ['/fn?ttl=0', false], ['/fn?ttl=-5', false], ['/bad', false]] as const) t.equal((await askTwice(app, url))[1].cache === 'HIT', hit, url)
  for (let i = 0; i < 20; i++) {
    const ttl = ttlOf((await askTwice(app, `/tier?${i}`))[1])
    t.ok(ttl >= 4 && ttl < 10, String(ttl))
  }
})

onBothStores('Cache-Groups tags a response, Cache-Group-Invalidation invalidates the group, and targeted fields take precedence', async (t, store) => {
  const { app } = await createCacheApp(t, { store, options: { ttl: 'headers' } })
  app.get('/grouped', { config: { cache: true } }, async (_request, reply) => await reply.headers({ 'cache-control': 'no-store', 'cdn-cache-control': 'max-age=60', 'cache-groups': '"g", "h"' }).send('x'))
  app.post('/', async (_request, reply) => await reply.header('cache-group-invalidation', '"h"').send('x'))
  const [miss, hit] = await askTwice(app, '/grouped')
  t.same([miss.headers['cdn-cache-control'], hit.headers['cdn-cache-control'], hit.headers['cache-control'], hit.cache], ['max-age=60', 'max-age=60', 'no-store', 'HIT'])
  await app.inject({ method: 'POST', url: '/' })
  t.equal((await ask(app, '/grouped')).cache, 'MISS')
})

onBothStores('with staleIfError the stored response replaces an exception, a 5xx and a handler that times out', async (t, store) => {
  const { app, clock } = await createCacheApp(t, { store, options: { ttl: '1m', staleIfError: '1h', explain: () => true } })
  let fails = false
  const ways: Record<string, (reply: FastifyReply) => unknown> = {
    '/throw': () => { throw new Error('no') },
    '/503': reply => reply.code(503).header('x-failed', '1').send('no'),
    '/slow': () => new Promise(() => {})
  }
  for (const [url, way] of Object.entries(ways)) {
    // Fastify's own timer: long enough that a busy machine reads the stored response before.
    const limit = url === '/slow' ? { handlerTimeout: 500 } : {}
    app.get(url, { config: { cache: true }, ...limit }, async (_request, reply) => fails ? await way(reply) : 'right')
  }
  for (const url of Object.keys(ways)) await ask(app, url)
  await settled(app)
  await clock.advance('61s')
  fails = true
  for (const url of Object.keys(ways)) {
    const answer = await ask(app, url)
    t.match(answer, { status: 200, cache: 'STALE', body: 'right' }, url)
    t.match(answer.headers['cache-status'], /fwd=stale;fwd-status=50[03];ttl=-/, url)
    t.notOk(answer.headers['x-failed'])
  }
  t.match((await ask(app, '/503?new')).status, 503)
})

onBothStores('with staleIfError a client whose reply fails while it waits for another request gets the stored response', async (t, store) => {
  const { app, clock } = await createCacheApp(t, { store, options: { ttl: '1m', staleIfError: '1h' } })
  const replies: FastifyReply[] = []
  const { opened, open } = gate()
  app.addHook('onRequest', (_request, reply, done) => { replies.push(reply); done() })
  app.get('/', { config: { cache: true } }, async () => {
    if (replies.length > 1) await opened
    return `answer ${replies.length}`
  })
  await ask(app, '/')
  await settled(app)
  await clock.advance('61s')
  const leading = ask(app, '/')
  await until('a second fill', () => app.cache.stats().misses === 2)
  const waiting = ask(app, '/')
  await until('a waiting request', () => app.cache.stats().coalesced === 1)
  replies[2]!.code(503).send('late')
  t.match(await waiting, { status: 200, cache: 'STALE', body: 'answer 1' })
  open()
  t.match(await leading, { status: 200, cache: 'MISS' })
})

onBothStores('a reply that is sent while the cache looks the request up keeps no later request waiting', async (t, store) => {
  const { app, clock } = await createCacheApp(t, { store })
  const { opened, open } = gate()
  let early: FastifyReply | undefined
  app.get('/', {
    preHandler: (_request, reply, done) => { early = reply; done() },
    config: { cache: { tags: async () => { await opened; return ['a'] } } }
  }, async () => 'x')
  const answer = ask(app, '/')
  await until('a lookup', () => early !== undefined)
  early!.code(503).send('late')
  t.match(await answer, { status: 503, body: 'late' })
  open()
  await settled(app)
  const { value, passed } = await advanceWhile(clock, ask(app, '/'))
  t.match(value, { status: 200, body: 'x' })
  t.ok(passed < 1000, `after ${passed} ms of the clock`)
})

onBothStores('cacheTags() and noCache() take effect in hooks before the lookup', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  app.addHook('onRequest', async (request, reply) => {
    reply.cacheTags('tenant')
    if (request.headers['x-preview'] !== undefined) reply.noCache()
  })
  let runs = 0
  app.get('/', { config: { cache: { tags: ['page'], harmless: ['x-preview'] } } }, async () => `${++runs}`)
  const bodyOf = async (headers = {}) => (await ask(app, '/', headers)).body
  t.equal((await askTwice(app, '/'))[1].cache, 'HIT')
  t.same([await bodyOf({ 'x-preview': '1' }), await bodyOf({ 'x-preview': '1' }), await bodyOf()], ['2', '3', '1'], 'excluded requests run the handler, and leave the stored response')
  await app.cache.invalidateTags(['tenant'])
  t.equal(await bodyOf(), '4')
})

onBothStores('noCache() and cacheTags() take effect while the cache looks the request up', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  const replies = new WeakMap<FastifyRequest, FastifyReply>()
  app.addHook('preHandler', (request, reply, done) => { replies.set(request, reply); done() })
  app.get('/refused', { config: { cache: { tags: request => { replies.get(request)!.noCache(); return [] } } } }, async () => 'x')
  app.get('/tagged', { config: { cache: { tags: request => { replies.get(request)!.cacheTags('late'); return [] } } } }, async () => 'x')
  t.equal((await askTwice(app, '/refused'))[1].cache, 'MISS')
  t.equal((await askTwice(app, '/tagged'))[1].cache, 'HIT')
  await app.cache.invalidateTags(['late'])
  t.equal((await ask(app, '/tagged')).cache, 'MISS')
})

onBothStores('hook: "onRequest" responds before validation and preHandlers, and after the onRequest hooks', async (t, store) => {
  const { app } = await createCacheApp(t, { store, options: { hook: 'onRequest' } })
  const ran: string[] = []
  app.addHook('onRequest', async () => { ran.push('onRequest') })
  app.addHook('preHandler', async () => { ran.push('preHandler') })
  app.get('/', { config: { cache: true } }, async () => 'x')
  t.equal((await askTwice(app, '/'))[1].cache, 'HIT')
  t.same(ran, ['onRequest', 'preHandler', 'onRequest'])
})

onBothStores('a response that is revalidated on each request retains its type, is REVALIDATED, and passes no client\'s cookie to another client', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  app.get('/a', { config: { cache: { ttl: 'headers' } } }, async (request, reply) => {
    reply.header('cache-control', 'max-age=0').header('etag', '"x"')
    if (request.headers['if-none-match'] === '"x"') return reply.code(304).header('set-cookie', 'sid=secret').send('')
    return { a: 1 }
  })
  await ask(app, '/a')
  for (let times = 1; times <= 3; times++) {
    await settled(app)
    t.equal(app.cache.stats().stored, times)
    const { status, cache, headers, body } = await ask(app, '/a')
    t.same([status, cache, headers['content-type'], body], [200, 'REVALIDATED', 'application/json; charset=utf-8', '{"a":1}'])
  }
  await settled(app)
  const known = await ask(app, '/a', { 'if-none-match': '"x"' })
  t.same([known.status, known.body, known.headers['set-cookie']], [304, '', 'sid=secret'], 'the client whose request the handler answered gets its cookie')
})

onBothStores('a Response as payload is stored or refused by its own status and headers, and one that failed invalidates nothing', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  const payloads: Record<string, () => Response> = {
    '/json': () => Response.json({ a: 'ä' }, { headers: { 'x-a': '1' } }),
    '/created': () => new Response(webStream(3), { status: 203, headers: { etag: '"e"', 'content-type': 'text/csv' } }),
    '/empty': () => new Response(null, { status: 204 }),
    '/missing': () => new Response('no', { status: 404 }),
    '/private': () => new Response('mine', { headers: { 'cache-control': 'private' } }),
    '/cookie': () => new Response('mine', { headers: { 'set-cookie': 'a=1' } })
  }
  for (const [url, payload] of Object.entries(payloads)) app.get(url, { config: { cache: true } }, async () => payload())
  app.put('/json', async () => new Response('failed', { status: 500 }))
  app.get('/owned', { config: { cache: { private: request => String(request.headers['x-user']) } } }, async () => new Response('mine', { headers: { 'cache-control': 'max-age=60' } }))
  for (const [url, payload] of Object.entries(payloads)) {
    const [miss, second] = await askTwice(app, url)
    const isStored = ['/json', '/created', '/empty'].includes(url)
    const expected = payload()
    t.match(miss, { status: expected.status, body: await expected.text(), cache: 'MISS' }, url)
    t.match(second, { status: miss.status, body: miss.body, cache: isStored ? 'HIT' : 'MISS' }, url)
    for (const name of ['content-type', 'x-a', 'etag']) if (isStored && miss.headers[name] !== undefined) t.equal(second.headers[name], miss.headers[name], `${url}: ${name}`)
  }
  t.equal((await ask(app, '/json', {}, { method: 'PUT' })).status, 500)
  t.equal((await ask(app, '/json')).cache, 'HIT', 'it is still there')
  t.equal((await ask(app, '/owned', { 'x-user': 'ann' })).headers['cache-control'], 'max-age=60, private')
})

onBothStores('an error that the handler throws is stored where statuses lists its status, and no other', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  const fail = (statusCode: number) => async () => { throw Object.assign(new Error('failed'), { statusCode }) }
  const listed = { config: { cache: { statuses: [200, 404, 503] } } }
  app.get('/404', listed, fail(404))
  app.get('/503', listed, fail(503))
  app.get('/410', listed, fail(410))
  app.get('/default', { config: { cache: true } }, fail(404))
  app.get('/headers', { config: { cache: { ttl: 'headers', statuses: [404] } } }, async (_request, reply) => { reply.header('cache-control', 'max-age=60'); return await fail(404)() })
  app.get('/excused', { ...listed, errorHandler: async (_error, _request, reply) => await reply.code(200).send('sorry') }, fail(500))
  app.get('/not-found', listed, (_request, reply) => { reply.callNotFound() })
  for (const [url, second] of Object.entries({ '/404': 'HIT', '/503': 'HIT', '/410': 'MISS', '/default': 'MISS', '/headers': 'MISS', '/excused': 'MISS', '/not-found': 'HIT' })) {
    const [first, again] = await askTwice(app, url)
    t.same([again.cache, again.status, again.body], [second, first.status, first.body], url)
  }
})

onBothStores('a ttl function may return 0 or less, Infinity, text or a promise; other results are not stored and logged once with the route', async (t, store) => {
  const { app, warnings } = await createCacheApp(t, { store, options: { tiers: { short: '10s' } } })
  const results: Array<[result: unknown, ttl: number | undefined]> = [['1m', 60], [Promise.resolve(5000), 5], ['short', 10], [Infinity, 15 * 24 * 3600], [1e12, 15 * 24 * 3600], [0, undefined], [-5000, undefined],
    [NaN, undefined], ['soon', undefined], ['-5m', undefined], [undefined, undefined], [null, undefined], [{}, undefined], [Promise.resolve(true), undefined], ['headers', undefined]]
  for (const [index, [result]] of results.entries()) app.get(`/${index}`, { config: { cache: { ttl: () => result as never } } }, async () => 'body')
  for (const [index, [result, ttl]] of results.entries()) {
    const [, second] = await askTwice(app, `/${index}`)
    t.same([second.status, second.body, second.cache], [200, 'body', ttl === undefined ? 'MISS' : 'HIT'], String(result))
    if (ttl !== undefined) t.match(second.headers['cache-status'], `;ttl=${ttl}`)
  }
  const refused = results.flatMap(([result, ttl], index) => ttl === undefined && typeof result !== 'number' ? [index] : [])
  t.same(warnings().map(text => /^cache: route (\S+): the function "ttl"/.exec(text)?.[1]), [7, ...refused].map(index => `/${index}`), 'once a route')
  t.match(warnings()[0], /returned NaN: the response is not stored; .*15 days/)
  await t.rejects(app.cache.set('k', 1, { ttl: () => NaN }), { code: 'FST_REDIS_SUITE_CACHE_INVALID_VALUE', message: /"ttl" returned NaN; it must return milliseconds/ })
  await t.rejects(app.cache.getOrSet('k', () => 1, { ttl: async () => 'soon' }), { code: 'FST_REDIS_SUITE_CACHE_INVALID_VALUE' })
  await app.cache.set('past', 1, { ttl: () => -1 })
  await app.cache.set('long', 1, { ttl: () => Infinity })
  t.same([await app.cache.has('past'), await app.cache.has('long')], [false, true])
})

onBothStores('of more variants than maxVariants the one that was used least recently goes, on hits of this process', async (t, store) => {
  for (const l1 of [1024 ** 2, false] as const) {
    const { app } = await createCacheApp(t, { store, options: { l1, maxVariants: 3 } })
    app.get('/', { config: { cache: true } }, async (request, reply) => await reply.header('vary', 'x-lang').send(request.headers['x-lang']))
    const request = async (lang: string) => { const { cache } = await ask(app, '/', { 'x-lang': lang }); await settled(app); return cache }
    for (const lang of ['a', 'b', 'c']) t.equal(await request(lang), 'MISS')
    for (const lang of ['b', 'a', 'c', 'a']) t.equal(await request(lang), 'HIT', lang)
    t.equal(await request('d'), 'MISS', 'b goes')
    for (const lang of ['a', 'c', 'd']) t.equal(await request(lang), 'HIT', lang)
    t.equal(await request('b'), 'MISS', 'a goes')
    for (const lang of ['c', 'd', 'b']) t.equal(await request(lang), 'HIT', lang)
  }
})

onBothStores('a 304 of a cached route has no Content-Length, on a miss, a hit and for HEAD', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  app.get('/', { config: { cache: true } }, async (_request, reply) => await reply.header('etag', '"e"').send('body'))
  app.get('/own', { config: { cache: { ttl: 'headers' } } }, async (request, reply) => request.headers['if-none-match'] === undefined ? 'body' : await reply.code(304).send(''))
  const origin = await app.listen({ port: 0, host: '127.0.0.1' })
  const condition = { 'if-none-match': '"e"' }
  for (const [method, url] of [['GET', '/'], ['GET', '/'], ['HEAD', '/'], ['GET', '/own'], ['HEAD', '/own']] as const) {
    const answer = await new Promise<{ status: number | undefined, headers: object }>((resolve, reject) => {
      httpRequest(origin + url, { method, headers: condition }, response => { resolve({ status: response.statusCode, headers: response.headers }); response.resume() }).on('error', reject).end()
    })
    t.equal(answer.status, 304, `${method} ${url}`)
    t.notOk('content-length' in answer.headers, `${method} ${url}`)
    await settled(app)
  }
  t.match(await ask(app, '/'), { cache: 'HIT', body: 'body' })
})

// Content codings

const load = async (name: string) => await import(name).then(module => module.default, () => undefined) as FastifyPluginCallback<object>
const [compress, etag] = [await load('@fastify/compress'), await load('@fastify/etag')]
const BODY = JSON.stringify({ text: 'abc'.repeat(2000) })

const isInstalled = [compress, etag].every(plugin => typeof plugin === 'function')
if (!isInstalled) t.pass('@fastify/compress and @fastify/etag are not installed', { skip: true })

/** Options of @fastify/compress, and a count of what it encodes. @param isSync - whether it encodes at once, or as a stream */
function counted (isSync: boolean) {
  const count = { runs: 0 }
  const methods = ['createGzip', 'createBrotliCompress', 'createDeflate', 'gzipSync', 'brotliCompressSync', 'deflateSync'] as const
  const counting = Object.fromEntries(methods.map(name => [name, (...args: never[]) => { count.runs++; return (zlib[name] as (...args: never[]) => unknown)(...args) }]))
  return { count, options: { zlib: counting, encodings: ['br', 'gzip', 'deflate'], syncThreshold: isSync ? 1e6 : 0 } }
}
const DECODERS: Record<string, (body: Buffer) => Buffer> = { gzip: gunzipSync, br: zlib.brotliDecompressSync, deflate: zlib.inflateSync }
const decoded = ({ headers, bytes }: { headers: Record<string, unknown>, bytes: Buffer }) => (DECODERS[String(headers['content-encoding'])]?.(bytes) ?? bytes).toString()

for (const order of isInstalled ? ['before', 'after'] as const : []) {
  for (const isSync of [true, false]) {
    onBothStores(`with @fastify/compress ${isSync ? '' : 'as a stream '}registered ${order} the cache the handler runs once, and each coding is encoded once and stored beside the uncoded response`, async (t, store) => {
      for (const first of ['gzip', 'identity'] as const) {
        const { count, options } = counted(isSync)
        const register = async (app: FastifyInstance) => { await app.register(compress, options); await app.register(etag) }
        const { app } = await createCacheApp(t, { store, ...order === 'before' && { before: register } })
        if (order === 'after') await register(app)
        let runs = 0
        app.get('/', { config: { cache: { tags: ['page'] } } }, async (_request, reply) => { runs++; return await reply.type('application/json').send(BODY) })
        const seen = new Map<string, Awaited<ReturnType<typeof ask>>>()
        for (const accepted of [first, 'gzip', 'br', 'identity', 'gzip', 'br', 'gzip;q=0.5, br', 'deflate', 'gzip;q=0.5, br', 'deflate', 'identity']) {
          const answer = await ask(app, '/', { 'accept-encoding': accepted })
          await settled(app)
          t.same([answer.status, decoded(answer)], [200, BODY], accepted)
          const coding = accepted.includes('br') ? 'br' : accepted
          t.equal(answer.headers['content-encoding'] ?? 'identity', coding)
          const known = seen.get(coding)
          if (known !== undefined) t.ok(answer.bytes.equals(known.bytes), 'the same bytes')
          if (coding !== 'identity') t.match(answer.headers['vary'], /accept-encoding/i)
          seen.set(coding, answer)
        }
        t.equal(runs, 1, 'of the handler')
        // A stream that is not read encodes nothing.
        const encodings = isSync ? 4 : 3
        t.equal(count.runs, encodings, 'one for each coding, and one for an Accept-Encoding of which the choice was not known')
        t.equal(app.cache.stats().stored, 1)
        const tags = [...seen.values()].map(({ headers }) => String(headers['etag']))
        t.equal(new Set(tags.map(tag => tag.replace('W/', ''))).size, 1)
        t.same(tags.map(tag => tag.startsWith('W/')).sort(), [false, true, true, true], 'only the uncoded response has a strong one')
        for (const [coding, { headers }] of seen) t.match(await ask(app, '/', { 'accept-encoding': coding, 'if-none-match': String(headers['etag']) }), { status: 304, body: '' })
        const coded = seen.get('gzip')
        const part = await ask(app, '/', { 'accept-encoding': 'gzip', range: 'bytes=0-9' })
        t.ok(part.status === 206 && part.headers['content-encoding'] === 'gzip' && part.bytes.equals(coded?.bytes.subarray(0, 10) ?? Buffer.alloc(0)), 'a part is one of what is stored')
        t.match(await ask(app, '/', { 'accept-encoding': 'gzip', 'x-no-compression': '1' }), { cache: 'HIT', body: BODY })
        t.equal(count.runs, encodings)
        await app.cache.invalidateTags(['page'])
        t.match(await ask(app, '/', { 'accept-encoding': 'gzip' }), { cache: 'MISS' })
        t.equal(runs, 2)
      }
    })
  }

  onBothStores(`a response stored without a content coding is right for a client that accepts one, with @fastify/compress registered ${order} the cache`, async (t, store) => {
    const register = async (app: FastifyInstance) => { await app.register(compress) }
    const { app } = await createCacheApp(t, { store, ...order === 'before' && { before: register } })
    if (order === 'after') await register(app)
    app.get('/', { config: { cache: true } }, async (_request, reply) => await reply.type('application/json').send(BODY))
    const [plain, coded] = await askTwice(app, '/', {}, { 'accept-encoding': 'gzip' })
    t.same([plain.body, coded.headers['content-encoding'], decoded(coded)], [BODY, 'gzip', BODY])
    t.not(coded.headers['etag'], plain.headers['etag'], 'bytes that differ have strong tags that differ')
  })
}

onBothStores('a response that another hook changes has a correct encoded copy, and one that the handler encoded is stored by Vary', async (t, store) => {
  if (!isInstalled) return
  const { count, options } = counted(true)
  const { app, apps } = await createCacheApp(t, { store, instances: 2 })
  let runs = 0
  for (const each of apps) {
    await each.register(compress, options)
    const wrap = async (_request: unknown, _reply: unknown, payload: unknown) => `<${String(payload)}>`
    each.get('/changed', { config: { cache: true }, onSend: wrap as never }, async (_request, reply) => await reply.type('text/plain').send(BODY))
    each.get('/own', { config: { cache: true } }, async (request, reply) => {
      const isCoded = request.headers['accept-encoding'] === 'gzip'
      runs++
      if (isCoded) reply.header('content-encoding', 'gzip')
      return await reply.header('vary', 'accept-encoding').type('text/plain').send(isCoded ? zlib.gzipSync('own') : 'own')
    })
  }
  for (const [first, second] of [['identity', 'gzip'], ['gzip', 'identity']] as const) {
    for (const accepted of [first, second, second, first]) {
      const answer = await ask(app, '/changed', { 'accept-encoding': accepted })
      await settled(app)
      t.equal(decoded(answer), `<${BODY}>`, `${first} first, then ${accepted}`)
    }
    await app.cache.clear()
  }
  for (const accepted of ['gzip', 'identity', 'gzip', 'identity']) {
    const answer = await ask(app, '/own', { 'accept-encoding': accepted })
    await settled(app)
    t.same([answer.headers['content-encoding'] ?? 'identity', decoded(answer)], [accepted, 'own'])
  }
  t.equal(runs, 2)
  const [, other] = apps
  if (store === 'memory' || other === undefined) return
  const before = (await ask(app, '/changed', { 'accept-encoding': 'gzip' }), await settled(app), count.runs)
  const answers = [await ask(other, '/changed', { 'accept-encoding': 'gzip' }), await ask(other, '/changed', { 'accept-encoding': 'gzip' })]
  t.same(answers.map(answer => [answer.cache, decoded(answer)]), [['HIT', `<${BODY}>`], ['HIT', `<${BODY}>`]])
  t.equal(count.runs, before + 1, 'another instance learns the choice once, and finds the copy')
})

// Bodies

/** A stream of ten bytes a turn of the event loop, which waits after the first ten until it may continue. */
async function * chunks (count: number, goesOn = Promise.resolve()) {
  for (let i = 0; i < count; i++) {
    if (i > 0) await goesOn
    await new Promise(resolve => setImmediate(resolve))
    yield Buffer.alloc(10, 97 + i % 26)
  }
}

const webStream = (count: number) => ReadableStream.from(chunks(count)) as ReadableStream<Uint8Array>

/** Sends a request over a connection, and closes it after the first bytes of the body or when `signal` aborts. */
async function hangUp (address: AddressInfo, path: string, signal?: AbortSignal): Promise<void> {
  await new Promise<void>(resolve => {
    const client = httpRequest({ port: address.port, path }, response => {
      if (signal === undefined) response.once('data', () => client.destroy())
    })
    client.on('error', () => {}).on('close', resolve).end()
    signal?.addEventListener('abort', () => client.destroy())
  })
}

onBothStores('a stream of Node.js or of the web is stored when it is complete, and a string, Buffer or typed array as it is', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  const bodies: Record<string, () => unknown> = {
    '/readable': () => Readable.from(chunks(5)),
    '/strings': () => Readable.from(['ä', 'b'], { objectMode: false }),
    '/web': () => webStream(5),
    '/empty-stream': () => Readable.from([]),
    '/other-library': () => { const stream = new Minipass(); stream.write('a'); stream.end('b'); return stream },
    '/string': () => 'ä',
    '/buffer': () => Buffer.from([0, 255]),
    '/typed': () => new Uint16Array([1, 2, 3]).subarray(1),
    '/null': () => null,
    '/object': () => ({ a: 'ä' })
  }
  for (const [url, body] of Object.entries(bodies)) app.get(url, { config: { cache: true } }, (_request, reply) => { reply.send(body()) })
  for (const url of Object.keys(bodies)) {
    const [miss, hit] = await askTwice(app, url)
    t.same([miss.cache, hit.cache, hit.bytes, hit.headers['content-type']], ['MISS', 'HIT', miss.bytes, miss.headers['content-type']], url)
  }
})

onBothStores('a stream that is too long, breaks off or contradicts its Content-Length is sent and not stored', async (t, store) => {
  const { app } = await createCacheApp(t, { store, options: { maxEntrySize: 100 } })
  app.get('/long', { config: { cache: true } }, (_request, reply) => { reply.send(Readable.from(chunks(20))) })
  app.get('/long-web', { config: { cache: true } }, (_request, reply) => { reply.send(webStream(20)) })
  app.get('/said', { config: { cache: true } }, (_request, reply) => { reply.header('content-length', '200').send(Readable.from(chunks(20))) })
  app.get('/short', { config: { cache: true } }, (_request, reply) => { reply.header('content-length', '100').send(Readable.from(chunks(5))) })
  app.get('/broken', { config: { cache: true } }, (_request, reply) => {
    reply.send(Readable.from((async function * () { yield * chunks(3); throw new Error('broke off') })()))
  })
  app.get('/destroyed', { config: { cache: true } }, (_request, reply) => {
    const body = new Readable({ read () {} })
    body.push('x')
    setImmediate(() => body.destroy())
    reply.send(body)
  })
  app.get('/broken-web', { config: { cache: true } }, (_request, reply) => {
    reply.send(ReadableStream.from((async function * () { yield * chunks(3); throw new Error('broke off') })()))
  })
  for (const url of ['/long', '/long-web', '/said', '/short', '/broken', '/destroyed', '/broken-web']) {
    const answers = []
    for (let i = 0; i < 2; i++) {
      answers.push(await ask(app, url).catch((error: Error) => error))
      await settled(app)
    }
    for (const answer of answers) if (!(answer instanceof Error)) t.equal(answer.cache, 'MISS', url)
    if (url.startsWith('/long')) t.same(answers.map(answer => answer instanceof Error ? 0 : answer.bytes.length), [200, 200])
  }
  t.equal(app.cache.stats().stored, 0)
})

onBothStores('a client that disconnects in the middle of a stream leaves no truncated response, and its followers do not wait', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  const { opened, open } = gate()
  let runs = 0
  app.get('/slow', { config: { cache: true } }, (_request, reply) => { reply.send(Readable.from(chunks(20, ++runs === 1 ? opened : undefined))) })
  await app.listen({ port: 0 })
  const leader = hangUp(app.server.address() as AddressInfo, '/slow')
  await until('the handler runs', () => runs === 1)
  // The test's clock stands still: no time-out ends their wait.
  const followers = Promise.all([ask(app, '/slow'), ask(app, '/slow')])
  await leader
  open()
  t.same((await followers).map(({ bytes }) => bytes.length), [200, 200])
  await settled(app)
  t.equal((await ask(app, '/slow')).bytes.length, 200)
})

onBothStores('a response is stored although its client disconnects before it', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  const { opened, open } = gate()
  const state = { runs: 0, isClosed: false }
  app.get('/slow', { config: { cache: true } }, async (_request, reply) => {
    state.runs++
    reply.raw.once('close', () => { state.isClosed = true })
    await opened
    return 'whole'
  })
  await app.listen({ port: 0 })
  const controller = new AbortController()
  const leader = hangUp(app.server.address() as AddressInfo, '/slow', controller.signal)
  await until('the handler runs', () => state.runs === 1)
  const follower = ask(app, '/slow')
  await until('the follower waits', () => app.cache.stats().coalesced === 1)
  controller.abort()
  await leader
  await until('the server notices it', () => state.isClosed)
  open()
  t.same([(await follower).body, state.runs], ['whole', 1])
  await settled(app)
  t.match(await ask(app, '/slow'), { cache: 'HIT', body: 'whole' })
})

onBothStores('a handler that hijacks the reply, writes to it or calls the 404 handler stores nothing, and no request waits', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  const open: Array<() => void> = []
  app.get('/hijack', { config: { cache: true } }, (_request, reply) => {
    reply.hijack()
    reply.raw.write('own')
    open.push(() => reply.raw.end())
  })
  app.get('/raw', { config: { cache: true } }, (_request, reply) => { setImmediate(() => reply.raw.end('own')) })
  app.get('/missing', { config: { cache: true } }, (_request, reply) => { reply.callNotFound() })
  app.get('/no-content', { config: { cache: true } }, (_request, reply) => { reply.code(204).send(Readable.from(chunks(2))) })
  app.get('/response', { config: { cache: true } }, (_request, reply) => { reply.send(new Response('x', { status: 500 })) })
  // The test's clock stands still: a request that waited for the timeout of another request would never end.
  for (const url of ['/hijack', '/raw', '/missing', '/no-content', '/response']) {
    for (let round = 0; round < 2; round++) {
      const answers = Promise.all(Array.from({ length: 3 }, () => ask(app, url)))
      if (url === '/hijack') await until('all of them stream at once', () => open.length === 3)
      for (const end of open.splice(0)) end()
      t.equal(new Set((await answers).map(answer => answer.body)).size, 1, url)
      await settled(app)
    }
  }
  t.ok(app.cache.stats().stored <= 1, 'at most what has no content')
})

onBothStores('a response with a header that cannot be sent is 500 and is not stored: the next request runs the handler', async (t, store) => {
  const { app } = await createCacheApp(t, { store })
  let runs = 0
  app.get('/', { config: { cache: { ttl: '1h' } } }, async (_, reply) => {
    if (++runs === 1) reply.header('x-name', '€')
    return `run ${runs}`
  })
  t.match(await askTwice(app, '/'), [{ status: 500 }, { status: 200, body: 'run 2', cache: 'MISS' }])
  await settled(app)
  t.match(await ask(app, '/'), { status: 200, body: 'run 2', cache: 'HIT' })
})

onBothStores('a 304 with a header that cannot be sent confirms the stored response, and adds no header to it', async (t, store) => {
  const { app, clock } = await createCacheApp(t, { store })
  let runs = 0
  app.get('/', { config: { cache: { ttl: '1m' } } }, async (_, reply) => {
    reply.header('etag', '"a"')
    if (++runs === 1) return 'run 1'
    return await reply.header('x-name', 'a\r\nb').code(304).send()
  })
  t.match(await ask(app, '/'), { status: 200, body: 'run 1' })
  await settled(app)
  await clock.advance('90s')
  t.match(await ask(app, '/'), { status: 200, body: 'run 1' })
  t.equal(runs, 2)
})
