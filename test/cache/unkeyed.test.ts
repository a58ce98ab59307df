import { once } from 'node:events'
import { request } from 'node:http'
import { connect, type ServerHttp2Stream } from 'node:http2'
import { request as httpsRequest } from 'node:https'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import type { TLSSocket } from 'node:tls'
import compress from '@fastify/compress'
import cookie from '@fastify/cookie'
import cors from '@fastify/cors'
import csrf from '@fastify/csrf-protection'
import helmet from '@fastify/helmet'
import jwt from '@fastify/jwt'
import secureSession from '@fastify/secure-session'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { peerRateLimit } from '../../bench/peer-rate-limit.js'
import { cache, type RouteCacheOptions } from '../../plugins/cache/index.js'
import { ask, createCacheApp, gate, onBothStores, settled, type CacheAppOptions } from '../helpers/cache/cache-app.js'
import { createTestApp, until } from '../helpers/index.js'
import { makeCertificate } from '../helpers/servers/certificate.js'

type Headers = Record<string, string>
const SECRET = 'a secret of at least thirty-two characters'
const CACHED = { config: { cache: true } }

/** An app with the default of `unkeyed`, which the helper's own is not. */
async function createApp (t: Test, { options, ...more }: CacheAppOptions = {}) {
  return await createCacheApp(t, { ...more, options: { unkeyed: undefined, ...options } })
}

/** Sends two requests as each of several clients, and waits for stores. @returns the responses of each client */
async function askAs (app: FastifyInstance, url: string, clients: Headers[]): Promise<Array<{ cache: string, body: string }>> {
  const responses: Array<{ cache: string, body: string }> = []
  for (const headers of [...clients, ...clients]) {
    const { cache, body } = await ask(app, url, headers)
    await settled(app)
    responses.push({ cache, body })
  }
  return responses
}

/** Asserts that each client gets its own response, and that nothing is stored. */
async function isGivenToEachItsOwn (t: Test, app: FastifyInstance, url: string, clients: Record<string, Headers>): Promise<void> {
  const names = Object.keys(clients)
  const responses = await askAs(app, url, Object.values(clients))
  t.same(responses.map(({ body }) => body), [...names, ...names])
  t.notOk(responses.some(({ cache }) => cache === 'HIT'), responses.map(({ cache }) => cache).join())
}

for (const order of ['before', 'after'] as const) {
  t.test(`users with a JWT in a cookie never share a response, with the login ${order} the cache`, async t => {
    const login = async (app: FastifyInstance) => {
      await app.register(cookie)
      await app.register(jwt, { secret: SECRET, cookie: { cookieName: 'token', signed: false } })
      app.addHook('onRequest', async request => { await request.jwtVerify() })
    }
    const { app } = await createApp(t, order === 'before' ? { before: login } : {})
    if (order === 'after') await login(app)
    app.get('/', CACHED, async request => (request.user as { name: string }).name)
    await app.ready()
    const clients = Object.fromEntries(['ann', 'bob'].map(name => [name, { cookie: `token=${app.jwt.sign({ name })}` }]))
    await isGivenToEachItsOwn(t, app, '/', clients)
    t.equal((await ask(app, '/')).status, 401)
  })

  t.test(`tenants by an API key that a preHandler checks never share a response, with the hook ${order} the cache`, async t => {
    const login = (app: FastifyInstance) => {
      app.decorateRequest('tenant', '')
      app.addHook('preHandler', async request => { Object.assign(request, { tenant: String(request.headers['x-api-key']) }) })
    }
    const { app } = await createApp(t, order === 'before' ? { before: login } : {})
    if (order === 'after') login(app)
    app.get('/', CACHED, async request => Reflect.get(request, 'tenant') as string)
    await isGivenToEachItsOwn(t, app, '/', { ann: { 'x-api-key': 'ann' }, bob: { 'x-api-key': 'bob' } })
  })
}

t.test('a locale or an experiment that a hook chooses by a header or a cookie is never another visitor\'s', async t => {
  const { app } = await createApp(t, { before: async app => { await app.register(cookie) } })
  app.addHook('onRequest', async request => {
    Object.assign(request, { locale: request.headers['accept-language'] ?? 'none', bucket: request.cookies['bucket'] ?? 'none' })
  })
  const chosen = (name: string) => async (request: FastifyRequest) => Reflect.get(request, name) as string
  app.get('/locale', CACHED, chosen('locale'))
  app.get('/bucket', CACHED, chosen('bucket'))
  app.get('/varies', CACHED, async (request, reply) => { reply.header('vary', 'accept-language'); return await chosen('locale')(request) })
  app.get('/keyed', { config: { cache: { vary: ['accept-language'] } } }, chosen('locale'))
  await isGivenToEachItsOwn(t, app, '/locale', { fr: { 'accept-language': 'fr' }, de: { 'accept-language': 'de' } })
  await isGivenToEachItsOwn(t, app, '/bucket', { a: { cookie: 'bucket=a' }, b: { cookie: 'bucket=b' } })
  for (const url of ['/varies', '/keyed']) {
    t.same((await askAs(app, url, [{ 'accept-language': 'fr' }, { 'accept-language': 'de' }])).map(({ cache, body }) => `${cache} ${body}`), ['MISS fr', 'MISS de', 'HIT fr', 'HIT de'], url)
  }
  t.same((await askAs(app, '/bucket', [{}])).map(({ cache, body }) => `${cache} ${body}`), ['MISS none', 'HIT none'], 'visitors without the cookie share a response')
  t.equal((await ask(app, '/bucket', { cookie: 'bucket=c' })).body, 'c', 'and those with it are not given that one')
})

