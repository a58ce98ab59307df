import { createRequire } from 'node:module'
import { join } from 'node:path'
import helmet from '@fastify/helmet'
import httpProxy from '@fastify/http-proxy'
import multipart, { type FastifyMultipartAttachFieldsToBodyOptions, type FastifyMultipartOptions } from '@fastify/multipart'
import replyFrom from '@fastify/reply-from'
import fastifyView from '@fastify/view'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { settled } from '../helpers/cache/cache-app.js'
import { http1, injected, Visitor, type Transport } from '../helpers/compose/visitors.js'
import { createTestApp, until, type TestApp, type TestAppOptions } from '../helpers/index.js'

// The parts of handlers: uploads, templates, and other servers that they forward requests to.

// The package has no types.
const ejs: unknown = createRequire(import.meta.url)('ejs')
const MAX = 50
const OWN_SCRIPT = /nonce="([0-9a-f]+)"/

/** All four plugins on Redis; `counted` says how many requests the limiter has let pass. */
async function build (t: Test, { plugins, ...options }: TestAppOptions): Promise<TestApp & { counted: () => number }> {
  const all = { rateLimit: { max: MAX, timeWindow: '1h' }, session: {}, cache: { ttl: '1m', staleWhileRevalidate: '1h' }, idempotency: {}, ...plugins }
  const built = await createTestApp(t, { store: 'redis', ready: false, ...options, plugins: all })
  built.app.post<{ Body: { user: string } }>('/login', async request => { await request.login(request.body.user) })
  let counted = 0
  built.app.rateLimiter.on('allowed', () => { counted++ })
  return { ...built, counted: () => counted }
}

async function logIn (transport: Transport): Promise<[ann: Visitor, bob: Visitor]> {
  const [ann, bob] = [new Visitor('ann', transport('127.0.0.2')), new Visitor('bob', transport('127.0.0.3'))]
  for (const user of [ann, bob]) await user.post('/login', { user: user.name })
  return [ann, bob]
}

let boundaries = 0

