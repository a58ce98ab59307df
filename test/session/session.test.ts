import t, { type Test } from 'tap'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'
import type { SessionPluginOptions } from '../../plugins/session/index.js'
import { startCluster, startRedis } from '../helpers/index.js'
import { Browser, SECRET, startApp } from '../helpers/session/session-app.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

declare module 'fastify' {
  interface Session {
    [key: `value${string}`]: unknown
    userId?: string
  }
}

const server = await startRedis()
let prefixes = 0

async function build (t: Test, connection?: RedisPluginOptions, options: Partial<SessionPluginOptions> = {}) {
  const { app, logged } = await startApp(t, connection, options)
  app.post<{ Body: { name: `value${string}`, value: unknown, delay?: number } }>('/set', async request => {
    const { name, value, delay = 0 } = request.body
    await new Promise(resolve => setTimeout(resolve, delay))
    request.session[name] = value
    return 'set'
  })
  app.post<{ Params: { user: string } }>('/login/:user', async request => {
    await request.session.regenerate()
    request.session.userId = request.params.user
    return app.sessions.handleOf(request.session.sessionId)
  })
  app.post('/logout', async request => { await request.session.destroy() })
  app.get('/', async request => ({ ...request.session, cookie: undefined }))
  return { app, logged }
}

for (const store of ['memory', 'Redis']) {
  const promise = (name: string, test: (t: Test, connection: RedisPluginOptions | undefined) => Promise<unknown>) =>
    t.test(`${store}: ${name}`, t => test(t, store === 'Redis' ? { url: server.url, prefix: `s${++prefixes}` } : undefined))

  promise('a session lives from login to logout', async (t, connection) => {
    const { app, logged } = await build(t, connection)
    const user = new Browser(app)
    t.same((await user.send('GET', '/')).json(), {})
    t.equal(user.cookie, undefined, 'an empty session makes no cookie')
    const login = await user.send('POST', '/login/ann')
    t.match(login.cookies[0], { name: 'sid', httpOnly: true, sameSite: 'Lax', path: '/' })
    t.match((await user.send('GET', '/')).json(), { userId: 'ann' })
    t.equal(await app.sessions.count('ann'), 1)
    const stolen = user.cookie
    await user.send('POST', '/logout')
    user.cookie = stolen
    t.same((await user.send('GET', '/')).json(), {})
    t.equal(await app.sessions.count('ann'), 0)
    t.notMatch(logged(), stolen?.slice(4, 30) ?? 'no cookie', 'the log holds no session id')
  })

  promise('two requests that change different fields both keep theirs: 0 of 200 pairs lost', async (t, connection) => {
    const { app } = await build(t, connection)
    const user = new Browser(app)
    await user.send('POST', '/login/ann')
    let lost = 0
    for (let i = 0; i < 200; i++) {
      await Promise.all([
        user.send('POST', '/set', { name: 'valueA', value: i }),
        user.send('POST', '/set', { name: 'valueB', value: i, delay: i % 3 })
      ])
      const { valueA, valueB } = (await user.send('GET', '/')).json()
      if (valueA !== i || valueB !== i) lost++
    }
    t.equal(lost, 0)
  })

  promise('a request under way does not bring a session back after logout: 0 of 100', async (t, connection) => {
    const { app } = await build(t, connection)
    let back = 0
    await Promise.all(Array.from({ length: 100 }, async () => {
      const user = new Browser(app)
      await user.send('POST', '/login/ann')
      const { cookie } = user
      const slow = user.send('POST', '/set', { name: 'valueA', value: 1, delay: 20 })
      await new Promise(resolve => setTimeout(resolve, 5))
      await user.send('POST', '/logout')
      await slow
      user.cookie = cookie
      if ((await user.send('GET', '/')).body !== '{}') back++
    }))
    t.equal(back, 0)
  })

  promise("a user's sessions can be listed and ended", async (t, connection) => {
    const { app } = await build(t, connection)
    const devices = [new Browser(app), new Browser(app), new Browser(app)] as const
    const handles: string[] = []
    for (const device of devices) handles.push((await device.send('POST', '/login/ann')).body)
    t.same((await app.sessions.list('ann')).map(info => info.handle).sort(), [...handles].sort())
    await app.sessions.destroy(handles[0] ?? '')
    t.same((await devices[0].send('GET', '/')).json(), {})
    t.equal(await app.sessions.destroyAll('ann', { except: handles[2] ?? '' }), 1)
    t.same((await devices[1].send('GET', '/')).json(), {})
    t.match((await devices[2].send('GET', '/')).json(), { userId: 'ann' })
  })

  promise('a login gives a new id, and the old one is worth nothing', async (t, connection) => {
    const { app } = await build(t, connection)
    const user = new Browser(app)
    await user.send('POST', '/set', { name: 'valueA', value: 1 })
    const fixed = user.cookie
    await user.send('POST', '/login/ann')
    t.not(user.cookie, fixed)
    user.cookie = fixed
    t.same((await user.send('GET', '/')).json(), {})
  })

  promise('cookies that are forged, cut, too long or of another secret are as none', async (t, connection) => {
    const { app } = await build(t, connection)
    const { app: other } = await build(t, connection, { secret: 'another secret of thirty-two characters' })
    const user = new Browser(app)
    await user.send('POST', '/login/ann')
    const foreign = new Browser(other)
    await foreign.send('POST', '/login/eve')
    const good = user.cookie ?? ''
    for (const cookie of [`${good.slice(0, -5)}`, `${good}x`, 'sid=', 'sid=..', `sid=${'x'.repeat(10_000)}`, 'sid=*.{}', 'sid=%00.%0a', foreign.cookie ?? '']) {
      const response = await app.inject({ url: '/', headers: { cookie } })
      t.equal(response.statusCode, 200)
      t.same(response.json(), {}, cookie.slice(0, 20))
    }
  })

  promise('values come back as they were, and names that reach a prototype do not', async (t, connection) => {
    const { app } = await build(t, connection)
    const user = new Browser(app)
    const value = { list: [1, 'two', null], nested: { deep: true } }
    await user.send('POST', '/set', { name: 'valueA', value })
    await user.send('POST', '/set', { name: '__proto__', value: { admin: true } })
    const response = (await user.send('GET', '/')).json()
    t.same(response.valueA, value)
    t.equal(response.admin, undefined)
    t.equal(Reflect.get({}, 'admin'), undefined)
  })

  promise('a rotated secret keeps sessions alive, and signs their cookies anew', async (t, connection) => {
    const { app } = await build(t, connection ?? undefined)
    const user = new Browser(app)
    await user.send('POST', '/login/ann')
    const old = user.cookie
    if (!connection) return
    const { app: rotated } = await build(t, connection, { secret: ['the new secret, of thirty-two characters', SECRET] })
    t.match((await user.send('GET', '/', undefined, rotated)).json(), { userId: 'ann' })
    t.ok(user.cookie && user.cookie !== old)
    const { app: newOnly } = await build(t, connection, { secret: ['the new secret, of thirty-two characters'] })
    t.match((await user.send('GET', '/', undefined, newOnly)).json(), { userId: 'ann' })
  })
}

