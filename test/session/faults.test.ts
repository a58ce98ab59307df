import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import fastifyCookie from '@fastify/cookie'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { circuitOf, redis } from '../../plugins/redis/index.js'
import { session, type SessionPluginOptions } from '../../plugins/session/index.js'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { closeApp } from '../helpers/app/test-app.js'
import { advanceUntil, advanceWhile, newPrefix, sharedRedis, startProxy, startRedis, until, type RedisServer } from '../helpers/index.js'
import { anySession, Browser, buildApp, SECRET } from '../helpers/session/session-app.js'

const TIMEOUT = 60_000
const STEP = { step: 1000 }
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
  const clock = createTestClock()
  // A command that waits for a new connection may still run after its 503: a server that refuses shall refuse each time.
  // The timers of commands without replies keep the process alive until their time-outs.
  const redis = { url: `redis://127.0.0.1:${proxy.port}`, prefix: 'x', commandTimeout: 3000, reconnectOnError: () => false }
  const app = await buildApp(t, { redis, clock, session: { timeout: TIMEOUT, ...session }, routes: faultRoutes(fault) })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  return { app, server, proxy, user, clock, keys: () => server.client().keys('*') }
}

/** Advances the clock until Redis is used again after an outage. */
async function untilServed (clock: TestClock, user: Browser): Promise<void> {
  await advanceUntil(clock, 'the session is served again', async () => (await advanceWhile(clock, user.send('GET', '/'), STEP)).value.statusCode === 200, STEP)
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
    t.same(await user.state(), { a: 1 }, name)
  }
})

