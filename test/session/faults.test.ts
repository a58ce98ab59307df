import fastifyCookie from '@fastify/cookie'
import type { FastifyInstance } from 'fastify'
import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import type { SessionPluginOptions } from '../../plugins/session/index.js'
import { startProxy, startRedis, until, type RedisServer } from '../helpers/index.js'
import { anySession, Browser, buildApp } from '../helpers/session/session-app.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const TIMEOUT = 100
const UNAVAILABLE = 'FST_REDIS_SUITE_SESSION_STORE_UNAVAILABLE'
type Reply = Awaited<ReturnType<Browser['send']>>

/** Routes at which a fault happens between reading a session and using it. */
function faultRoutes (fault: { now: () => unknown }) {
  return (app: FastifyInstance) => {
    const break_ = async () => { await fault.now() }
    app.post('/change', async request => { await break_(); anySession(request).late = 1 })
    app.post('/destroy', async request => { await break_(); await request.session.destroy() })
    app.post('/regenerate', async request => { await break_(); await request.session.regenerate() })
    app.post('/regenerate-keep', async request => { await break_(); await request.session.regenerate(['a'] as never) })
    app.post('/save', async request => { await break_(); anySession(request).late = 1; await request.session.save() })
    app.post('/reload', async request => { await break_(); await request.session.reload() })
    app.post('/late-login', async request => { await break_(); await request.login('eve') })
    app.post('/late-logout', async request => { await break_(); await request.logout() })
    app.get('/without', { config: { session: false } }, async request => ({ session: request.session }))
    app.get('/stream', async (_, reply) => reply.send(Readable.from(['a stream'])))
    app.get('/throw', async () => { throw new Error('of the route') })
    app.get('/hijack', async (_, reply) => {
      reply.hijack()
      reply.raw.end('hijacked')
    })
  }
}

async function start (t: Test, session: Partial<SessionPluginOptions> = {}, fault = { now: (): unknown => undefined }) {
  const server = await startRedis()
  const proxy = await startProxy(server.port)
  // What waits for a new connection may still be done after its 503: a server that refuses shall refuse each time.
  const redis = { url: `redis://127.0.0.1:${proxy.port}`, prefix: 'x', reconnectOnError: () => false }
  const app = await buildApp(t, { redis, session: { timeout: TIMEOUT, ...session }, routes: faultRoutes(fault) })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  return { app, server, proxy, user, keys: () => server.client().keys('*') }
}

function isUnavailable (t: Test, reply: Reply, what: string): void {
  t.equal(reply.statusCode, 503, what)
  t.match(reply.json(), { code: UNAVAILABLE }, what)
  t.equal(reply.headers['retry-after'], '1', what)
  t.equal(reply.headers['set-cookie'], undefined, `${what}: the client's cookie stays`)
}

const readOnly = async (server: RedisServer) => { await server.client().replicaof('127.0.0.1', '1') }
const master = async (server: RedisServer) => { await server.client().replicaof('NO', 'ONE') }
const full = async (server: RedisServer) => { await server.client().config('SET', 'maxmemory', '1') }
const notFull = async (server: RedisServer) => { await server.client().config('SET', 'maxmemory', '0') }

t.test('while Redis cannot write, what would be saved is 503, and the session is as it was afterwards', async t => {
  for (const [name, breakIt, mend] of [['READONLY', readOnly, master], ['OOM', full, notFull]] as const) {
    const { server, user } = await start(t)
    const { cookie } = user
    await breakIt(server)
    isUnavailable(t, await user.send('POST', '/change'), `${name}: change`)
    isUnavailable(t, await user.send('POST', '/save'), `${name}: save`)
    await mend(server)
    t.equal(user.cookie, cookie, name)
    await until('it is served again', async () => (await user.send('GET', '/')).statusCode === 200)
    t.same(await user.state(), { a: 1 }, name)
  }
})

t.test('a change that cannot be saved is tried once, and answered within one time-out, whoever makes the reply of it', async t => {
  const handlers = {
    none: () => {},
    'a handler': (app: FastifyInstance) => app.setErrorHandler((error, _, reply) => { reply.code(503).send(error) }),
    'an asynchronous one': (app: FastifyInstance) => app.setErrorHandler(async (error, _, reply) => {
      await sleep(1)
      await reply.code(503).send(error)
    })
  }
  for (const [name, handle] of Object.entries(handlers)) {
    const server = await startRedis()
    const app = await buildApp(t, {
      redis: { url: server.url, prefix: 'once' },
      session: { timeout: 1000 },
      before: handle,
      routes: app => {
        app.post('/change', async request => {
          anySession(request)['late'] = 1
          await server.client().call('CLIENT', 'PAUSE', '60000', 'WRITE')
        })
        app.post('/destroy', (request, reply) => {
          anySession(request)['late'] = 1
          server.client().call('CLIENT', 'PAUSE', '60000', 'WRITE').then(() => request.session.destroy(() => reply.send({})), () => {})
        })
      }
    })
    for (const url of ['/change', '/destroy']) {
      const user = new Browser(app)
      await user.send('POST', '/set', { a: 1 })
      const since = stopwatch()
      const reply = await user.send('POST', url)
      const ms = since()
      await server.client().call('CLIENT', 'UNPAUSE')
      t.equal(reply.statusCode, 503, `${name}, ${url}`)
      t.match(reply.json(), { code: UNAVAILABLE }, name)
      t.ok(ms < 1900, `${name}, ${url}: ${ms} ms`)
      await until('it is served again', async () => (await user.send('GET', '/')).statusCode === 200)
    }
  }
})