t.test('while Redis hangs, a request with a session is 503 in time, and the session is there afterwards', async t => {
  const own = await startRedis()
  const { app } = await build(t, { url: own.url }, { timeout: 80 })
  const user = new Browser(app)
  await user.send('POST', '/login/ann')
  const { cookie } = user
  own.pause()
  const sinceStart = stopwatch()
  const response = await user.send('GET', '/')
  t.ok(sinceStart() < 300)
  t.equal(response.statusCode, 503)
  t.match(response.json(), { code: 'FST_REDIS_SUITE_SESSION_STORE_UNAVAILABLE' })
  t.equal(response.headers['retry-after'], '1')
  t.equal(response.headers['set-cookie'], undefined, 'nobody is logged out by a fault')
  t.equal((await app.inject('/')).statusCode, 200, 'who has no session is not touched')
  own.resume()
  await new Promise(resolve => setTimeout(resolve, 50))
  t.equal(user.cookie, cookie)
  t.match((await user.send('GET', '/')).json(), { userId: 'ann' })
})

t.test('a session that cannot be parsed counts as none', async t => {
  const own = await startRedis()
  const { app } = await build(t, { url: own.url, prefix: 'x' })
  const user = new Browser(app)
  const handle = (await user.send('POST', '/login/ann')).body
  await own.client().hset(`x:session:data:${handle}`, 'all', '{broken')
  const response = await user.send('GET', '/')
  t.equal(response.statusCode, 200)
  t.same(response.json(), {})
})

t.test('it works on a Cluster', async t => {
  const cluster = await startCluster()
  const { app } = await build(t, { cluster: { nodes: cluster.startupNodes } })
  await Promise.all(Array.from({ length: 20 }, async (_, i) => {
    const user = new Browser(app)
    await user.send('POST', `/login/u${i}`)
    t.match((await user.send('GET', '/')).json(), { userId: `u${i}` })
    t.equal(await app.sessions.destroyAll(`u${i}`), 1)
    t.same((await user.send('GET', '/')).json(), {})
  }))
})

t.test('100 requests without a cookie leave nothing behind', async t => {
  const own = await startRedis()
  const { app } = await build(t, { url: own.url })
  await Promise.all(Array.from({ length: 100 }, () => app.inject('/')))
  t.equal(await own.client().dbsize(), 0)
})

t.test('options that cannot be used fail at registration, and the secret is not told', async t => {
  const code = 'FST_REDIS_SUITE_SESSION_INVALID_OPTION'
  const wrong = [{ secret: 'hunter2' }, { secret: undefined }, { secret: [] }, { secret: [SECRET, 'hunter2'] }, { idleTimeout: 'soon' }, { absoluteTimeout: 0 },
    { userId: '' }, { userId: 5 }, { maxPerUser: -1 }, { onMaxPerUser: 'x' }, { onStoreError: 'x' }, { encrypt: 'hunter2' }, { encrypt: [] }, { encrypt: [Buffer.alloc(31)] }, { cookieName: '' }, { redis: {} }, { store: {} }, { maxSessions: 0 }]
  for (const options of wrong) {
    await t.rejects(async () => { await build(t, undefined, options as never) }, { code, message: /^((?!hunter2).)*$/ }, JSON.stringify(options))
  }
})