onBothStores('a response that depends on an absent header or cookie is served only to requests without it', async (t, store) => {
  const { app } = await createApp(t, { store, before: async app => { await app.register(cookie) } })
  app.get('/cookie', CACHED, async request => `for ${request.cookies['user'] ?? 'guests'}`)
  app.get('/header', CACHED, async request => `for ${String(request.headers['x-user'] ?? 'guests')}`)
  for (const [url, headers] of [['/cookie', { cookie: 'a=1; user=ann' }], ['/header', { 'x-user': 'ann' }]] as const) {
    const responses = await askAs(app, url, [{}, { ...headers }, { cookie: 'theme=dark' }])
    t.same(responses.map(({ cache, body }) => `${cache} ${body}`), ['MISS for guests', 'MISS for ann', 'HIT for guests', 'HIT for guests', 'MISS for ann', 'HIT for guests'], url)
  }
})

t.test('a request whose user was set without reading the request is neither served from the cache nor stored', async t => {
  const { app } = await createApp(t)
  let user: string | null = 'ann'
  app.decorateRequest('user')
  app.addHook('onRequest', async request => { Object.assign(request, { user }) })
  app.get('/', CACHED, async () => `for ${user ?? 'guests'}`)
  const responses: string[] = []
  for (user of ['ann', 'bob', null, 'ann', null]) {
    const { cache, body } = await ask(app, '/')
    await settled(app)
    responses.push(`${cache} ${body}`)
  }
  t.same(responses, ['BYPASS for ann', 'BYPASS for bob', 'MISS for guests', 'BYPASS for ann', 'HIT for guests'])
})

t.test('a page of an ordinary app is a HIT: CORS, compression, helmet, cookies, a session, limits and access logs read nothing that counts', async t => {
  const log = (request: FastifyRequest) => request.log.info({ req: request, agent: request.headers['user-agent'], from: request.headers.referer, ip: request.ip, id: request.headers['x-request-id'] }, 'access')
  const { app, warnings } = await createTestApp(t, {
    ready: false,
    before: async app => {
      await app.register(cors, { origin: ['https://a.example'], credentials: true })
      await app.register(helmet)
      await app.register(compress, { threshold: 0 })
      await app.register(cookie)
      await app.register(peerRateLimit, { max: 1000 })
      app.addHook('onRequest', async request => { log(request) })
      app.addHook('onResponse', async request => { log(request) })
    },
    plugins: { session: { cookie: { secure: 'auto' } }, rateLimit: { max: 1000, keyGenerator: request => String(request.headers['x-api-key'] ?? request.cookies['visitor'] ?? request.ip) }, cache: {} }
  })
  app.get('/', CACHED, async (_request, reply) => await reply.type('text/html').send('<p>hello</p>'.repeat(100)))
  const browser = (n: number): Headers => ({
    'user-agent': `browser ${n}`, cookie: `_ga=${n}; visitor=${n}`, referer: `https://search.example/${n}`, 'x-request-id': String(n), 'accept-encoding': 'gzip', traceparent: `00-${n}`, 'x-api-key': String(n)
  })
  const responses = await askAs(app, '/', [browser(1), browser(2), browser(3)])
  t.same(responses.map(({ cache }) => cache), ['MISS', 'HIT', 'HIT', 'HIT', 'HIT', 'HIT'])
  t.same(warnings().filter(line => line.startsWith('cache:') && line.includes('reads')), [])
})

t.test('@fastify/secure-session: anonymous visitors share a response, and users who are logged in do not, under any sessionName', async t => {
  for (const sessionName of ['session', 'adminSession'] as const) {
    const { app } = await createApp(t, { before: async app => { await app.register(secureSession, { sessionName, secret: SECRET, salt: 'mq9hDxBVDbspDR6n', cookie: { path: '/' } }) } })
    const sessionOf = (request: FastifyRequest) => Reflect.get(request, sessionName) as { get (name: string): unknown, set (name: string, value: unknown): void }
    app.post('/login', async request => { sessionOf(request).set('user', (request.query as { user: string }).user) })
    app.get('/', CACHED, async request => String(sessionOf(request).get('user') ?? 'guests'))
    app.get('/unread', CACHED, async () => 'page')
    const logIn = async (user: string): Promise<Headers> => {
      const response = await app.inject({ method: 'POST', url: `/login?user=${user}` })
      return { cookie: String(response.headers['set-cookie']).split(';')[0] ?? '' }
    }
    const clients = { ann: await logIn('ann'), bob: await logIn('bob') }
    t.same((await askAs(app, '/', [{}])).map(({ cache, body }) => `${cache} ${body}`), ['MISS guests', 'HIT guests'], sessionName)
    t.same((await askAs(app, '/', [{}])).map(({ cache }) => cache), ['HIT', 'HIT'])
    await isGivenToEachItsOwn(t, app, '/', clients)
    t.equal((await ask(app, '/')).body, 'guests')
  }
})

t.test('session plugin: a session cookie alone does not bypass the cache, and a page that reads the session is not shared', async t => {
  const { app } = await createTestApp(t, { ready: false, plugins: { session: { saveUninitialized: true, rolling: false, cookie: { secure: false } }, cache: {} } })
  app.get('/start', async () => 'started')
  app.get('/unread', CACHED, async () => 'page')
  app.get('/read', CACHED, async request => request.session.sessionId)
  app.get('/owned', { config: { cache: { private: request => request.session.sessionId as string } } }, async request => request.session.sessionId)
  const visit = async (): Promise<Headers> => ({ cookie: String((await app.inject('/start')).headers['set-cookie']).split(';')[0] ?? '' })
  const visitors = [await visit(), await visit()]
  t.same((await askAs(app, '/unread', visitors)).map(({ cache }) => cache), ['MISS', 'HIT', 'HIT', 'HIT'])
  const read = await askAs(app, '/read', visitors)
  t.same(read.map(({ cache }) => cache), ['MISS', 'MISS', 'MISS', 'MISS'])
  t.not(read[0]?.body, read[1]?.body)
  t.same((await askAs(app, '/owned', visitors)).map(({ cache }) => cache), ['MISS', 'MISS', 'HIT', 'HIT'], 'what the owner is made of is held by it')
})