t.test('while Redis is out of memory, sessions can be read and ended', async t => {
  const { server, user } = await start(t)
  const { cookie } = user
  await full(server)
  t.same(await user.state(), { a: 1 })
  t.equal((await user.send('POST', '/logout')).statusCode, 200)
  user.cookie = cookie
  t.same(await user.state(), {})
})

const USES = ['change', 'save', 'reload', 'destroy', 'regenerate', 'regenerate-keep', 'late-login', 'late-logout']

// A replica can be read.
for (const what of USES.filter(what => what !== 'reload')) {
  t.test(`Redis refuses before ${what}: 503, no Set-Cookie, and the session is there afterwards, and nothing beside it`, async t => {
    const fault = { now: (): unknown => undefined }
    const { server, user, keys } = await start(t, {}, fault)
    const { cookie } = user
    const before = await keys()
    fault.now = () => readOnly(server)
    isUnavailable(t, await user.send('POST', `/${what}`), what)
    await master(server)
    await until('it is served again', async () => (await user.send('GET', '/')).statusCode === 200)
    t.equal(user.cookie, cookie)
    t.same(await user.state(), { a: 1 })
    t.same(await keys(), before)
  })
}

t.test('a connection that is lost under way: 503 in time, whatever is done with the session', async t => {
  for (const what of USES) {
    const fault = { now: (): unknown => undefined }
    const { proxy, user } = await start(t, {}, fault)
    fault.now = () => {
      // Nobody listens there.
      proxy.target(1)
      proxy.sever()
    }
    const sinceStart = stopwatch()
    isUnavailable(t, await user.send('POST', `/${what}`), what)
    t.ok(sinceStart() < 10 * TIMEOUT)
  }
})

t.test('a server that hangs, dies, or loses its scripts under way: 503 in time or served, never a new cookie', async t => {
  const { server, user, app } = await start(t)
  const { cookie } = user
  server.pause()
  const sinceStart = stopwatch()
  const replies = await Promise.all(Array.from({ length: 20 }, () => app.inject({ url: '/', headers: { cookie: cookie! } })))
  t.ok(sinceStart() < 5 * TIMEOUT)
  for (const reply of replies) isUnavailable(t, reply, 'hung')
  for (const method of ['HEAD', 'GET'] as const) t.equal((await app.inject({ method, url: '/without', headers: { cookie: cookie! } })).statusCode, 200)
  server.resume()
  await until('it is served again', async () => (await user.send('GET', '/')).statusCode === 200)
  t.same(await user.state(), { a: 1 })
  await server.client().script('FLUSH')
  t.same(await user.state(), { a: 1 }, 'without scripts')
  await server.kill()
  isUnavailable(t, await user.send('GET', '/'), 'killed')
  t.equal(user.cookie, cookie)
})

t.test('a session that is flushed under way is not written again in part', async t => {
  const fault = { now: (): unknown => undefined }
  const { user, server, keys } = await start(t, {}, fault)
  fault.now = () => server.client().flushall()
  t.equal((await user.send('POST', '/change')).statusCode, 200)
  t.same(await keys(), [])
  t.same(await user.state(), {})
})

t.test('anonymous: a request whose session cannot be read goes on with an empty one, which nothing saves, even if Redis comes back under way', async t => {
  const back = { now: (): unknown => undefined }
  const { server, user, app, keys } = await start(t, { onStoreError: 'anonymous' }, back)
  const { cookie } = user
  const before = await keys()
  const lose = () => { if (server.answers) server.pause() }
  back.now = async () => {
    server.resume()
    await until('it is asked again', () => app.sessions.count('nobody').then(() => true, () => false))
  }
  for (const url of ['/', '/stream', '/hijack']) {
    lose()
    const reply = await user.send('GET', url)
    t.equal(reply.statusCode, 200, url)
    t.equal(reply.headers['set-cookie'], undefined, url)
  }
  for (const what of ['change', 'reload']) {
    lose()
    const reply = await user.send('POST', `/${what}`)
    t.equal(reply.statusCode, 200, what)
    t.equal(reply.headers['set-cookie'], undefined, what)
  }
  for (const what of ['save', 'destroy', 'regenerate', 'regenerate-keep', 'late-login', 'late-logout']) {
    lose()
    isUnavailable(t, await user.send('POST', `/${what}`), what)
  }
  t.equal(user.cookie, cookie)
  t.same(await user.state(), { a: 1 })
  t.same(await keys(), before)
})

