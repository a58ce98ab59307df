import fastifyCookie from '@fastify/cookie'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { SessionStatsCounter } from '../../plugins/session/stats.js'
import type { SessionPluginOptions } from '../../plugins/session/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { createTestApp, forEachStore } from '../helpers/index.js'
import { Gate } from '../helpers/session/gate.js'
import { anySession, Browser, browserWith, createSessionApp, SECRET } from '../helpers/session/session-app.js'
import { replaceText } from '../helpers/session/stored-session.js'

const gate = new Gate()

/** As an app uses `@fastify/session` alone: a login regenerates the session, a logout destroys it. */
function routes (app: FastifyInstance) {
  app.post<{ Params: { user: string } }>('/plain-login/:user', async request => {
    await request.session.regenerate()
    anySession(request).userId = request.params.user
    return app.sessions.handleOf(request.session.sessionId)
  })
  app.post('/plain-logout', async request => { await request.session.destroy() })
  app.post<{ Params: { id: string }, Body: object }>('/held/:id', async request => {
    await gate.wait(request.params.id)
    Object.assign(request.session, request.body)
  })
}

forEachStore(['memory', 'redis', 'cluster'], store => {
  const start = (t: Test, session: Partial<SessionPluginOptions> = {}) => createSessionApp(t, { store, session, routes })

  t.test(`${store}: a session lives from login to logout, and its id is not logged`, async t => {
    const { app, lines } = await start(t)
    const user = new Browser(app)
    t.same(await user.state(), {})
    t.equal(user.cookie, undefined, 'an empty session sets no cookie')
    const login = await user.send('POST', '/plain-login/ann')
    t.match(login.cookies[0], { name: 'sid', httpOnly: true, sameSite: 'Lax', path: '/' })
    t.same(await user.state(), { userId: 'ann' })
    t.equal(await app.sessions.count('ann'), 1)
    const stolen = user.cookie ?? ''
    await user.send('POST', '/plain-logout')
    t.same(await browserWith(stolen, app).state(), {})
    t.equal(await app.sessions.count('ann'), 0)
    t.ok(lines.length > 0)
    t.notMatch(JSON.stringify(lines), stolen.slice(4, 30))
  })

  t.test(`${store}: two requests that change different properties both keep theirs, whichever writes first`, async t => {
    const { app } = await start(t)
    const user = new Browser(app)
    await user.send('POST', '/set', { a: -1, b: -1 })
    const states: unknown[] = []
    for (let i = 0; i < 6; i++) {
      const [first, second] = i % 2 === 0 ? [`${store}-a${i}`, `${store}-b${i}`] : [`${store}-b${i}`, `${store}-a${i}`]
      const a = user.send('POST', `/held/${store}-a${i}`, { a: i })
      const b = user.send('POST', `/held/${store}-b${i}`, { b: i })
      await Promise.all([gate.arrival(first), gate.arrival(second)])
      gate.open(first)
      await (i % 2 === 0 ? a : b)
      gate.open(second)
      await Promise.all([a, b])
      states.push(await user.state())
    }
    t.same(states, [0, 1, 2, 3, 4, 5].map(i => ({ a: i, b: i })))
  })

  t.test(`${store}: a request that is in progress during a logout does not restore the session`, async t => {
    const { app } = await start(t)
    const user = new Browser(app)
    await user.send('POST', '/plain-login/ann')
    const { cookie } = user
    const slow = user.send('POST', `/held/${store}-late`, { a: 1 })
    await gate.arrival(`${store}-late`)
    await user.send('POST', '/plain-logout')
    gate.open(`${store}-late`)
    t.equal((await slow).statusCode, 200)
    t.same(await browserWith(cookie, app).state(), {})
  })

  t.test(`${store}: the sessions of a user can be listed and ended`, async t => {
    const { app } = await start(t)
    const devices = [new Browser(app), new Browser(app), new Browser(app)] as const
    const handles: string[] = []
    for (const device of devices) handles.push((await device.send('POST', '/plain-login/ann')).body)
    t.same((await app.sessions.list('ann')).map(info => info.handle).sort(), [...handles].sort())
    await app.sessions.destroy(handles[0] ?? '')
    t.same(await devices[0].state(), {})
    t.equal(await app.sessions.destroyAll('ann', { except: handles[2] ?? '' }), 1)
    t.same(await devices[1].state(), {})
    t.same(await devices[2].state(), { userId: 'ann' })
  })

  t.test(`${store}: a session ends when its idle time-out or its absolute time-out has passed`, async t => {
    const { app, clock } = await start(t, { idleTimeout: '20m', absoluteTimeout: '2h' })
    const [active, idle] = [new Browser(app), new Browser(app)]
    for (const user of [active, idle]) await user.send('POST', '/login/ann')
    for (let minutes = 15; minutes < 120; minutes += 15) {
      await clock.advance('15m')
      t.match(await active.state(), { userId: 'ann' }, `used after ${minutes} minutes`)
      t.equal((await active.send('POST', '/set', { minutes })).statusCode, 200)
    }
    t.same(await idle.state(), {}, 'idle for more than 20 minutes')
    await clock.advance('16m')
    t.same(await active.state(), {}, 'older than 2 hours')
    t.equal(await app.sessions.count('ann'), 0)
  })

  t.test(`${store}: a login changes the session id, and the old one opens nothing`, async t => {
    const { app } = await start(t)
    const user = new Browser(app)
    await user.send('POST', '/set', { a: 1 })
    const fixed = user.cookie
    await user.send('POST', '/plain-login/ann')
    t.not(user.cookie, fixed)
    t.same(await browserWith(fixed, app).state(), {})
  })

  t.test(`${store}: a cookie that is forged, cut, too long or signed with another secret opens no session`, async t => {
    const { app } = await start(t)
    const { app: other } = await start(t, { secret: 'another secret of thirty-two characters' })
    const [user, foreign] = [new Browser(app), new Browser(other)]
    await user.send('POST', '/plain-login/ann')
    await foreign.send('POST', '/plain-login/eve')
    const good = user.cookie ?? ''
    const bad = [good.slice(0, -5), `${good}x`, 'sid=', 'sid=..', `sid=${'x'.repeat(10_000)}`, 'sid=*.{}', 'sid=%00.%0a', foreign.cookie ?? '']
    const replies = await Promise.all(bad.map(async cookie => await app.inject({ url: '/', headers: { cookie } })))
    t.same(replies.map(({ statusCode, body }) => [statusCode, body]), bad.map(() => [200, '{}']))
  })

  t.test(`${store}: values are read as they were stored, and no property reaches a prototype`, async t => {
    const { app } = await start(t)
    const user = new Browser(app)
    const value = { list: [1, 'two', null], nested: { deep: true } }
    await user.send('POST', '/set', { value })
    await app.inject({ method: 'POST', url: '/set', headers: { cookie: user.cookie ?? '', 'content-type': 'application/json' }, payload: '{"constructor":{"prototype":{"admin":true}}}' })
    t.same(await user.state(), { value })
    t.equal(Reflect.get({}, 'admin'), undefined)
  })
})