const READERS: Record<string, [read: (request: FastifyRequest) => unknown, ...clients: Headers[]]> = {
  'a name that is looked for': [request => 'x-user' in request.headers && request.raw.headers['x-user'], { 'x-user': 'ann' }, { 'x-user': 'bob' }],
  'own property': [request => Object.hasOwn(request.headers, 'x-user') && request.raw.headers['x-user'], { 'x-user': 'ann' }, { 'x-user': 'bob' }],
  spread: [request => ({ ...request.headers })['x-user'], { 'x-user': 'ann' }, { 'x-user': 'bob' }],
  'Object.entries': [request => Object.fromEntries(Object.entries(request.raw.headers))['x-user'], { 'x-user': 'ann' }, { 'x-user': 'bob' }],
  JSON: [request => (JSON.parse(JSON.stringify(request.headers)) as Headers)['x-user'], { 'x-user': 'ann' }, { 'x-user': 'bob' }],
  rawHeaders: [request => request.raw.rawHeaders[request.raw.rawHeaders.findIndex(name => name.toLowerCase() === 'x-user') + 1], { 'x-user': 'ann' }, { 'x-user': 'bob' }],
  headersDistinct: [request => request.raw.headersDistinct['x-user']?.[0], { 'x-user': 'ann' }, { 'x-user': 'bob' }],
  'the header Cookie': [request => request.headers.cookie?.slice(2), { cookie: 'a=ann' }, { cookie: 'a=bob' }],
  'request.cookies': [request => request.cookies['a'], { cookie: 'a=ann' }, { cookie: 'a=bob' }],
  'all cookies': [request => Object.values(request.cookies)[0], { cookie: 'a=ann' }, { cookie: 'a=bob' }],
  hostname: [request => request.hostname, { host: 'ann' }, { host: 'bob' }],
  host: [request => request.host, { host: 'ann' }, { host: 'bob' }],
  'the header Host': [request => request.headers.host, { host: 'ann' }, { host: 'bob' }],
  'a forwarded host': [request => request.host, { 'x-forwarded-host': 'ann' }, { 'x-forwarded-host': 'bob' }]
}

for (const where of ['the handler', 'a hook before the look-up', 'a stream', 'an onSend hook'] as const) {
  t.test(`whatever ${where} can read of headers, cookies and hosts counts, over TCP`, async t => {
    const { app } = await createApp(t, { server: { trustProxy: true }, before: async app => { await app.register(cookie) } })
    for (const [i, [read]] of Object.values(READERS).entries()) {
      const config = { cache: true }
      const url = `/${i}`
      if (where === 'the handler') app.get(url, { config }, async request => String(read(request)))
      else if (where === 'a stream') app.get(url, { config }, async request => Readable.from((async function * () { yield ''; yield String(read(request)) })()))
      else if (where === 'an onSend hook') app.get(url, { config, onSend: async request => String(read(request)) }, async () => '')
      else app.get(url, { config, onRequest: async request => { Object.assign(request, { read: read(request) }) } }, async request => String(Reflect.get(request, 'read')))
    }
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    for (const [i, [name, [, ...clients]]] of Object.entries(READERS).entries()) {
      for (const headers of [...clients, ...clients]) {
        const sent = request({ port, host: '127.0.0.1', path: `/${i}`, headers }).end()
        const [response] = await once(sent, 'response')
        let body = ''
        for await (const chunk of response.setEncoding('utf8')) body += chunk
        t.equal(body, Object.values(headers)[0]?.replace('a=', ''), `${name} ${response.headers['x-cache']}`)
        await settled(app)
      }
    }
    t.equal(app.cache.stats().stored, 0)
  })
}

t.test('the address, the protocol and the socket count where the handler reads them, and may be harmless', async t => {
  const { app } = await createApp(t)
  const reads: Record<string, (request: FastifyRequest) => unknown> = {
    ip: request => request.ip, ips: request => request.ips?.[0] ?? request.ip, protocol: request => request.protocol, socket: request => request.socket.remoteAddress, raw: request => request.raw.socket.remoteAddress
  }
  for (const [name, read] of Object.entries(reads)) app.get(`/${name}`, CACHED, async request => String(read(request)))
  app.get('/harmless', { config: { cache: { harmless: ['request.ip'] } } }, async request => request.ip)
  app.get('/keyed', { config: { cache: { key: { host: true } } } }, async request => `${request.protocol}://${request.host}`)
  for (const name of Object.keys(reads)) t.same((await askAs(app, `/${name}`, [{}])).map(({ cache }) => cache), ['MISS', 'MISS'], name)
  for (const name of ['harmless', 'keyed']) t.same((await askAs(app, `/${name}`, [{}])).map(({ cache }) => cache), ['MISS', 'HIT'], name)
})