t.test('who answers before sessions are read does not clear the cookie', async t => {
  const server = await startRedis()
  const refuse = (app: FastifyInstance) => app.addHook('onRequest', async (request, reply) => {
    if (request.headers['x-refuse']) return await reply.code(429).send('wait')
  })
  for (const before of [refuse, async (app: FastifyInstance) => { await app.register(fastifyCookie); refuse(app) }]) {
    const app = await buildApp(t, { redis: { url: server.url }, before })
    const user = new Browser(app)
    await user.send('POST', '/set', { a: 1 })
    const reply = await app.inject({ url: '/', headers: { cookie: user.cookie!, 'x-refuse': '1' } })
    t.equal(reply.statusCode, 429)
    t.equal(reply.headers['set-cookie'], undefined)
    t.same(await user.state(), { a: 1 })
  }
})

t.test('whatever answers after sessions were read neither loses nor clears one', async t => {
  const { app, user } = await start(t)
  const { cookie } = user
  const afterwards: Array<['GET' | 'HEAD' | 'OPTIONS', string, number]> = [['GET', '/nowhere', 404], ['HEAD', '/', 200], ['OPTIONS', '/', 404], ['GET', '/throw', 500],
    ['GET', '/stream', 200], ['GET', '/hijack', 200], ['GET', '/without', 200]]
  for (const [method, url, status] of afterwards) {
    const reply = await app.inject({ method, url, headers: { cookie: cookie! } })
    t.equal(reply.statusCode, status, `${method} ${url}`)
    t.equal(reply.headers['set-cookie'], undefined, `${method} ${url}`)
  }
  t.same((await user.send('GET', '/without')).json(), { session: null })
  t.same(await user.state(), { a: 1 })
})

t.test('a route without sessions asks the store for nothing', async t => {
  const { user, server } = await start(t)
  const calls = async () => (await server.client().info('commandstats')).match(/cmdstat_eval(sha)?:calls=\d+/g)?.join()
  const before = await calls()
  for (const method of ['GET', 'HEAD'] as const) t.equal((await user.send(method, '/without')).statusCode, 200)
  t.equal(await calls(), before)
})

t.test("@fastify/session's own options do as they do there", async t => {
  const server = await startRedis()
  const variants: Array<Partial<SessionPluginOptions>> = [{ rolling: true }, { saveUninitialized: true }, { cookie: { maxAge: 60_000 } }, { cookiePrefix: 's:' },
    { idGenerator: () => `{x}*\n${Math.random()}` }, { secret: { sign: (id: string) => `signed ${id}`, unsign: (text: string) => ({ valid: text.startsWith('signed '), renew: false, value: text.slice(7) }) } as never }]
  for (const options of variants) {
    const what = JSON.stringify(options)
    const app = await buildApp(t, { redis: { url: server.url, prefix: 'v' }, session: options, before: app => app.register(fastifyCookie) })
    const user = new Browser(app)
    await user.send('POST', '/set', { a: 1 })
    t.same(await user.state(), { a: 1 }, what)
    const again = await user.send('GET', '/')
    t.equal(again.headers['set-cookie'] !== undefined, options.rolling === true, what)
    await user.send('POST', '/login/ann')
    t.same(await user.state(), { userId: 'ann' }, what)
    await user.send('POST', '/logout')
    t.same(await user.state(), {}, what)
  }
})

t.test('in a child with a prefix, and outside of the path of its cookie, nobody else is touched', async t => {
  const server = await startRedis()
  const app = await buildApp(t, { redis: { url: server.url }, session: { cookie: { path: '/app' } }, routes: app => { app.get('/app/state', async request => ({ a: anySession(request).a })); app.post('/app/set', async request => { anySession(request).a = 1 }) } })
  const user = new Browser(app)
  t.match((await user.send('POST', '/app/set')).cookies[0], { path: '/app' })
  t.same((await user.send('GET', '/app/state')).json(), { a: 1 })
  const { cookie } = user
  t.equal((await user.send('GET', '/')).statusCode, 200)
  t.equal(user.cookie, cookie)
  t.match((await user.send('POST', '/login/ann')).json(), { code: 'FST_REDIS_SUITE_SESSION_NO_SESSION' })
})

t.test('a session that was read by hand writes only what changed, and is not made anew', async t => {
  const server = await startRedis()
  const byHand = (app: FastifyInstance) => app.post<{ Body: { cookie: string } }>('/by-hand', { config: { session: false } }, async request => {
    await new Promise<void>((resolve, reject) => app.decryptSession(request.body.cookie, request, error => error ? reject(error) : resolve()))
    anySession(request).b = 2
    // As another request does that changes it meanwhile.
    await app.redis.hset(`h:session:data:${app.sessions.handleOf(request.session.sessionId)}`, 'f:a', '"changed"', 'version', 'another')
    await request.session.save()
  })
  const app = await buildApp(t, { redis: { url: server.url, prefix: 'h' }, routes: byHand })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  t.equal((await app.inject({ method: 'POST', url: '/by-hand', payload: { cookie: decodeURIComponent(user.cookie!.slice(4)) } })).statusCode, 200)
  t.same(await user.state(), { a: 'changed', b: 2 })
})
