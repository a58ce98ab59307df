import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { Test } from 'tap'
import { rateLimit } from '../../plugins/rate-limit/index.js'
import { ask, askTwice, buildCacheApp, onEachStore, settled } from '../helpers/cache/cache-app.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const promise = onEachStore(server)

/** Registers something before the cache or after it. */
const orders = ['before', 'after'] as const
async function ordered (t: Test, order: typeof orders[number], connection: Parameters<typeof buildCacheApp>[1] & object, register: (app: FastifyInstance) => unknown) {
  const app = await buildCacheApp(t, { ...connection, ...order === 'before' && { before: register } })
  if (order === 'after') await register(app)
  return app
}

const guard = async (request: FastifyRequest, reply: FastifyReply) => {
  if (request.headers['x-key'] !== 'k') return await reply.code(401).send('no')
}

for (const order of orders) {
  for (const hook of ['onRequest', 'preHandler'] as const) {
    promise(`whoever may not see an answer is turned away by an ${hook} hook registered ${order} the cache, also of a plugin`, async (t, connection) => {
      for (const way of ['hook', 'onRoute'] as const) {
        const app = await ordered(t, order, { connection }, app => {
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

  promise(`a rate limit registered ${order} the cache holds for stored answers too, in each hook`, async (t, connection) => {
    for (const hook of ['onRequest', 'preHandler'] as const) {
      const app = await ordered(t, order, { connection }, app => app.register(rateLimit, { max: 2, hook, redis: false }))
      app.get('/', { config: { cache: { hook } } }, async () => 'answer')
      const statuses = []
      for (let i = 0; i < 3; i++) statuses.push((await ask(app, '/')).status)
      t.same(statuses, [200, 200, 429], hook)
      await app.cache.clear()
    }
  })

  promise(`a user's onSend hook registered ${order} the cache changes what is stored, once, and sets headers a request`, async (t, connection) => {
    let id = 0
    const app = await ordered(t, order, { connection }, app => {
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

promise('reply.cacheTags names a tag by which the answer goes, and reply.noCache keeps it out', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
  app.get('/tagged', { config: { cache: true } }, async (_request, reply) => await reply.cacheTags('a', 'b').send('x'))
  app.get('/none', { config: { cache: true } }, async (_request, reply) => await reply.noCache().send('x'))
  await until('it is stored', async () => (await ask(app, '/tagged')).cache === 'HIT')
  await app.cache.invalidateTags(['b'])
  t.equal((await ask(app, '/tagged')).cache, 'MISS')
  t.equal((await askTwice(app, '/none'))[1].cache, 'MISS')
})

promise('HEAD, Range, If-Range and If-None-Match are answered out of a stored whole', async (t, connection) => {
  const app = await buildCacheApp(t, { connection })
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

promise('a ttl may be a function or a tier, and jitter only shortens it', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { tiers: { short: '10s' } } })
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

promise('Cache-Groups tags an answer and Cache-Group-Invalidation takes the group, and targeted fields count first and may be kept back', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { ttl: 'headers', stripTargeted: true } })
  app.get('/grouped', { config: { cache: true } }, async (_request, reply) => await reply.headers({ 'cache-control': 'no-store', 'cdn-cache-control': 'max-age=60', 'cache-groups': '"g", "h"' }).send('x'))
  app.post('/', async (_request, reply) => await reply.header('cache-group-invalidation', '"h"').send('x'))
  const [miss, hit] = await askTwice(app, '/grouped')
  t.same([miss.headers['cdn-cache-control'], hit.headers['cdn-cache-control'], hit.headers['cache-control'], hit.cache], [undefined, undefined, 'no-store', 'HIT'])
  await app.inject({ method: 'POST', url: '/' })
  t.equal((await ask(app, '/grouped')).cache, 'MISS')
})

promise('with staleIfError what is stored stands in for a throw, a 5xx and a handler that takes too long', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { ttl: 20, staleIfError: '1m', explain: () => true } })
  let fails = false
  const ways: Record<string, (reply: FastifyReply) => unknown> = {
    '/throw': () => { throw new Error('no') },
    '/503': reply => reply.code(503).header('x-failed', '1').send('no'),
    '/slow': () => new Promise(() => {})
  }
  for (const [url, way] of Object.entries(ways)) {
    app.get(url, { config: { cache: true }, handlerTimeout: 200 }, async (_request, reply) => fails ? await way(reply) : 'right')
  }
  for (const url of Object.keys(ways)) await ask(app, url)
  await settled()
  await settled()
  fails = true
  for (const url of Object.keys(ways)) {
    const answer = await ask(app, url)
    t.match(answer, { status: 200, cache: 'STALE', body: 'right' }, url)
    t.match(answer.headers['cache-status'], /fwd=stale;fwd-status=50[03];ttl=-/, url)
    t.notOk(answer.headers['x-failed'])
  }
  t.match((await ask(app, '/503?new')).status, 503)
})

promise('hook: "onRequest" answers before validation and preHandlers, and after the onRequest hooks', async (t, connection) => {
  const app = await buildCacheApp(t, { connection, options: { hook: 'onRequest' } })
  const ran: string[] = []
  app.addHook('onRequest', async () => { ran.push('onRequest') })
  app.addHook('preHandler', async () => { ran.push('preHandler') })
  app.get('/', { config: { cache: true } }, async () => 'x')
  t.equal((await askTwice(app, '/'))[1].cache, 'HIT')
  t.same(ran, ['onRequest', 'preHandler', 'onRequest'])
})