onBothStores('cookies that are a part of the key distinguish responses, also when they are refreshed, and other cookies do not', async (t, store) => {
  const { app, clock } = await createApp(t, { store, options: { staleWhileRevalidate: '1h' }, before: async app => { await app.register(cookie) } })
  let run = 0
  app.get('/', { config: { cache: { ttl: '1m', key: { cookies: ['lang'] } } } }, async request => { run++; return request.cookies['lang'] ?? 'none' })
  const clients = [{ cookie: 'lang=fr; a=1' }, { cookie: 'a=2; lang=de' }, {}, { cookie: 'a=3; lang=fr' }] as Headers[]
  const given = async () => (await askAs(app, '/', clients)).map(({ cache, body }) => `${cache} ${body}`)
  t.same(await given(), ['MISS fr', 'MISS de', 'MISS none', 'HIT fr', 'HIT fr', 'HIT de', 'HIT none', 'HIT fr'])
  t.equal(run, 3)
  await clock.advance('61s')
  t.same((await given()).map(each => each.split(' ')[1]), ['fr', 'de', 'none', 'fr', 'fr', 'de', 'none', 'fr'])
  await settled(app)
  t.equal(run, 6, 'each was refreshed once')
  for (const cookies of ['lang', [1]]) await t.rejects(async () => await createApp(t, { options: { key: { cookies: cookies as never } } }), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION', message: /cookies/ })
})

t.test('the remaining limit of a client is not sent to another client', async t => {
  const { app } = await createTestApp(t, { ready: false, plugins: { rateLimit: { max: 100, timeWindow: '1h', keyGenerator: request => String(request.headers['x-user']) }, cache: {} } })
  app.get('/', CACHED, async request => String(request.rateLimit?.remaining))
  app.get('/unread', CACHED, async () => 'page')
  t.same((await askAs(app, '/', [{ 'x-user': 'ann' }, { 'x-user': 'bob' }])).map(({ body }) => body), ['99', '99', '98', '98'])
  t.same((await askAs(app, '/unread', [{ 'x-user': 'ann' }, { 'x-user': 'bob' }])).map(({ cache }) => cache), ['MISS', 'HIT', 'HIT', 'HIT'])
})

t.test('a parameter that is not in the key counts where a hook reads it before the look-up', async t => {
  const { app } = await createApp(t)
  app.addHook('onRequest', async request => { Object.assign(request, { language: (request.query as Headers)['lang'] ?? 'none' }) })
  app.get('/', { config: { cache: { key: { query: { exclude: ['lang', 'utm'] } } } } }, async request => Reflect.get(request, 'language') as string)
  t.same((await askAs(app, '/?utm=1', [{}])).map(({ cache, body }) => `${cache} ${body}`), ['MISS none', 'HIT none'])
  for (const language of ['fr', 'de', 'fr']) {
    t.equal((await ask(app, `/?lang=${language}`)).body, language)
    await settled(app)
  }
  t.match(await ask(app, '/?utm=2'), { cache: 'HIT', body: 'none' })
})

onBothStores('a read of work that a hook has begun, and that goes on while the cache looks, counts', async (t, store) => {
  const { app } = await createApp(t, { store, options: { l1: false } })
  const load = async (request: FastifyRequest) => {
    for (let turn = 0; turn < 5; turn++) await new Promise(resolve => setImmediate(resolve))
    return String(request.headers['x-user'])
  }
  app.get('/', { ...CACHED, preHandler: async request => { Object.assign(request, { user$: load(request) }) } }, async request => await (Reflect.get(request, 'user$') as Promise<string>))
  await isGivenToEachItsOwn(t, app, '/', { ann: { 'x-user': 'ann' }, bob: { 'x-user': 'bob' } })
})

t.test('a response to a request without Authorization is not served to one with it if the handler looked for it', async t => {
  const { app } = await createApp(t, { options: { ttl: 'headers' } })
  const handler = async (request: FastifyRequest) => request.headers.authorization ?? 'guests'
  app.get('/', CACHED, async (request, reply) => { reply.header('cache-control', 'max-age=60'); return await handler(request) })
  app.get('/public', { config: { cache: { public: true } } }, async (_request, reply) => await reply.header('cache-control', 'max-age=60').send('page'))
  t.same((await askAs(app, '/', [{}, { authorization: 'ann' }])).map(({ cache, body }) => `${cache} ${body}`), ['MISS guests', 'MISS ann', 'HIT guests', 'MISS ann'])
  t.same((await askAs(app, '/public', [{}, { authorization: 'ann' }])).map(({ cache }) => cache), ['MISS', 'HIT', 'HIT', 'HIT'])
})

t.test('constraints of a route count as a part of the key, and an accept-version that only the handler reads does not', async t => {
  const { app } = await createApp(t)
  app.get('/self', CACHED, async request => request.headers['accept-version'] ?? 'none')
  await isGivenToEachItsOwn(t, app, '/self', { 1: { 'accept-version': '1' }, 2: { 'accept-version': '2' } })
  const { app: routed } = await createApp(t)
  for (const version of ['1.0.0', '2.0.0']) routed.get('/', { ...CACHED, constraints: { version } }, async request => `${version} ${request.routeOptions.url}`)
  for (const host of ['a.example', 'b.example']) routed.get('/host', { ...CACHED, constraints: { host } }, async request => request.hostname)
  t.same((await askAs(routed, '/', [{ 'accept-version': '1.x' }, { 'accept-version': '2.x' }])).map(({ cache, body }) => `${cache} ${body}`), ['MISS 1.0.0 /', 'MISS 2.0.0 /', 'HIT 1.0.0 /', 'HIT 2.0.0 /'])
  t.same((await askAs(routed, '/host', [{ host: 'a.example' }, { host: 'b.example' }])).map(({ cache, body }) => `${cache} ${body}`), ['MISS a.example', 'MISS b.example', 'HIT a.example', 'HIT b.example'])
})

t.test('over HTTP/2 headers count as well', async t => {
  const { app } = await createApp(t, { server: { http2: true } as never })
  app.get('/', CACHED, async request => String(request.headers['x-user']))
  app.get('/authority', CACHED, async request => request.host)
  app.get('/raw', CACHED, async request => Reflect.get(request.raw, 'authority') as string)
  app.get('/unread', CACHED, async () => 'page')
  await app.listen({ port: 0, host: '127.0.0.1' })
  const client = connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => client.close())
  const get = async (headers: Headers) => {
    const stream = client.request(headers).setEncoding('utf8')
    const [response] = await once(stream, 'response') as [Headers]
    let body = ''
    for await (const chunk of stream) body += chunk
    await settled(app)
    return `${response['x-cache']} ${body}`
  }
  for (const name of ['ann', 'bob', 'ann']) t.equal(await get({ ':path': '/', 'x-user': name }), `MISS ${name}`)
  for (const path of ['/authority', '/raw']) for (const name of ['ann', 'bob', 'ann']) t.equal(await get({ ':path': path, ':authority': name }), `MISS ${name}`)
  t.same([await get({ ':path': '/unread' }), await get({ ':path': '/unread' })], ['MISS page', 'HIT page'])
})

