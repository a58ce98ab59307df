import { gunzipSync } from 'node:zlib'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { ask, askTwice, buildCacheApp, onEachStore, settled } from '../helpers/cache-app.js'
import { startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const promise = onEachStore(server)

/** Registers something before the cache or after it. */
const orders = ['before', 'after'] as const
async function ordered (t: Parameters<typeof buildCacheApp>[0], order: typeof orders[number], connection: Parameters<typeof buildCacheApp>[1] & object, register: (app: FastifyInstance) => unknown) {
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