/** A browser uses another boundary each time it sends a form. */
function form (file: string): [body: Buffer, headers: Record<string, string>] {
  const boundary = `----form${++boundaries}`
  const part = (name: string, more: string, value: string) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n${value}\r\n`
  const body = `${part('title', '', 'me')}${part('file', '; filename="me.txt"\r\nContent-Type: text/plain', file)}--${boundary}--\r\n`
  return [Buffer.from(body), { 'content-type': `multipart/form-data; boundary=${boundary}` }]
}

const textOf = async (request: FastifyRequest) => String(await (await request.file())?.toBuffer())

/** Returns how a handler finds the uploaded file, by the package's setting. */
const MODES: Array<[name: string, options: FastifyMultipartOptions | FastifyMultipartAttachFieldsToBodyOptions, read: (request: FastifyRequest) => Promise<string>]> = [
  ['in the body', { attachFieldsToBody: true }, async ({ body }) => String(await (body as { file: { toBuffer: () => Promise<Buffer> } }).file.toBuffer())],
  ['as values in the body', { attachFieldsToBody: 'keyValues' }, async ({ body }) => String((body as { file: Buffer }).file)],
  ['as a stream', {}, textOf]
]

for (const [name, options, read] of MODES) {
  t.test(`with @fastify/multipart and a form ${name} an upload that is repeated is stored once, and pages show it`, async t => {
    const files = new Map<string, string>()
    const isStream = name === 'as a stream'
    const { app, counted, warnings } = await build(t, {
      before: app => app.register(multipart, options),
      routes: app => {
        app.get('/gallery', { config: { cache: { public: true, tags: ['gallery'] } } }, async () => Object.fromEntries(files))
        // A stream is not compared: the digest that the client sends is.
        const idempotency = isStream ? { fingerprint: ({ headers }: FastifyRequest) => String(headers['content-digest']) } : true
        app.post('/files', { config: { idempotency, cache: { invalidates: ['gallery'] } } }, async request => {
          const { userId = '' } = request.session
          const file = await read(request)
          files.set(userId, file)
          return { user: userId, size: file.length, run: files.size }
        })
      }
    })
    const [ann, bob] = await logIn(http1({ origin: await app.listen({ port: 0, host: '127.0.0.1' }) }))
    const upload = async (user: Visitor, file: string) => {
      const [body, headers] = form(file)
      return await user.post('/files', body, { ...headers, 'idempotency-key': 'one', 'content-digest': `${file.length}` })
    }
    t.same((await bob.get('/gallery')).json(), {})
    await settled(app)
    t.match(await bob.get('/gallery'), { cache: 'HIT', body: '{}' })
    const large = 'a'.repeat(100_000)
    for (const replayed of [undefined, 'true', 'true']) {
      const { status, body, headers } = await upload(ann, large)
      t.same([status, body, headers['idempotency-replayed']], [200, '{"user":"ann","size":100000,"run":1}', replayed])
    }
    t.same((await bob.get('/gallery')).json(), { ann: large }, 'the upload invalidates the page')
    t.match(await upload(ann, 'another file'), { status: 422 }, 'another file under the same key is refused')
    t.match((await upload(bob, 'a file of bob')).json(), { user: 'bob', run: 2 }, 'a key of one user is not that of another')
    t.same((await ann.get('/gallery')).json(), { ann: large, bob: 'a file of bob' })
    t.equal(counted(), ann.sent + bob.sent)
    while (ann.sent < MAX) await ann.get('/gallery')
    t.match(await upload(ann, large), { status: 429 }, 'an upload over the limit is refused before it is read')
    t.same(warnings(), [])
  })
}

t.test('with @fastify/view a page is rendered once for all guests and refreshed in the background, and pages of users and nonces are not shared', async t => {
  let runs = 0
  const { app, clock, counted, lines } = await build(t, {
    before: async app => {
      await app.register(helmet, { enableCSPNonces: true })
      // In production a template is read once, and not from the disk in the background.
      await app.register(fastifyView, { engine: { ejs: ejs as object }, production: true, root: join(import.meta.dirname, '../fixtures/views') })
    },
    routes: app => {
      const page = async (user: string, nonce = '') => ({ user, nonce, run: ++runs })
      app.get('/', { config: { cache: true } }, async ({ session }, reply) => await reply.view('catalog.ejs', await page(session.userId ?? 'guest')))
      app.get('/mine', { config: { cache: { private: ({ session }) => session.userId } } }, async ({ session }, reply) => await reply.view('catalog.ejs', await page(session.userId ?? 'guest')))
      app.get('/nonce', { config: { cache: true } }, async (_, reply) => await reply.view('catalog.ejs', await page('guest', reply.cspNonce.script)))
      app.post('/orders', { config: { idempotency: true, cache: false } }, async ({ session }, reply) => await reply.view('catalog.ejs', await page(String(session.userId))))
    }
  })
  const transport = injected(app)
  const [ann, bob] = await logIn(transport)
  const guest = new Visitor('guest', transport('127.0.0.4'))
  const read = async (user: Visitor, url: string) => {
    const { cache, body, headers } = await user.get(url)
    t.match(headers['content-type'], /^text\/html/)
    return { cache, run: Number(/Catalog (\d+)/.exec(body)?.[1]), user: /Hello (\w+)/.exec(body)?.[1] }
  }
  t.same(await read(guest, '/'), { cache: 'MISS', run: 1, user: 'guest' })
  await settled(app)
  t.same(await read(guest, '/'), { cache: 'HIT', run: 1, user: 'guest' })
  t.same([await read(ann, '/'), await read(bob, '/')], [{ cache: 'BYPASS', run: 2, user: 'ann' }, { cache: 'BYPASS', run: 3, user: 'bob' }])
  await clock.advance('2m')
  t.same(await read(guest, '/'), { cache: 'STALE', run: 1, user: 'guest' })
  await settled(app)
  t.same(await read(guest, '/'), { cache: 'HIT', run: 4, user: 'guest' })

  t.match([await read(ann, '/mine'), await read(bob, '/mine')], [{ cache: 'MISS', user: 'ann' }, { cache: 'MISS', user: 'bob' }])
  await settled(app)
  t.match([await read(ann, '/mine'), await read(bob, '/mine'), await read(guest, '/mine')], [{ cache: 'HIT', user: 'ann' }, { cache: 'HIT', user: 'bob' }, { cache: 'BYPASS', user: 'guest' }])
  await clock.advance('2m')
  t.match([await read(ann, '/mine'), await read(bob, '/mine')], [{ cache: 'STALE', user: 'ann' }, { cache: 'STALE', user: 'bob' }])
  await settled(app)
  t.match([await read(ann, '/mine'), await read(bob, '/mine')], [{ cache: 'HIT', user: 'ann' }, { cache: 'HIT', user: 'bob' }])

  const nonces = new Set<string>()
  for (let i = 0; i < 3; i++) {
    const { body, headers, cache } = await guest.get('/nonce')
    const nonce = OWN_SCRIPT.exec(body)?.[1] ?? 'none'
    t.match([cache, headers['content-security-policy']], ['MISS', `'nonce-${nonce}'`], 'a browser runs the script of the page')
    nonces.add(nonce)
    await settled(app)
  }
  t.equal(nonces.size, 3)

  const order = async (user: Visitor) => await user.post('/orders', {}, { 'idempotency-key': 'one' })
  const [placed, again, other] = [await order(ann), await order(ann), await order(bob)]
  t.same([again.body, again.headers['content-type'], again.headers['idempotency-replayed']], [placed.body, placed.headers['content-type'], 'true'])
  t.match([placed.body, other.body], [/Hello ann/, /Hello bob/])
  t.equal(counted(), ann.sent + bob.sent + guest.sent)
  t.match(lines.filter(({ level }) => Number(level) >= 40).map(({ route }) => route), ['/nonce'], 'the log names the page that is not cached')
})

/** A server that knows its callers by a header that the gateway before it sets. */
async function startUpstream (t: Test, clock: TestClock): Promise<{ url: string, runs: Record<string, number> }> {
  const runs = { catalog: 0, mine: 0, careless: 0, orders: 0 }
  const { app } = await createTestApp(t, { store: 'redis', ready: false, clock, plugins: { idempotency: { scope: ({ headers }) => String(headers['x-user']) } } })
  // The age of a response is computed from its Date.
  app.addHook('onRequest', async (_, reply) => { reply.header('date', new Date(clock.now()).toUTCString()) })
  app.get('/catalog/1', async (_, reply) => await reply.header('cache-control', 'max-age=60, stale-while-revalidate=600').send({ run: ++runs.catalog }))
  app.get('/mine', async ({ headers }, reply) => await reply.header('cache-control', 'private, max-age=60').send({ user: headers['x-user'], run: ++runs.mine }))
  app.get('/careless', async ({ headers }) => ({ user: headers['x-user'], run: ++runs.careless }))
  app.post('/catalog/1', { config: { idempotency: true } }, async ({ headers, body }) => ({ order: ++runs.orders, user: headers['x-user'], body }))
  return { url: await app.listen({ port: 0, host: '127.0.0.1' }), runs }
}

const asUser = ({ session }: FastifyRequest, headers: object) => ({ ...headers, 'x-user': session.userId ?? 'guest' })
// A forwarding handler reads all request headers; Cache-Control and Vary of the upstream define who may share a response.
const FORWARDED = { ttl: 'headers', unkeyed: false } as const
const PUBLIC = { ...FORWARDED, public: true }
const OWN = { ...FORWARDED, private: ({ session }: FastifyRequest) => session.userId }

/** The three routes of the gateway, by the package that forwards. */
const GATEWAYS: Record<string, (app: FastifyInstance, upstream: string) => Promise<unknown>> = {
  '@fastify/http-proxy': async (app, upstream) => {
    const routes = { '/catalog': PUBLIC, '/mine': OWN, '/careless': { ttl: '1m', public: true } } as const
    for (const [prefix, cache] of Object.entries(routes)) {
      await app.register(httpProxy, { upstream, prefix, rewritePrefix: prefix, config: { cache }, replyOptions: { rewriteRequestHeaders: asUser as never } })
    }
  },
  '@fastify/reply-from': async (app, upstream) => {
    await app.register(replyFrom, { base: upstream })
    const options = { rewriteRequestHeaders: asUser as never }
    app.get('/catalog/1', { config: { cache: PUBLIC } }, async (_, reply) => await reply.from('/catalog/1', options))
    app.post('/catalog/1', async (_, reply) => await reply.from('/catalog/1', options))
    app.get('/mine', { config: { cache: OWN } }, async (_, reply) => await reply.from('/mine', options))
    app.get('/careless', { config: { cache: { ttl: '1m', public: true } } }, async (_, reply) => await reply.from('/careless', options))
  }
}

for (const [name, addRoutes] of Object.entries(GATEWAYS)) {
  t.test(`with ${name} responses of the upstream are cached by its header fields and refreshed in the background, and users do not share them`, async t => {
    const clock = createTestClock()
    const upstream = await startUpstream(t, clock)
    const { app, counted, lines } = await build(t, { clock, routes: app => addRoutes(app, upstream.url) })
    const [ann, bob] = await logIn(http1({ origin: await app.listen({ port: 0, host: '127.0.0.1' }) }))
    const read = async (user: Visitor, url: string) => {
      const answer = await user.get(url)
      return { cache: answer.cache, ...answer.json() }
    }
    t.same(await read(ann, '/catalog/1'), { cache: 'MISS', run: 1 })
    await settled(app)
    t.same(await read(bob, '/catalog/1'), { cache: 'HIT', run: 1 })
    await clock.advance('2m')
    t.same(await read(bob, '/catalog/1'), { cache: 'STALE', run: 1 })
    await until('the page is refreshed in the background', () => upstream.runs['catalog'] === 2)
    await settled(app)
    t.same(await read(ann, '/catalog/1'), { cache: 'HIT', run: 2 })

    t.same([await read(ann, '/mine'), await read(bob, '/mine')], [{ cache: 'MISS', user: 'ann', run: 1 }, { cache: 'MISS', user: 'bob', run: 2 }])
    await settled(app)
    t.same([await read(ann, '/mine'), await read(bob, '/mine')], [{ cache: 'HIT', user: 'ann', run: 1 }, { cache: 'HIT', user: 'bob', run: 2 }])
    for (let run = 1; run < 5; run += 2) {
      t.same([await read(ann, '/careless'), await read(bob, '/careless')], [{ cache: 'MISS', user: 'ann', run }, { cache: 'MISS', user: 'bob', run: run + 1 }])
      await settled(app)
    }
    t.match(lines.filter(({ level }) => Number(level) >= 40).map(({ route }) => String(route)), [/^\/careless/], 'the log names the route that is not cached')

    const order = async (user: Visitor) => await user.post('/catalog/1', { items: [1] }, { 'idempotency-key': 'one' })
    const [placed, again, other] = [await order(ann), await order(ann), await order(bob)]
    t.same(placed.json(), { order: 1, user: 'ann', body: { items: [1] } })
    t.same([again.json(), again.headers['idempotency-replayed']], [placed.json(), 'true'], 'the key reaches the upstream, which has the response')
    t.match(other.json(), { order: 2, user: 'bob' })
    t.same(await read(ann, '/catalog/1'), { cache: 'MISS', run: 3 }, 'what was changed is asked for again')
    t.equal(counted(), ann.sent + bob.sent, 'each request is counted once')
    t.match(await bob.get('/mine'), { headers: { 'x-ratelimit-remaining': String(MAX - bob.sent) } }, 'each client has its own count')
  })
}