for (const [transport, server] of Object.entries({ 'HTTP/2 without TLS': {}, 'HTTP/2 with TLS and allowHTTP1': { https: { allowHTTP1: true } } })) {
  t.test(`${transport}: cached routes are hits, and are refreshed in the background for the authority and the protocol that were asked`, async t => {
    const isSecure = 'https' in server
    const certificate = isSecure ? await makeCertificate() : undefined
    const { app, clock, warnings } = await createApp(t, {
      server: { http2: true, ...isSecure && { https: { ...server.https, ...certificate } } } as never,
      options: { ttl: '1m', staleWhileRevalidate: '1h', timeout: '1h', key: { host: true } }
    })
    let version = 0
    app.get('/*', CACHED, async request => `${++version} ${request.protocol}://${request.host}${request.url} ${String(request.headers[':path'] ?? '')}`)
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as AddressInfo
    const client = connect(`${isSecure ? 'https' : 'http'}://127.0.0.1:${port}`, { rejectUnauthorized: false })
    t.teardown(() => client.close())
    const overHttp2 = async () => {
      const stream = client.request({ ':path': '/a/../b|c?q="', ':authority': 'a.example' }).setEncoding('utf8')
      const [response] = await once(stream, 'response') as [Headers]
      let body = ''
      for await (const chunk of stream) body += chunk
      await settled(app)
      return `${response[':status']} ${response['x-cache']} ${body}`
    }
    const overHttp1 = async () => {
      const [response] = await once(httpsRequest({ port, host: '127.0.0.1', path: '/a/../b|c?q="', headers: { host: 'a.example' }, rejectUnauthorized: false, agent: false }).end(), 'response')
      let body = ''
      for await (const chunk of response.setEncoding('utf8')) body += chunk
      await settled(app)
      return `${response.statusCode} ${response.headers['x-cache']} ${body}`
    }
    const clients = isSecure ? { overHttp2, overHttp1 } : { overHttp2 }
    for (const [name, get] of Object.entries(clients)) {
      version = 0
      const page = `${isSecure ? 'https' : 'http'}://a.example/a/../b|c?q=" ${name === 'overHttp2' ? '/a/../b|c?q="' : ''}`
      t.same([await get(), await get()], [`200 MISS 1 ${page}`, `200 HIT 1 ${page}`], name)
      await clock.advance('61s')
      t.same([await get(), await get()], [`200 STALE 1 ${page}`, `200 HIT 2 ${page}`], `${name}: it was refreshed in the background`)
    }
    t.same(warnings(), [])
  })
}