t.test('a rotated secret keeps sessions alive, and signs their cookies with the new secret', async t => {
  const NEW = 'the new secret, of thirty-two characters'
  const { app, prefix } = await createSessionApp(t, { store: 'redis' })
  const user = new Browser(app)
  await user.send('POST', '/login/ann')
  const old = user.cookie
  const { app: rotated } = await createSessionApp(t, { store: 'redis', prefix, session: { secret: [NEW, SECRET] } })
  t.same(await user.state(rotated), { userId: 'ann' })
  t.ok(user.cookie)
  t.not(user.cookie, old)
  const { app: newOnly } = await createSessionApp(t, { store: 'redis', prefix, session: { secret: [NEW] } })
  t.same(await user.state(newOnly), { userId: 'ann' })
  t.same(await browserWith(old, newOnly).state(), {}, 'the old signature is not accepted any more')
})

t.test('a stored session that cannot be parsed counts as none', async t => {
  const { app, prefix, client } = await createSessionApp(t, { store: 'redis' })
  const user = new Browser(app)
  const handle = (await user.send('POST', '/login/ann')).body
  await replaceText(client(), `${prefix}:session:data:${handle}`, '{broken')
  const response = await user.send('GET', '/')
  t.same([response.statusCode, response.json()], [200, {}])
})

