import { gunzipSync } from 'node:zlib'
import type { FastifyInstance, FastifyPluginCallback } from 'fastify'
import t from 'tap'
import { ask, askTwice, buildCacheApp, onEachStore, settled } from '../helpers/cache/cache-app.js'
import { startRedis } from '../helpers/index.js'

const load = async (name: string) => await import(name).then(module => module.default, () => undefined) as FastifyPluginCallback<{ encodings?: string[] }>
const [compress, etag] = [await load('@fastify/compress'), await load('@fastify/etag')]
const promise = onEachStore(await startRedis())
const BODY = JSON.stringify({ text: 'abc'.repeat(2000) })

const isInstalled = [compress, etag].every(plugin => typeof plugin === 'function')
if (!isInstalled) t.pass('@fastify/compress and @fastify/etag are not installed', { skip: true })

for (const order of isInstalled ? ['before', 'after'] as const : []) {
  promise(`with @fastify/compress and @fastify/etag registered ${order} the cache what is stored is what was sent, one a coding`, async (t, connection) => {
    const register = async (app: FastifyInstance) => { await app.register(compress, { encodings: ['gzip', 'br', 'deflate'] }); await app.register(etag) }
    const app = await buildCacheApp(t, { connection, ...order === 'before' && { before: register } })
    if (order === 'after') await register(app)
    let runs = 0
    app.get('/', { config: { cache: true } }, async (_request, reply) => { runs++; return await reply.type('application/json').send(BODY) })
    for (const [i, coding] of ['gzip', 'br', 'deflate'].entries()) {
      const [miss, hit] = await askTwice(app, '/', { 'accept-encoding': coding })
      t.same([miss.headers['content-encoding'], hit.headers['content-encoding'], hit.cache, runs], [coding, coding, 'HIT', i + 1])
      t.ok(hit.bytes.equals(miss.bytes), 'byte for byte')
      t.match(await ask(app, '/', { 'accept-encoding': coding, 'if-none-match': String(hit.headers['etag']) }), { status: 304, body: '' })
      const part = await ask(app, '/', { 'accept-encoding': coding, range: 'bytes=0-9' })
      t.ok(part.status === 206 && part.bytes.equals(hit.bytes.subarray(0, 10)), 'a part is one of what is stored')
    }
    const [plain, again] = await askTwice(app, '/')
    t.same([plain.body, again.body, again.headers['content-encoding']], [BODY, BODY, undefined])
    t.equal(app.cache.stats().stored, 4)
    await settled()
    t.equal((await ask(app, '/', { 'accept-encoding': 'gzip' })).cache, 'HIT')
  })

  promise(`what was stored for one that takes no coding is right for one that does, with @fastify/compress registered ${order} the cache`, async (t, connection) => {
    const register = async (app: FastifyInstance) => { await app.register(compress) }
    const app = await buildCacheApp(t, { connection, ...order === 'before' && { before: register } })
    if (order === 'after') await register(app)
    app.get('/', { config: { cache: true } }, async (_request, reply) => await reply.type('application/json').send(BODY))
    const [plain, coded] = await askTwice(app, '/', {}, { 'accept-encoding': 'gzip' })
    t.equal(plain.body, BODY)
    const body = coded.headers['content-encoding'] === 'gzip' ? gunzipSync(coded.bytes).toString() : coded.body
    t.equal(body, BODY)
    if (coded.headers['content-encoding'] === 'gzip') t.not(coded.headers['etag'], plain.headers['etag'], 'bytes that differ have strong tags that differ')
    const part = await ask(app, '/', { 'accept-encoding': 'gzip', range: 'bytes=0-9' })
    t.same([part.status, part.body, part.headers['content-encoding']], [206, BODY.slice(0, 10), undefined])
  })
}
