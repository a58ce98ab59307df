import compress from '@fastify/compress'
import cors from '@fastify/cors'
import etag from '@fastify/etag'
import helmet from '@fastify/helmet'
import type { FastifyInstance } from 'fastify'
import { brotliDecompressSync, gunzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { idempotency } from '../../plugins/idempotency/index.js'
import { rateLimit } from '../../plugins/rate-limit/index.js'
import { ask, createCacheApp } from '../helpers/cache/cache-app.js'
import { createShop, keepsPromises, type Promises } from '../helpers/compose/shop.js'
import { injected } from '../helpers/compose/visitors.js'
import { createTestApp, forEachStore, until, type StoreName } from '../helpers/index.js'

const promise = (name: string, test: (t: Test, store: StoreName) => Promise<unknown>) =>
  forEachStore(['memory', 'redis'], store => { t.test(`${store}: ${name}`, t => test(t, store)) })
const ORIGINS = ['https://a.example', 'https://b.example']

/** Registers other plugins before the cache or after it. */
async function build (t: Test, order: 'before' | 'after', store: StoreName, register: (app: FastifyInstance) => unknown): Promise<FastifyInstance> {
  const { app } = await createCacheApp(t, { store, ...order === 'before' && { before: register } })
  if (order === 'after') await register(app)
  return app
}

async function hit (app: FastifyInstance, headers: Record<string, string> = {}) {
  let answer = await ask(app, '/', headers)
  await until('it is a hit', async () => { answer = await ask(app, '/', headers); return answer.cache === 'HIT' })
  return answer
}

for (const order of ['before', 'after'] as const) {
  for (const hook of ['onRequest', 'preHandler', 'preSerialization'] as const) {
    promise(`with @fastify/cors in ${hook} registered ${order} the cache no origin gets the Access-Control-Allow-Origin of another`, async (t, store) => {
      const app = await build(t, order, store, app => app.register(cors, { origin: ORIGINS, hook }))
      app.get('/', { config: { cache: true } }, async () => ({ answer: 1 }))
      for (const origin of [...ORIGINS, 'https://evil.example', undefined]) {
        const allowed = ORIGINS.find(each => each === origin)
        const { headers, body } = await hit(app, origin === undefined ? {} : { origin })
        t.same([headers['access-control-allow-origin'], body], [allowed, '{"answer":1}'], String(origin))
        t.match(headers['vary'], /origin/i, 'caches on the way keep them apart too')
      }
    })
  }

  promise(`a preflight of @fastify/cors registered ${order} the cache is answered by it, and is neither cached nor limited`, async (t, store) => {
    const app = await build(t, order, store, async app => {
      await app.register(cors, { origin: ORIGINS })
      await app.register(rateLimit, { max: 1, redis: false })
    })
    app.get('/', { config: { cache: true } }, async () => 'answer')
    for (const origin of [...ORIGINS, ...ORIGINS]) {
      const { status, headers, cache } = await ask(app, '/', { origin, 'access-control-request-method': 'GET' }, { method: 'OPTIONS' })
      t.match({ status, allowed: headers['access-control-allow-origin'], cache, limit: headers['x-ratelimit-limit'] }, { status: 204, allowed: origin, cache: 'undefined', limit: undefined })
    }
    t.same([(await ask(app, '/')).status, (await ask(app, '/')).status], [200, 429])
  })

  promise(`with @fastify/helmet registered ${order} the cache each response has its own nonce in its header, and a page with the nonce in its body is not cached`, async (t, store) => {
    const app = await build(t, order, store, app => app.register(helmet, { enableCSPNonces: true }))
    app.get('/', { config: { cache: true } }, async (_, reply) => await reply.type('text/html').send('<script src="/a.js"></script>'))
    app.get('/nonce', { config: { cache: true } }, async (_, reply) => await reply.noCache().type('text/html').send(`<script nonce="${reply.cspNonce.script}"></script>`))
    const nonceOf = ({ headers }: { headers: Record<string, unknown> }) => /script-src[^;]*'nonce-([0-9a-f]+)'/.exec(String(headers['content-security-policy']))?.[1]
    const nonces = [await ask(app, '/'), await hit(app), await hit(app)].map(nonceOf)
    t.ok(nonces.every(nonce => nonce !== undefined))
    t.equal(new Set(nonces).size, 3, 'none is used twice')
    for (let i = 0; i < 3; i++) {
      const answer = await ask(app, '/nonce')
      t.match(answer.body, `nonce="${nonceOf(answer)}"`)
    }
  })

  promise(`with compress, etag, cors and helmet at once, registered ${order} the cache, a hit equals the first response`, async (t, store) => {
    const app = await build(t, order, store, async app => {
      await app.register(helmet)
      await app.register(cors, { origin: ORIGINS })
      await app.register(compress, { encodings: ['gzip'], threshold: 0 })
      await app.register(etag)
    })
    app.get('/', { config: { cache: true } }, async () => ({ text: 'abc'.repeat(1000) }))
    const volatile = new Set(['age', 'x-cache', 'cache-status', 'date', 'content-length', 'transfer-encoding'])
    const lasting = (headers: Record<string, unknown>) => Object.fromEntries(Object.entries(headers).filter(([name]) => !volatile.has(name)))
    const asked: Array<Record<string, string>> = [{}, { origin: 'https://a.example' }, { origin: 'https://b.example', 'accept-encoding': 'gzip' }, { 'accept-encoding': 'gzip' }]
    for (const headers of asked) {
      const first = await ask(app, '/', headers)
      const again = await hit(app, headers)
      t.same(lasting(again.headers), lasting(first.headers))
      t.ok(again.bytes.equals(first.bytes))
    }
  })
}

t.test('a response that is replayed for its Idempotency-Key has the CORS headers and the coding of the request that replays it', async t => {
  const { app } = await createTestApp(t, { ready: false })
  await app.register(cors, { origin: ORIGINS })
  await app.register(compress, { threshold: 0 })
  await app.register(idempotency, { scope: request => request.ip })
  let runs = 0
  app.post('/', { config: { idempotency: true } }, async () => ({ runs: ++runs }))
  const post = (origin: string, coding: string) => ask(app, '/', { origin, 'accept-encoding': coding, 'idempotency-key': 'k' }, { method: 'POST' })
  for (const [origin, coding] of [['https://a.example', 'identity'], ['https://b.example', 'gzip'], ['https://a.example', 'gzip']] as const) {
    const { headers, status } = await post(origin, coding)
    t.same([status, headers['access-control-allow-origin'], headers['content-encoding'] ?? 'identity'], [200, origin, coding])
  }
  t.equal(runs, 1)
})

/** Plugins that are registered beside the suite's, and their effect on each response. */
const BESIDE: Record<string, { register: (app: FastifyInstance) => unknown, promise: string, check: (t: Test) => Pick<Promises, 'headers' | 'each'> }> = {
  '@fastify/helmet with nonces': {
    register: app => app.register(helmet, { enableCSPNonces: true }),
    promise: 'each response has a nonce of its own',
    check: t => {
      const seen = new Set<string>()
      return {
        each: ({ headers }) => {
          const nonce = /script-src[^;]*'nonce-([0-9a-f]+)'/.exec(String(headers['content-security-policy']))?.[1] ?? 'none'
          t.notOk(nonce === 'none' || seen.has(nonce), 'the nonce is new')
          seen.add(nonce)
          return undefined
        }
      }
    }
  },
  '@fastify/cors': {
    register: app => app.register(cors, { origin: ORIGINS, credentials: true }),
    promise: 'each response is allowed to the origin of its request',
    check: t => {
      const [origin = ''] = ORIGINS
      return {
        headers: [{ origin }, { origin }],
        each: ({ headers }) => {
          t.same([headers['access-control-allow-origin'], headers['access-control-allow-credentials']], [origin, 'true'])
          t.match(headers.vary, /origin/i)
          return undefined
        }
      }
    }
  },
  '@fastify/compress': {
    register: app => app.register(compress, { threshold: 0 }),
    promise: 'each response has the coding that its client accepts',
    check: t => ({
      headers: [{ 'accept-encoding': 'gzip' }, { 'accept-encoding': 'br' }],
      each: ({ headers, bytes }, { headers: { 'accept-encoding': coding } }) => {
        if (bytes.length === 0) return undefined
        t.equal(headers['content-encoding'], coding)
        return (coding === 'gzip' ? gunzipSync : brotliDecompressSync)(bytes).toString()
      }
    })
  }
}

for (const [name, { register, promise, check }] of Object.entries(BESIDE)) {
  for (const order of ['before', 'after'] as const) {
    t.test(`with ${name} registered ${order} them all plugins keep their promises, and ${promise}`, async t => {
      const shop = await createShop(t, { [order]: register })
      await keepsPromises(t, shop, { origin: 'http://localhost:80', transport: injected(shop.app), ...check(t) })
    })
  }
}