t.test('invalid options fail at registration, and the secret is not in the message', async t => {
  const code = 'FST_REDIS_SUITE_SESSION_INVALID_OPTION'
  const wrong = [{ secret: 'hunter2' }, { secret: undefined }, { secret: [] }, { secret: [SECRET, 'hunter2'] }, { idleTimeout: 'soon' }, { absoluteTimeout: 0 },
    { userId: '' }, { userId: 5 }, { maxPerUser: -1 }, { onMaxPerUser: 'x' }, { onStoreError: 'x' }, { encrypt: 'hunter2' }, { encrypt: [] }, { encrypt: [Buffer.alloc(31)] }, { cookieName: '' },
    { redis: {} }, { store: {} }, { maxSessions: 0 }, { clock: {} }, { clock: Date }]
  for (const options of wrong) {
    await t.rejects(async () => { await createSessionApp(t, { session: options as never }) }, { code, message: /^((?!hunter2).)*$/ }, JSON.stringify(options))
  }
})

t.test('the options of @fastify/session work as documented there', async t => {
  const variants: Array<Partial<SessionPluginOptions>> = [{ rolling: true }, { saveUninitialized: true }, { cookie: { maxAge: 60_000 } }, { cookiePrefix: 's:' },
    { idGenerator: () => `{x}*\n${Math.random()}` }, { secret: { sign: (id: string) => `signed ${id}`, unsign: (text: string) => ({ valid: text.startsWith('signed '), renew: false, value: text.slice(7) }) } as never }]
  for (const options of variants) {
    const what = JSON.stringify(options)
    const { app } = await createSessionApp(t, { store: 'redis', session: options, before: app => app.register(fastifyCookie) })
    t.equal((await new Browser(app).send('GET', '/')).headers['set-cookie'] !== undefined, options.saveUninitialized === true, `${what}: an empty session`)
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

t.test('the name, prefix, attributes, signer and ids of the cookie are those of the options', async t => {
  const ids: string[] = []
  const signer = { sign: (value: string) => `${value}.signed`, unsign: (input: string) => ({ valid: input.endsWith('.signed'), renew: false, value: input.replace(/\.signed$/, '') }) }
  const { app } = await createSessionApp(t, {
    store: 'redis',
    session: {
      secret: signer as never,
      cookieName: 'id',
      cookiePrefix: 's:',
      rolling: true,
      cookie: { maxAge: 60_000, path: '/', domain: 'example.com', sameSite: 'strict', secure: false },
      idGenerator: () => { ids.push(`id-${ids.length}-${'x'.repeat(30)}`); return ids.at(-1) ?? '' }
    }
  })
  const user = new Browser(app)
  const login = await user.send('POST', '/login/ann')
  t.match(login.cookies[0], { name: 'id', value: `s:${ids.at(-1)}.signed`, domain: 'example.com', sameSite: 'Strict' })
  const again = await user.send('GET', '/')
  t.match(again.cookies[0], { name: 'id' }, 'rolling: each response renews the cookie')
  t.equal(again.json().userId, 'ann')
  const logout = await user.send('POST', '/logout')
  t.match(logout.cookies[0], { name: 'id', value: '', domain: 'example.com' })
})

t.test('a request outside of the path of the cookie has no session and keeps the cookie', async t => {
  const { app } = await createSessionApp(t, {
    session: { cookie: { path: '/app' } },
    routes: app => {
      app.get('/app/state', async request => ({ a: anySession(request).a }))
      app.post('/app/set', async request => { anySession(request).a = 1 })
    }
  })
  const user = new Browser(app)
  t.match((await user.send('POST', '/app/set')).cookies[0], { path: '/app' })
  t.same((await user.send('GET', '/app/state')).json(), { a: 1 })
  const { cookie } = user
  t.equal((await user.send('GET', '/')).statusCode, 200)
  t.equal(user.cookie, cookie)
  t.match((await user.send('POST', '/login/ann')).json(), { code: 'FST_REDIS_SUITE_SESSION_NO_SESSION' })
})

t.test('a session that is read by hand writes only what changed, and is not created again', async t => {
  const { app, client } = await createSessionApp(t, {
    store: 'redis',
    prefix: `by-hand-${process.pid}`,
    routes: app => app.post<{ Body: { cookie: string, flush?: boolean } }>('/by-hand', { config: { session: false } }, async request => {
      const key = `by-hand-${process.pid}:session:data:`
      await new Promise<void>((resolve, reject) => app.decryptSession(request.body.cookie, request, error => error ? reject(error) : resolve()))
      anySession(request).b = 2
      const handle = app.sessions.handleOf(request.session.sessionId)
      // As another request does that changes or ends it meanwhile.
      if (request.body.flush) await client().del(key + handle)
      else await replaceText(client(), key + handle, '{"a":"changed"}', '9')
      await request.session.save()
    })
  })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  const cookie = decodeURIComponent(user.cookie?.slice(4) ?? '')
  t.equal((await app.inject({ method: 'POST', url: '/by-hand', payload: { cookie } })).statusCode, 200)
  t.same(await user.state(), { a: 'changed', b: 2 })
  await app.inject({ method: 'POST', url: '/by-hand', payload: { cookie, flush: true } })
  t.same(await client().keys(`by-hand-${process.pid}:session:data:*`), [])
})

t.test('active is the number of sessions renewed in the last period, at any moment of a period', async t => {
  const clock = createTestClock({ now: 60_000 * 1000 })
  const counts = new SessionStatsCounter(60_000, clock)
  for (let i = 0; i < 100; i++) {
    counts.renewed()
    await clock.advance(600)
  }
  t.equal(counts.stats.active, 100, 'the period is just over')
  await clock.advance(30_000)
  t.equal(counts.stats.active, 50, 'half of them are too long ago')
  await clock.advance(30_000)
  t.equal(counts.stats.active, 0)
  await clock.advance(600_000)
  counts.created()
  t.same(counts.stats, { created: 1, destroyed: 0, active: 1 })
})

t.test('sessions count when they are first stored and when they are destroyed, not when they are changed or only read', async t => {
  const { app } = await createSessionApp(t)
  await new Browser(app).send('GET', '/')
  t.same(app.sessions.stats(), { created: 0, destroyed: 0, active: 0 })
  const user = new Browser(app)
  for (let visits = 0; visits < 3; visits++) await user.send('POST', '/set', { visits })
  t.same(app.sessions.stats(), { created: 1, destroyed: 0, active: 1 })
  await user.send('POST', '/login/ann')
  t.match(app.sessions.stats(), { created: 2, destroyed: 1 }, 'a login ends one and creates another')
  await new Browser(app).send('POST', '/login/ann')
  await app.sessions.destroyAll('ann')
  t.match(app.sessions.stats(), { created: 3, destroyed: 3 })
})

t.test('without a connection sessions are stored in memory, and the log says so once', async t => {
  const { lines } = await createTestApp(t, { plugins: { session: {} } })
  t.match(lines.filter(line => line['plugin'] === 'session'), [{ level: 30, store: 'memory' }])
})