t.test('an HTTP/2 handler that uses raw.stream.respond() lets waiting requests proceed at once, and nothing is stored', async t => {
  const { app } = await createApp(t, { server: { http2: true } as never, options: { timeout: '1h' } })
  const { opened, open } = gate()
  let runs = 0
  app.get('/', CACHED, async (_request, reply) => {
    const { stream } = reply.raw as unknown as { stream: ServerHttp2Stream }
    const run = ++runs
    if (run === 1) await opened
    stream.respond({ ':status': 200 })
    // The first response goes on for as long as its client stays.
    if (run === 1) stream.write('begun')
    else stream.end(`run ${run}`)
    return reply
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const client = connect(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => client.destroy())
  client.request({ ':path': '/' })
  await until('the handler runs', () => runs === 1)
  const others = ['a', 'b'].map(async () => {
    let body = ''
    for await (const chunk of client.request({ ':path': '/' }).setEncoding('utf8')) body += chunk
    return body
  })
  await until('the others wait', () => app.cache.stats().coalesced === 2)
  open()
  // The clock stands still: no time-out has passed.
  t.same((await Promise.all(others)).sort(), ['run 2', 'run 3'])
})

t.test('a client certificate counts in a hook and in the handler, and nothing else of TLS does', async t => {
  const { cert, key } = await makeCertificate()
  const { app } = await createApp(t, { server: { https: { cert, key, requestCert: true, rejectUnauthorized: false } } as never })
  const print = (request: FastifyRequest) => (request.raw.socket as TLSSocket).getPeerCertificate().fingerprint256
  app.get('/hook', { ...CACHED, preHandler: async request => { Object.assign(request, { client: print(request) }) } }, async request => Reflect.get(request, 'client') as string)
  app.get('/handler', CACHED, async request => print(request))
  app.get('/ip', { ...CACHED, onRequest: async request => { request.log.info({ ip: request.ip, protocol: request.protocol }) } }, async () => 'page')
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  const clients = [await makeCertificate(), await makeCertificate()]
  const get = async (path: string, client: object) => {
    const [response] = await once(httpsRequest({ ...client, port, host: '127.0.0.1', path, rejectUnauthorized: false, agent: false }).end(), 'response')
    let body = ''
    for await (const chunk of response.setEncoding('utf8')) body += chunk
    await settled(app)
    return { cache: response.headers['x-cache'], body }
  }
  for (const path of ['/hook', '/handler']) {
    const bodies: string[] = []
    for (const client of [...clients, ...clients]) bodies.push((await get(path, client)).body)
    t.same([new Set(bodies).size, bodies[0], bodies[1]], [2, bodies[2], bodies[3]], path)
  }
  t.same([await get('/ip', clients[0] ?? {}), await get('/ip', clients[1] ?? {})].map(({ cache }) => cache), ['MISS', 'HIT'])
})

t.test('headers that a hook puts in the place of the client\'s reach the handler', async t => {
  const { app } = await createApp(t)
  app.addHook('onRequest', async ({ raw }) => { raw.headers = { 'x-tenant': raw.headers['x-tenant'], 'x-added': 'yes' } })
  app.get('/', CACHED, async request => `${String(request.headers['x-tenant'])} ${String(request.headers['x-added'])}`)
  for (const tenant of ['a', 'b', 'a']) {
    t.equal((await ask(app, '/', { 'x-tenant': tenant })).body, `${tenant} yes`)
    await settled(app)
  }
})

t.test('a header that a hook deletes after it has read it counts all the same', async t => {
  for (const name of ['authorization', 'cookie', 'x-api-key']) {
    const { app } = await createApp(t)
    app.addHook('onRequest', async request => {
      Object.assign(request, { who: request.headers[name] ?? 'guests' })
      Reflect.deleteProperty(request.headers, name)
    })
    app.get('/', CACHED, async request => Reflect.get(request, 'who'))
    await isGivenToEachItsOwn(t, app, '/', { 'key=ann': { [name]: 'key=ann' }, 'key=bob': { [name]: 'key=bob' } })
    t.same((await askAs(app, '/', [{}])).map(({ cache, body }) => `${cache} ${body}`), ['MISS guests', 'HIT guests'], name)
    t.equal((await ask(app, '/', { [name]: 'key=ann' })).body, 'key=ann')
  }
})

t.test('each host gets its own response, whichever header the handler reads', async t => {
  const hosts: Record<string, (request: FastifyRequest) => unknown> = {
    'key.host, request.hostname': ({ hostname }) => hostname,
    'key.host, X-Forwarded-Host': ({ headers }) => headers['x-forwarded-host'] ?? headers.host,
    'key.host, Host': ({ headers }) => headers.host,
    'key.host, X-Forwarded-Proto': ({ headers }) => headers['x-forwarded-proto'],
    'vary, request.hostname': ({ hostname }) => hostname,
    'constraint, request.hostname': ({ hostname }) => hostname
  }
  const clients: Headers[] = [{}, { 'x-forwarded-host': 'a.example', 'x-forwarded-proto': 'http' }, { 'x-forwarded-host': 'b.example', 'x-forwarded-proto': 'https' }, { host: 'a.example', 'x-forwarded-host': 'a.example' }]
  for (const trustProxy of [false, true]) {
    for (const [name, read] of Object.entries(hosts)) {
      const { app } = await createApp(t, { server: { trustProxy } })
      const config = { cache: name.startsWith('key') ? { key: { host: true } } : name.startsWith('vary') ? { vary: ['host'] } : true }
      const url = '/'
      for (const host of ['a.example', 'inner.example']) {
        if (name.startsWith('constraint')) app.route({ method: 'GET', url, config, constraints: { host }, handler: async request => String(read(request)) })
      }
      if (!name.startsWith('constraint')) app.get(url, { config }, async request => String(read(request)))
      app.get('/uncached', async request => String(read(request)))
      for (const client of [...clients, ...clients]) {
        const headers = { host: 'inner.example', ...client }
        t.equal((await ask(app, url, headers)).body, (await ask(app, '/uncached', headers)).body, `${name}, trustProxy ${trustProxy}, ${JSON.stringify(client)}`)
        await settled(app)
      }
    }
  }
})

t.test('behind a trusted proxy that sends X-Forwarded-Host, a route with key.host that reads request.hostname is a HIT; without the header, one with a constraint is', async t => {
  const { app } = await createApp(t, { server: { trustProxy: true } })
  app.addHook('onRequest', async request => { Object.assign(request, { tenant: request.hostname }) })
  app.get('/', { config: { cache: { key: { host: true } } } }, async request => `${request.protocol}://${request.hostname}`)
  app.get('/one', { ...CACHED, constraints: { host: 'inner.example' } }, async request => request.hostname)
  const forwarded = { host: 'inner.example', 'x-forwarded-host': 'a.example', 'x-forwarded-proto': 'https' }
  t.same((await askAs(app, '/', [forwarded])).map(({ cache, body }) => `${cache} ${body}`), ['MISS https://a.example', 'HIT https://a.example'])
  t.same((await askAs(app, '/one', [{ host: 'inner.example' }])).map(({ cache }) => cache), ['MISS', 'HIT'])
})

t.test('the part of a URL that rewriteUrl removes, such as a language, distinguishes responses', async t => {
  const { app, clock } = await createApp(t, {
    server: {
      rewriteUrl (request) {
        const [, language, path] = /^\/(de|en)(\/.*)$/.exec(request.url ?? '') ?? []
        Object.assign(request, { language })
        return path ?? request.url ?? ''
      }
    },
    options: { ttl: '1m', staleWhileRevalidate: '1h' }
  })
  app.get('/page', CACHED, async request => `${String(Reflect.get(request.raw, 'language'))} ${request.originalUrl}`)
  const askAll = async () => {
    const answers: string[] = []
    for (const url of ['/de/page?b=1&a=2', '/en/page?b=1&a=2', '/page']) {
      const { cache, body } = await ask(app, url)
      await settled(app)
      answers.push(`${cache} ${body}`)
    }
    return answers
  }
  const pages = ['de /de/page?b=1&a=2', 'en /en/page?b=1&a=2', 'undefined /page']
  const expected = (cache: string) => pages.map(page => `${cache} ${page}`)
  t.same(await askAll(), expected('MISS'))
  t.same(await askAll(), expected('HIT'))
  await clock.advance('2m')
  t.same(await askAll(), expected('STALE'))
  t.same(await askAll(), expected('HIT'), 'the refresh in the background goes the same way')
  t.equal((await ask(app, '/de/page?a=2&b=1')).cache, 'HIT', 'the order of a query is none')
})

t.test('with an owner, reads of the owner function do not count, and a header or cookie that only the handler reads does', async t => {
  const { app } = await createApp(t, { before: async app => { await app.register(cookie) } })
  const owned = (more: RouteCacheOptions = {}) => ({ config: { cache: { private: (request: FastifyRequest) => request.cookies['user'], ...more } } })
  app.get('/own', owned(), async request => `${request.cookies['user']}`)
  app.get('/theme', owned(), async request => `${request.cookies['user']} ${request.cookies['theme']}`)
  app.get('/header', owned(), async request => `${request.cookies['user']} ${String(request.headers['x-theme'])}`)
  const clients = ['dark', 'light'].map(theme => ({ cookie: `user=ann; theme=${theme}`, 'x-theme': theme }))
  t.same((await askAs(app, '/own', clients)).map(({ cache, body }) => `${cache} ${body}`), ['MISS ann', 'HIT ann', 'HIT ann', 'HIT ann'])
  for (const url of ['/theme', '/header']) t.same((await askAs(app, url, clients)).map(({ body }) => body), ['ann dark', 'ann light', 'ann dark', 'ann light'], url)
})

t.test('a public route ignores the user, but not other headers', async t => {
  const { app } = await createApp(t, { before: async app => { await app.register(cookie) } })
  app.addHook('onRequest', async request => { Object.assign(request, { user: request.cookies['user'], tenant: request.headers['x-tenant'] }) })
  app.get('/', { config: { cache: { public: true } } }, async request => `page of ${String(Reflect.get(request, 'tenant'))}`)
  t.same((await askAs(app, '/', [{ cookie: 'user=ann' }, { cookie: 'user=bob' }])).map(({ cache }) => cache), ['MISS', 'HIT', 'HIT', 'HIT'])
  t.same((await askAs(app, '/', [{ 'x-tenant': 'a' }, { 'x-tenant': 'b' }])).map(({ body }) => body), ['page of a', 'page of b', 'page of a', 'page of b'])
})

t.test('a CSRF token is never another visitor\'s, with cookies and with a session, in the handler and in a hook', async t => {
  const plugins: Record<string, (app: FastifyInstance) => Promise<void>> = {
    cookies: async app => { await app.register(cookie); await app.register(csrf) },
    'secure-session': async app => {
      await app.register(secureSession, { secret: SECRET, salt: 'mq9hDxBVDbspDR6n', cookie: { path: '/' } })
      await app.register(csrf, { sessionPlugin: '@fastify/secure-session' })
    }
  }
  for (const [name, before] of Object.entries(plugins)) {
    // Even where a response with Set-Cookie may be stored.
    const { app, warnings } = await createApp(t, { before, options: { storeSetCookie: true } })
    app.get('/handler', CACHED, async (_request, reply) => reply.generateCsrf())
    app.get('/hook', { ...CACHED, preHandler: async (request, reply) => { Object.assign(request, { token: reply.generateCsrf() }) } }, async request => Reflect.get(request, 'token') as string)
    for (const url of ['/handler', '/hook']) {
      const responses = await askAs(app, url, [{}, {}])
      t.equal(new Set(responses.map(({ body }) => body)).size, 4, `${name} ${url}`)
      t.equal(warnings().filter(line => line.includes(`route ${url} reads reply.generateCsrf()`)).length, 1, `${name} ${url} is logged once`)
    }
  }
})

t.test('a page with a nonce of one response is not stored: of helmet, of the handler\'s own, or put in by a hook', async t => {
  const { app, warnings } = await createApp(t, { before: async app => { await app.register(helmet, { enableCSPNonces: true }) } })
  let count = 0
  const html = (nonce: string) => `<script nonce="${nonce}"></script>`
  app.get('/helmet', CACHED, async (_request, reply) => await reply.type('text/html').send(html(reply.cspNonce.script)))
  app.get('/hook', { ...CACHED, preHandler: async (request, reply) => { Object.assign(request, { nonce: reply.cspNonce.script }) } },
    async (request, reply) => await reply.type('text/html').send(html(Reflect.get(request, 'nonce') as string)))
  app.get('/stream', { ...CACHED, preHandler: async (request, reply) => { Object.assign(request, { nonce: reply.cspNonce.script }) } },
    async (request, reply) => await reply.type('text/html').send(Readable.from([html(Reflect.get(request, 'nonce') as string)])))
  app.get('/own', CACHED, async (_request, reply) => await reply.header('content-security-policy', `script-src 'nonce-n${++count}'`).type('text/html').send(html(`n${count}`)))
  app.get('/onSend', {
    ...CACHED,
    onSend: async (_request, reply, payload) => {
      reply.header('content-security-policy', `script-src 'nonce-n${++count}'`)
      return String(payload).replace('__NONCE__', `n${count}`)
    }
  }, async (_request, reply) => await reply.type('text/html').send(html('__NONCE__')))
  app.get('/none', CACHED, async (_request, reply) => await reply.type('text/html').send('<p>no script</p>'))
  for (const url of ['/helmet', '/hook', '/stream', '/own', '/onSend']) {
    t.equal(new Set((await askAs(app, url, [{}, {}])).map(({ body }) => body)).size, 4, url)
    t.ok(warnings().some(line => line.includes(`route ${url} `) && /nonce/i.test(line) && line.includes('not stored')), `${url} is logged`)
  }
  t.same((await askAs(app, '/none', [{}])).map(({ cache }) => cache), ['MISS', 'HIT'], 'a page without one is')
})

t.test('a response into which an onSend hook puts the visitor\'s name is not shared', async t => {
  const { app } = await createApp(t, { before: async app => { await app.register(cookie) } })
  app.get('/', CACHED, async () => '__NAME__')
  app.addHook('onSend', async (request, _reply, payload) => String(payload).replace('__NAME__', request.cookies['name'] ?? 'guests'))
  app.get('/late', CACHED, async () => '__NAME__')
  await isGivenToEachItsOwn(t, app, '/late', { ann: { cookie: 'name=ann' }, bob: { cookie: 'name=bob' } })
})

onBothStores('requests that wait for a response do not get it if it is not right for them', async (t, store) => {
  const { app } = await createApp(t, { store })
  const { opened, open } = gate()
  let running = 0
  app.get('/', CACHED, async request => {
    const name = String(request.headers['x-user'] ?? 'guests')
    running++
    await opened
    return name
  })
  const names = Array.from({ length: 20 }, (_, i) => `user ${i}`)
  const first = Promise.all(names.map(name => ask(app, '/', { 'x-user': name })))
  await settled(app)
  t.equal(running, 1, 'one makes it, as it might be for all')
  open()
  t.same((await first).map(({ body }) => body), names)
})

t.test('after a response that could not be shared, requests of that kind do not wait for one another, and others still do', async t => {
  const { app } = await createApp(t)
  const gates = [gate(), gate()]
  let runs = 0
  app.get('/', CACHED, async request => {
    runs++
    const name = String(request.headers['x-user'] ?? 'guests')
    if (name.startsWith('slow')) await gates[0]?.opened
    if (name === 'guests') await gates[1]?.opened
    return name
  })
  await ask(app, '/', { 'x-user': 'first' })
  runs = 0
  const slow = Promise.all([1, 2, 3].map(n => ask(app, '/', { 'x-user': `slow ${n}` })))
  const anonymous = Promise.all([1, 2, 3].map(() => ask(app, '/')))
  await settled(app)
  t.equal(runs, 4, 'three that pass, and one for the three others')
  for (const { open } of gates) open()
  t.same((await slow).map(({ body }) => body), ['slow 1', 'slow 2', 'slow 3'])
  t.same((await anonymous).map(({ body }) => body), ['guests', 'guests', 'guests'])
})

t.test('an unstored response is logged once a route and name, with advice, and explained in Cache-Status where explain allows it', async t => {
  const { app, lines } = await createApp(t, { options: { explain: () => true } })
  app.get('/logged', CACHED, async request => String(request.headers['x-tenant']))
  for (const n of [1, 2, 3]) t.match((await ask(app, `/logged?${n}`, { 'x-tenant': 'a' })).headers['cache-status'], /;detail="reads x-tenant"/)
  const said = lines.filter(({ msg }) => String(msg).startsWith('cache: route /logged'))
  t.match(said, [{ level: 40, plugin: 'cache', route: '/logged', header: 'x-tenant', msg: /neither the key nor Vary nor an owner holds.* is not stored; add it to vary, return an owner from private, or list "x-tenant" in harmless/ }])
  t.equal(said.length, 1)
})

t.test('the log has no names that a client has chosen, where a handler reads all headers or all cookies', async t => {
  const { app, warnings } = await createApp(t, { before: async app => { await app.register(cookie) } })
  app.get('/cookies', CACHED, async request => Object.values(request.cookies).join())
  app.get('/headers', CACHED, async request => Object.values(request.headers).join())
  for (const url of ['/cookies', '/headers']) await ask(app, url, { cookie: 'chosen-cookie=1', 'chosen-header': '1' })
  t.match(warnings(), [/reads "cookie"/, /reads all headers at once/])
  t.equal(warnings().length, 2)
})

t.test('"harmless" extends what may be read, "!" takes a name out, and a route\'s own list replaces the plugin\'s', async t => {
  const { app } = await createApp(t, { options: { harmless: ['X-Theme', 'cookie:Theme', '!user-agent'] }, before: async app => { await app.register(cookie) } })
  const read = async (request: FastifyRequest) => `${String(request.headers['x-theme'])} ${request.cookies['Theme']}`
  app.get('/plugin', CACHED, read)
  app.get('/route', { config: { cache: { harmless: [] } } }, read)
  app.get('/agent', CACHED, async request => request.headers['user-agent'])
  app.get('/agent-by-default', { config: { cache: { harmless: [] } } }, async request => request.headers['user-agent'])
  const headers = { 'x-theme': 'dark', cookie: 'Theme=dark' }
  const statuses = async (url: string) => (await askAs(app, url, [headers])).map(({ cache }) => cache)
  t.same(await statuses('/plugin'), ['MISS', 'HIT'])
  t.same(await statuses('/route'), ['MISS', 'MISS'])
  t.same(await statuses('/agent'), ['MISS', 'MISS'])
  t.same(await statuses('/agent-by-default'), ['MISS', 'HIT'])
  for (const harmless of ['x-theme', [1], null]) {
    await t.rejects(async () => await createApp(t, { options: { harmless: harmless as never } }), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION', message: /harmless/ })
  }
})

t.test('a route whose hooks cannot be watched is not cached, and the log says so', async t => {
  const { app, warnings } = await createApp(t)
  app.addHook('onRoute', route => { route.childLoggerFactory = (logger, bindings, options) => logger.child(bindings, options ?? {}) })
  app.get('/', CACHED, async () => 'page')
  t.same((await askAs(app, '/', [{}])).map(({ cache }) => cache), ['BYPASS', 'BYPASS'])
  t.match(warnings(), [/childLoggerFactory/])
})

t.test('unkeyed: "warn" stores and logs, false stores and does not', async t => {
  const { app, warnings } = await createApp(t, { options: { unkeyed: 'warn' } })
  const read = async (request: FastifyRequest) => String(request.headers['x-user'])
  app.get('/warn', CACHED, read)
  app.get('/false', { config: { cache: { unkeyed: false } } }, read)
  for (const url of ['/warn', '/false']) t.same((await askAs(app, url, [{ 'x-user': 'ann' }])).map(({ cache }) => cache), ['MISS', 'HIT'], url)
  t.same(warnings().map(line => line.slice(0, 43)), ['cache: route /warn reads the header "x-user'])
})

t.test('in production responses are not stored either where something counts', async t => {
  const before = process.env['NODE_ENV']
  process.env['NODE_ENV'] = 'production'
  t.teardown(() => { if (before === undefined) delete process.env['NODE_ENV']; else process.env['NODE_ENV'] = before })
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(cache, { redis: false })
  app.get('/', CACHED, async request => String(request.headers['x-user']))
  await isGivenToEachItsOwn(t, app, '/', { ann: { 'x-user': 'ann' }, bob: { 'x-user': 'bob' } })
})

t.test('an encoding that the handler chose is not sent to clients that do not accept it', async t => {
  const { app } = await createApp(t)
  app.get('/', CACHED, async (request, reply) => {
    if (!request.headers['accept-encoding']?.includes('x-own')) return 'plain'
    return await reply.header('content-encoding', 'x-own').send('own')
  })
  t.same((await askAs(app, '/', [{ 'accept-encoding': 'x-own' }, {}])).map(({ body }) => body).slice(0, 2), ['own', 'plain'])
})
