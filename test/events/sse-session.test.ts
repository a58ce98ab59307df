import type { FastifyBaseLogger, FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { EventsPluginOptions } from '../../plugins/events/index.js'
import type { SessionPluginOptions } from '../../plugins/session/index.js'
import { Watches } from '../../plugins/session/watches.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { advanceUntil, createTestApp, forEachStore, sharedRedis, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { lacking } from '../helpers/servers/commands.js'
import { openSse } from '../helpers/events/sse-client.js'
import { anySession, Browser, browserWith } from '../helpers/session/session-app.js'

function routes (app: FastifyInstance) {
  routesOfSessions(app)
  const sse = { heartbeat: '15s' }
  app.get('/events', async (request, reply) => await app.events.sse(request, reply, 'news', sse))
  app.get('/public', async (request, reply) => await app.events.sse(request, reply, 'news', { ...sse, session: false }))
  app.get('/without', { config: { session: false } }, async (request, reply) => await app.events.sse(request, reply, 'news', sse))
  app.get('/first', async (request, reply) => {
    anySession(request)['visits'] = 1
    await app.events.sse(request, reply, 'news', sse)
  })
}

function routesOfSessions (app: FastifyInstance) {
  app.get('/', async request => ({ ...request.session, cookie: undefined }))
  app.post('/set', async request => { anySession(request)['a'] = Math.random() })
  app.post('/login/:user', async request => {
    await request.login((request.params as { user: string }).user)
    return app.sessions.handleOf(request.session.sessionId)
  })
  app.post('/logout', async request => { await request.logout() })
  app.post('/destroy', async request => { await request.session.destroy() })
  app.post('/regenerate', async request => { await request.session.regenerate(['userId'] as never) })
}

interface Setting extends Omit<TestAppOptions, 'plugins' | 'routes'> {
  session?: Partial<SessionPluginOptions>
  events?: EventsPluginOptions
}

/** Starts two instances (one with the memory store), and logs a user in. */
async function start (t: Test, { session, events, store = 'memory', ...more }: Setting = {}) {
  const made = await createTestApp(t, { store, instances: store === 'memory' ? 1 : 2, plugins: { session: { timeout: '1h', ...session }, events: { timeout: '1h', ...events } }, routes, ...more })
  const [here, there = here] = made.apps as [FastifyInstance, FastifyInstance?]
  const user = new Browser(here)
  const handle = (await user.send('POST', '/login/ann')).body
  return { ...made, here, there, user, handle }
}

type Started = Awaited<ReturnType<typeof start>>

/** Ways to end a session: on the other instance, if there is one. */
const ends: Record<string, (started: Started) => Promise<unknown>> = {
  logout: ({ user, there }) => user.send('POST', '/logout', undefined, there),
  'session.destroy': ({ user, there }) => user.send('POST', '/destroy', undefined, there),
  regenerate: ({ user, there }) => user.send('POST', '/regenerate', undefined, there),
  'another login': ({ user, there }) => user.send('POST', '/login/eve', undefined, there),
  'sessions.destroy': ({ there, handle }) => there.sessions.destroy(handle),
  'sessions.destroyAll': ({ there }) => there.sessions.destroyAll('ann'),
  maxPerUser: ({ there }) => new Browser(there).send('POST', '/login/ann')
}

const noSharding = await lacking('ssubscribe')

forEachStore(['memory', 'redis', 'cluster'], store => {
  const skip = store === 'cluster' && noSharding
  for (const [name, end] of Object.entries(ends)) {
    t.test(`${store}: a stream ends with its session by ${name}, on whichever instance, and other streams go on`, { skip }, async t => {
      const started = await start(t, { store, session: { maxPerUser: 1 } })
      const { here, user } = started
      const bob = new Browser(here)
      await bob.send('POST', '/login/bob')
      const [stream, other, anonymous, open, without] = await Promise.all([
        openSse(t, here, '/events', user.cookie), openSse(t, here, '/events', bob.cookie), openSse(t, here, '/events'), openSse(t, here, '/public', user.cookie), openSse(t, here, '/without', user.cookie)
      ])
      await end(started)
      await until('the stream ends', () => stream.isOver)
      await here.events.publish('news', 'after')
      const rest = [other, anonymous, open, without]
      await until('the others hear an event', () => rest.every(({ text }) => text.includes('after')))
      t.same([stream, ...rest].map(({ isOver }) => isOver), [true, false, false, false, false])
      t.notMatch(stream.text, 'after')
    })
  }

  t.test(`${store}: a stream ends when the session's idle time has passed, and not while the session is used on another instance`, { skip }, async t => {
    const { here, there, user, clock } = await start(t, { store, session: { idleTimeout: '10m', absoluteTimeout: '2h' } })
    const stream = await openSse(t, here, '/events', user.cookie)
    for (let i = 0; i < 4; i++) {
      await clock.advance('5m')
      t.match(await user.state(there), { userId: 'ann' })
    }
    t.equal(stream.isOver, false)
    const passed = await advanceUntil(clock, 'the stream ends', () => stream.isOver, { step: 5000, atMost: 900_000 })
    // A use may extend the time by 5 % more; real time passes in Redis as well.
    t.ok(passed >= 540_000 && passed <= 650_000, `after ${passed} ms`)
  })

  t.test(`${store}: a stream ends when the session's absolute time has passed, although the session is used`, { skip }, async t => {
    const { here, there, user, clock } = await start(t, { store, session: { idleTimeout: '10m', absoluteTimeout: '1m' } })
    const stream = await openSse(t, here, '/events', user.cookie)
    await clock.advance('55s')
    t.match(await user.state(there), { userId: 'ann' })
    t.equal(stream.isOver, false)
    const passed = await advanceUntil(clock, 'the stream ends', () => stream.isOver, { step: 500, atMost: 20_000 })
    t.ok(passed <= 6500, `after ${passed} ms more`)
  })

  t.test(`${store}: a stream ends with the session that its own request began`, { skip }, async t => {
    const { here, there } = await start(t, { store })
    const stream = await openSse(t, here, '/first')
    t.equal((await browserWith(stream.cookie, there).send('POST', '/logout')).statusCode, 200)
    await until('the stream ends', () => stream.isOver)
  })
})

t.test('a stream ends when the lifetime of the session\'s cookie has passed', async t => {
  const { here, user, clock } = await start(t, { session: { cookie: { maxAge: 1000 } } })
  const stream = await openSse(t, here, '/events', user.cookie)
  await until('the cookie has expired', async () => (await here.inject({ url: '/', headers: { cookie: user.cookie ?? '' } })).body === '{}')
  await clock.advance('1s')
  await until('the stream ends', () => stream.isOver)
})

/** Two instances whose Redis user may neither publish nor subscribe, nor call other commands. */
async function startSevered (t: Test, { forbidden = [] }: { forbidden?: readonly string[] } = {}) {
  const server = await startRedis()
  await server.client().call('ACL', 'SETUSER', 'limited', 'on', '>limited', '~*', 'resetchannels', '+@all', ...forbidden)
  const url = server.url.replace('//', '//limited:limited@')
  // The clock of the test cannot shorten TTLs if commands are forbidden.
  const started = await start(t, { store: { url, ...forbidden.length > 0 && { answers: false } }, events: { redis: false } })
  return { ...started, redis: server.client() }
}

t.test('while no message arrives, a stream ends at the next heartbeat', async t => {
  const { here, there, user, clock, warnings } = await startSevered(t)
  const stream = await openSse(t, here, '/events', user.cookie)
  await clock.advance('1s')
  t.equal(await there.sessions.destroyAll('ann'), 1)
  await clock.advance('10s')
  t.equal(stream.isOver, false)
  await clock.advance('5s')
  await until('the stream ends', () => stream.isOver)
  t.same(warnings().filter(text => text.startsWith('session: ')), ['session: cannot subscribe to the end of sessions; a stream ends up to a heartbeat after its session'])
})

t.test('without the right to PTTL too, a stream ends at the next heartbeat after its session was destroyed or has expired', async t => {
  const { here, there, user, clock, prefix, redis } = await startSevered(t, { forbidden: ['-pttl'] })
  const bob = new Browser(here)
  const handle = (await bob.send('POST', '/login/bob')).body
  const [stream, other] = [await openSse(t, here, '/events', user.cookie), await openSse(t, here, '/events', bob.cookie)]
  t.equal(await there.sessions.destroyAll('ann'), 1)
  await clock.advance('16s')
  await until('the stream of the destroyed session ends', () => stream.isOver)
  t.equal(other.isOver, false)
  const key = `${prefix}:session:data:${handle}`
  t.equal(await redis.pexpire(key, 1), 1)
  await until('the session has expired', async () => await redis.exists(key) === 0)
  await clock.advance('16s')
  await until('the stream of the expired session ends', () => other.isOver)
})

t.test('a missing permission to look sessions up is logged once, with its effect', async t => {
  const { here, user, clock, warnings } = await startSevered(t, { forbidden: ['-getrange'] })
  const stream = await openSse(t, here, '/events', user.cookie)
  const told = () => warnings().filter(text => text.includes('looked up'))
  await until('the log says so', () => told().length > 0)
  for (let i = 0; i < 3; i++) await clock.advance('16s')
  t.equal(stream.isOver, false)
  t.same(told(), ['session: a watched session cannot be looked up, so its streams stay open unless a message reports its end (logged once)'])
})

t.test('after a reconnection, streams end whose sessions ended meanwhile', async t => {
  const server = await startRedis()
  const { here, there, user } = await start(t, { store: { url: server.url }, clock: 'real' })
  const stream = await openSse(t, here, '/events', user.cookie)
  const subscribers = async () => String(await server.client().call('CLIENT', 'LIST', 'TYPE', 'PUBSUB')).trim().split('\n').filter(Boolean).length
  await until('the instance hears', async () => await subscribers() >= 2)
  await Promise.all([server.client().call('CLIENT', 'KILL', 'TYPE', 'PUBSUB'), there.sessions.destroyAll('ann')])
  await until('the stream ends', () => stream.isOver)
})

t.test('a session that cannot be looked up after a reconnection is looked up again soon, and not at the next heartbeat', async t => {
  const clock = createTestClock()
  const { logger } = collectLog()
  let isAway = false
  let life = 60_000
  let gap = () => {}
  const watches = new Watches({
    lifeOf: async () => {
      if (isAway) throw new Error('the circuit is open')
      return life
    },
    follow: ({ onGap }) => {
      gap = onGap
      return { live: true, caughtUp: async () => {}, close () {} }
    },
    clock,
    log: logger as FastifyBaseLogger
  })
  t.teardown(() => watches.close())
  let ended = 0
  watches.add('h', 3_600_000, () => { ended++ })
  await clock.advance(1)
  isAway = true
  life = 0
  gap()
  await clock.advance('2s')
  t.equal(ended, 0, 'an outage ends nothing')
  isAway = false
  await clock.advance('1s')
  t.equal(ended, 1)
})

t.test('an outage of the store ends no stream', async t => {
  const server = await startRedis()
  const { here, user, clock } = await start(t, { store: { url: server.url, answers: false }, events: { redis: false }, session: { timeout: '1s' } })
  const stream = await openSse(t, here, '/events', user.cookie)
  server.pause()
  for (let i = 0; i < 4; i++) await clock.advance('10s')
  t.equal(stream.isOver, false)
  server.resume()
})

t.test('an app without streams has no connection for the end of sessions', async t => {
  const redis = (await sharedRedis()).client()
  const { user, prefix } = await start(t, { store: 'redis' })
  await user.send('POST', '/logout')
  t.same(await redis.pubsub('CHANNELS', `${prefix}:*`), [])
})

t.test('sessions.watch calls a function once, which may be async and fail, and not after it was stopped or without a session', async t => {
  const calls: string[] = []
  const { app, lines } = await createTestApp(t, {
    plugins: { session: {} },
    routes: app => {
      routesOfSessions(app)
      app.get('/begin', async request => {
        anySession(request)['visits'] = 1
        for (const name of ['first', 'second']) app.sessions.watch(request, () => { calls.push(name) })
      })
      app.get('/watch', async request => {
        app.sessions.watch(request, async () => { calls.push('rejects'); throw new Error('of the app') })
        app.sessions.watch(request, () => { calls.push('throws'); throw new Error('of the app') })
        app.sessions.watch(request, () => { calls.push('stopped') })()
      })
      for (const [name, args] of Object.entries({ 'no-function': [5], interval: [() => {}, { interval: 1 }], unknown: [() => {}, { every: 10 }] })) {
        app.get(`/${name}`, async request => { app.sessions.watch(request, ...args as [() => void]) })
      }
    }
  })
  const user = new Browser(app)
  await user.send('GET', '/begin')
  await user.send('POST', '/logout')
  t.same(calls.splice(0), ['first', 'second'], 'all functions that watch a session which their own request began')
  await user.send('GET', '/watch')
  await user.send('POST', '/login/ann')
  await user.send('GET', '/watch')
  await user.send('POST', '/logout')
  t.same(calls, ['rejects', 'throws'])
  t.same(lines.filter(({ level }) => Number(level) === 50).map(({ msg, reason }) => [msg, reason]), Array.from({ length: 2 }, () => ['session: a listener failed', 'of the app']))
  for (const url of ['/no-function', '/interval', '/unknown']) t.match((await user.send('GET', url)).json(), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' }, url)
})