t.test('a change that cannot be saved is tried once, and the response is sent within one time-out, with any error handler', async t => {
  const handlers = {
    none: () => {},
    'a handler': (app: FastifyInstance) => app.setErrorHandler((error, _, reply) => { reply.code(503).send(error) }),
    'an asynchronous one': (app: FastifyInstance) => app.setErrorHandler(async (error, _, reply) => {
      await new Promise(resolve => setImmediate(resolve))
      await reply.code(503).send(error)
    })
  }
  for (const [name, handle] of Object.entries(handlers)) {
    const server = await startRedis()
    const clock = createTestClock()
    let atPause = () => {}
    const pause = async () => {
      await server.client().call('CLIENT', 'PAUSE', '600000', 'WRITE')
      atPause()
    }
    const app = await buildApp(t, {
      redis: { url: server.url, prefix: 'once' },
      clock,
      session: { timeout: TIMEOUT },
      before: handle,
      routes: app => {
        app.post('/change', async request => {
          anySession(request)['late'] = 1
          await pause()
        })
        app.post('/save', async request => {
          anySession(request)['late'] = 1
          await pause()
          await request.session.save()
        })
        app.post('/destroy', (request, reply) => {
          anySession(request)['late'] = 1
          pause().then(() => request.session.destroy(() => reply.send({})), () => {})
        })
      }
    })
    for (const url of ['/change', '/save', '/destroy']) {
      const user = new Browser(app)
      await user.send('POST', '/set', { a: 1 })
      const paused = new Promise<void>(resolve => { atPause = resolve })
      const pending = user.send('POST', url)
      await paused
      const { value: reply, passed } = await advanceWhile(clock, pending, STEP)
      await server.client().call('CLIENT', 'UNPAUSE')
      t.equal(reply.statusCode, 503, `${name}, ${url}`)
      t.match(reply.json(), { code: UNAVAILABLE }, name)
      t.ok(passed >= TIMEOUT && passed < 2 * TIMEOUT, `${name}, ${url}: after ${passed} ms`)
      await untilServed(clock, user)
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
  t.test(`Redis refuses before ${what}: 503, no Set-Cookie, and afterwards the session exists and nothing else`, async t => {
    const fault = { now: (): unknown => undefined }
    const { server, user, keys } = await start(t, {}, fault)
    const { cookie } = user
    const before = await keys()
    fault.now = () => readOnly(server)
    isUnavailable(t, await user.send('POST', `/${what}`), what)
    await master(server)
    t.equal(user.cookie, cookie)
    t.same(await user.state(), { a: 1 })
    t.same(await keys(), before)
  })
}

t.test('a connection that is lost during a request: 503 within one time-out, for every use of the session', async t => {
  for (const what of USES) {
    const fault = { now: (): unknown => undefined }
    const { proxy, user, clock } = await start(t, {}, fault)
    const lost = new Promise<void>(resolve => {
      fault.now = () => {
        // Nothing listens there.
        proxy.target(1)
        proxy.sever()
        resolve()
      }
    })
    const pending = user.send('POST', `/${what}`)
    await lost
    const { value: reply, passed } = await advanceWhile(clock, pending, STEP)
    isUnavailable(t, reply, what)
    t.ok(passed < 2 * TIMEOUT, `${what}: after ${passed} ms`)
  }
})

t.test('while Redis hangs or is killed, a request with a session is 503 within one time-out and keeps its cookie; others are served', async t => {
  const { server, user, app, clock } = await start(t)
  const { cookie } = user
  server.pause()
  const pending = Promise.all(Array.from({ length: 20 }, () => app.inject({ url: '/', headers: { cookie: cookie! } })))
  const { value: replies, passed } = await advanceWhile(clock, pending, STEP)
  t.ok(passed >= TIMEOUT && passed < 2 * TIMEOUT, `after ${passed} ms`)
  for (const reply of replies) isUnavailable(t, reply, 'hung')
  for (const method of ['HEAD', 'GET'] as const) t.equal((await app.inject({ method, url: '/without', headers: { cookie: cookie! } })).statusCode, 200)
  t.equal((await app.inject('/')).statusCode, 200, 'a request without a session')
  server.resume()
  await untilServed(clock, user)
  t.same(await user.state(), { a: 1 })
  await server.client().script('FLUSH')
  t.same(await user.state(), { a: 1 }, 'without scripts')
  await server.kill()
  isUnavailable(t, (await advanceWhile(clock, user.send('GET', '/'), STEP)).value, 'killed')
  t.equal(user.cookie, cookie)
})

t.test('a session that is flushed during a request is not written again in part', async t => {
  const fault = { now: (): unknown => undefined }
  const { user, server, keys } = await start(t, {}, fault)
  fault.now = () => server.client().flushall()
  t.equal((await user.send('POST', '/change')).statusCode, 200)
  t.same(await keys(), [])
  t.same(await user.state(), {})
})

t.test('a write that Redis executes after its 503 does not restore a session that was flushed', async t => {
  const fault = { now: (): unknown => undefined }
  const { user, server, keys, clock } = await start(t, {}, fault)
  const hung = new Promise<void>(resolve => {
    fault.now = async () => {
      await server.client().flushall()
      server.pause()
      resolve()
    }
  })
  const pending = user.send('POST', '/change')
  await hung
  isUnavailable(t, (await advanceWhile(clock, pending, STEP)).value, 'hung')
  server.resume()
  await untilServed(clock, user)
  t.same(await keys(), [])
  t.same(await user.state(), {})
})

t.test('anonymous: a request whose session cannot be read continues with an empty one, which is never saved, even if Redis recovers meanwhile', async t => {
  const back = { now: (): unknown => undefined }
  const { server, user, app, keys, clock } = await start(t, { onStoreError: 'anonymous' }, back)
  let isReached = false
  const { cookie } = user
  const before = await keys()
  const lose = () => { if (server.answers) server.pause() }
  back.now = async () => {
    isReached = true
    server.resume()
    await advanceUntil(clock, 'Redis is used again', () => app.sessions.count('nobody').then(() => true, () => false), STEP)
  }
  // Redis has recovered when the handler runs, and replies have no deadlines.
  const send = async (what: string) => {
    isReached = false
    lose()
    const pending = user.send('POST', `/${what}`)
    const state = { isSettled: false }
    pending.finally(() => { state.isSettled = true }).catch(() => {})
    await advanceUntil(clock, `${what}: the handler runs`, () => isReached || state.isSettled, STEP)
    return await pending
  }
  for (const url of ['/', '/stream', '/hijack', '/without']) {
    lose()
    const reply = (await advanceWhile(clock, user.send('GET', url), STEP)).value
    t.equal(reply.statusCode, 200, url)
    t.equal(reply.headers['set-cookie'], undefined, url)
  }
  for (const what of ['change', 'reload']) {
    const reply = await send(what)
    t.equal(reply.statusCode, 200, what)
    t.equal(reply.headers['set-cookie'], undefined, what)
  }
  for (const what of ['save', 'destroy', 'regenerate', 'regenerate-keep', 'late-login', 'late-logout']) {
    isUnavailable(t, await send(what), what)
  }
  t.equal(user.cookie, cookie)
  t.same(await user.state(), { a: 1 })
  t.same(await keys(), before)
})

t.test('a reply sent before sessions are read does not clear the cookie', async t => {
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

t.test('a reply sent after sessions are read neither loses a session nor clears its cookie', async t => {
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

t.test('a route without sessions sends Redis no script', async t => {
  const { user, server } = await start(t)
  const calls = async () => (await server.client().info('commandstats')).match(/cmdstat_eval(sha)?:calls=\d+/g)?.join()
  const before = await calls()
  for (const method of ['GET', 'HEAD'] as const) t.equal((await user.send(method, '/without')).statusCode, 200)
  t.equal(await calls(), before)
})

/** A proxy that holds Redis's replies back, and passes them on piece by piece. */
async function startHoldingProxy (t: Test, port: number) {
  const held: Array<() => void> = []
  let isHolding = false
  const sockets: Socket[] = []
  const server = createServer({ noDelay: true }, client => {
    const target = connect({ port, host: '127.0.0.1', noDelay: true })
    sockets.push(client, target)
    client.on('error', () => {}).on('close', () => target.destroy()).pipe(target)
    target.on('error', () => {}).on('data', chunk => {
      if (isHolding) held.push(() => client.write(chunk))
      else client.write(chunk)
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => { for (const socket of sockets) socket.destroy(); server.close() })
  return {
    port: (server.address() as AddressInfo).port,
    held,
    hold (isOn: boolean) { isHolding = isOn },
    pass () { held.shift()?.() }
  }
}

t.test('while replies of Redis keep coming, however late, a session is served late, and not 503', async t => {
  const proxy = await startHoldingProxy(t, (await sharedRedis()).port)
  const clock = createTestClock()
  // The harness is not used: its own connection would be held back as well.
  const app = Fastify()
  t.teardown(() => closeApp(app, clock))
  await app.register(redis, { host: '127.0.0.1', port: proxy.port, prefix: newPrefix(), commandTimeout: 600_000, clock })
  await app.register(session, { secret: SECRET, clock })
  app.get('/', async request => ({ ...request.session, cookie: undefined }))
  app.post<{ Body: object }>('/set', async request => { Object.assign(request.session, request.body) })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  proxy.hold(true)
  // The commands of other callers before it.
  const before = 6
  const pings = []
  for (let i = 1; i <= before; i++) {
    pings.push(app.redis.ping())
    await until('the reply is held back', () => proxy.held.length === i)
  }
  let isAnswered = false
  const answered = user.send('GET', '/').finally(() => { isAnswered = true })
  await until('the session is asked for', () => proxy.held.length === before + 1)
  for (const ping of pings) {
    await clock.advance(100)
    t.equal(isAnswered, false)
    proxy.pass()
    await ping
  }
  // Its script may have to be sent, which is one more reply.
  await until('the session is served', async () => {
    if (proxy.held.length > 0) {
      await clock.advance(100)
      proxy.pass()
    }
    return isAnswered
  })
  t.match(await answered, { statusCode: 200, body: /"a":1/ })
  t.match(circuitOf(app.redis), { state: 'closed', opened: 0 })
  proxy.hold(false)
})
