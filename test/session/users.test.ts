import { createHash } from 'node:crypto'
import t, { type Test } from 'tap'
import type { SessionPluginOptions } from '../../plugins/session/index.js'
import { createTestApp, forEachStore, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { anySession, Browser, browserWith } from '../helpers/session/session-app.js'
import { replaceText, storedSession } from '../helpers/session/stored-session.js'

declare module 'fastify' {
  interface Session {
    userId?: string
    isAdmin?: boolean
    basket?: string[]
    visits?: number
  }
}

const KEY = createHash('sha256').update('one').digest()
const OTHER_KEY = createHash('sha256').update('other').digest('hex')

const routes: NonNullable<TestAppOptions['routes']> = app => {
  app.get('/', async ({ session }) => ({ userId: session.userId, isAdmin: session.isAdmin, basket: session.basket, visits: session.visits }))
  app.post<{ Params: { item: string } }>('/basket/:item', async ({ session, params: { item } }) => { session.basket = [...session.basket ?? [], item] })
  app.post<{ Params: { user: string } }>('/login/:user', async (request, reply) => {
    const { user } = request.params
    await request.login(user, { keep: ['basket'], set: { isAdmin: user === 'root' } })
    return await reply.send({ handle: app.sessions.handleOf(request.session.sessionId) })
  })
  app.post<{ Params: { user: string } }>('/as/:user', async (request) => { anySession(request).userId = request.params.user === 'nobody' ? undefined : request.params.user })
  app.post('/number', async request => {
    await request.login(7)
    return { handle: app.sessions.handleOf(request.session.sessionId) }
  })
  app.post('/logout', async request => { await request.logout() })
  app.post('/save', async request => {
    request.session.visits = 1
    await request.session.save()
  })
  app.get('/bare', { config: { session: false } }, async request => ({ session: request.session }))
  app.post('/bare/login', { config: { session: false } }, async request => await request.login('ann'))
}

forEachStore(['memory', 'redis', 'cluster'], store => {
  const start = (t: Test, session: Partial<SessionPluginOptions> = {}) => createTestApp(t, { store, plugins: { session }, routes })

  t.test(`${store}: login changes the id, keeps the named properties and has saved when it returns; logout ends the session and clears the cookie`, async t => {
    const { app } = await start(t)
    const user = new Browser(app)
    await user.send('POST', '/basket/tea')
    const planted = user.cookie
    const { handle } = (await user.send('POST', '/login/root')).json()
    t.not(user.cookie, planted)
    t.same(await user.state(), { userId: 'root', isAdmin: true, basket: ['tea'] })
    t.match(await app.sessions.list('root'), [{ handle }])
    const stolen = user.cookie
    const logout = await user.send('POST', '/logout')
    t.match(logout.cookies, [{ name: 'sid', value: '', path: '/' }])
    t.same(await browserWith(planted, app).state(), {})
    t.same(await browserWith(stolen, app).state(), {})
    t.same(await app.sessions.list('root'), [])
  })

  t.test(`${store}: the list shows the sessions of a user, the last used first, by handles that open no session`, async t => {
    const { app, clock } = await start(t)
    const [phone, laptop] = [new Browser(app, { 'user-agent': 'phone' }), new Browser(app, { 'user-agent': `laptop ${'x'.repeat(1000)}` })]
    const createdAt = clock.now()
    const { handle } = (await phone.send('POST', '/login/ann')).json()
    await clock.advance('1m')
    await laptop.send('POST', '/login/ann')
    await clock.advance('2m')
    await phone.send('GET', '/')
    await until('the session in use is renewed', async () => (await app.sessions.list('ann', { current: handle }))[0]?.current === true)
    const [first, second, ...others] = await app.sessions.list('ann', { current: handle })
    t.same(others, [])
    t.same(first, { handle, address: '192.0.2.7', userAgent: 'phone', createdAt, lastSeenAt: createdAt + 180_000, current: true })
    t.match(second, { address: '192.0.2.7', createdAt: createdAt + 60_000, lastSeenAt: createdAt + 60_000, current: false })
    t.equal(second?.userAgent?.length, 256)
    t.same(await browserWith(`sid=${handle}`, app).state(), {})
    t.equal(await app.sessions.count('ann'), 2)
    t.equal(await app.sessions.destroy(handle), true)
    t.equal(await app.sessions.destroy(handle), false)
    await t.rejects(app.sessions.destroy('{x}'), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
    await t.rejects(app.sessions.list(''), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
    await t.rejects(app.sessions.destroyAll('ann', { except: undefined, keep: handle } as never), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
    t.same(await app.sessions.destroyAll('ann'), 1)
  })

  t.test(`${store}: a login beyond maxPerUser ends the oldest session of the user`, async t => {
    const { app, clock } = await start(t, { maxPerUser: 2 })
    const devices = [new Browser(app), new Browser(app), new Browser(app)] as const
    for (const device of devices) {
      t.equal((await device.send('POST', '/login/ann')).statusCode, 200)
      await clock.advance(1)
    }
    t.same(await Promise.all(devices.map(async device => (await device.state()).userId)), [undefined, 'ann', 'ann'])
  })

  t.test(`${store}: with onMaxPerUser 'refuse' a login beyond maxPerUser is refused, and the client keeps its session`, async t => {
    const { app } = await start(t, { maxPerUser: 1, onMaxPerUser: 'refuse' })
    const [first, second] = [new Browser(app), new Browser(app)]
    await first.send('POST', '/login/ann')
    await second.send('POST', '/basket/tea')
    const refused = await second.send('POST', '/login/ann')
    t.equal(refused.statusCode, 409)
    t.match(refused.json(), { code: 'FST_REDIS_SUITE_SESSION_TOO_MANY' })
    t.same(await second.state(), { basket: ['tea'] })
    t.equal((await first.send('POST', '/login/ann')).statusCode, 200, 'a second login on the same device takes the place of the first')
    await first.send('POST', '/logout')
    t.equal((await second.send('POST', '/login/ann')).statusCode, 200)
  })

  t.test(`${store}: a route without sessions has none, reads none and sets no cookie`, async t => {
    const { app } = await start(t)
    const user = new Browser(app)
    await user.send('POST', '/login/ann')
    const bare = await user.send('GET', '/bare')
    t.same([bare.json(), bare.headers['set-cookie']], [{ session: null }, undefined])
    t.match((await user.send('POST', '/bare/login')).json(), { code: 'FST_REDIS_SUITE_SESSION_NO_SESSION' })
    t.match(await user.state(), { userId: 'ann' })
  })

  t.test(`${store}: the user of a session may be a number, another property, or what a function returns, which has to agree with the login`, async t => {
    const { app: byNumber } = await start(t)
    const { handle } = (await new Browser(byNumber).send('POST', '/number')).json()
    t.match(await byNumber.sessions.list(7), [{ handle }])
    const { app: byProperty } = await start(t, { userId: 'owner' })
    const user = new Browser(byProperty)
    const login = (await user.send('POST', '/login/ann')).json()
    t.match(await byProperty.sessions.list('ann'), [{ handle: login.handle }])
    const { app: byFunction } = await start(t, { userId: ({ userId }) => userId === undefined ? undefined : `tenant:${userId}` })
    const other = new Browser(byFunction)
    t.match((await other.send('POST', '/login/ann')).json(), { code: 'FST_REDIS_SUITE_SESSION_NOT_THE_USER' })
    await other.send('POST', '/as/ann')
    t.same([await byFunction.sessions.count('ann'), await byFunction.sessions.count('tenant:ann')], [0, 1])
  })

  t.test(`${store}: a session that changes its user leaves the list of the one before`, async t => {
    const { app } = await start(t)
    const user = new Browser(app)
    const counts: unknown[] = []
    for (const name of ['ann', 'bob', 'nobody']) {
      await user.send('POST', `/as/${name}`)
      counts.push([await app.sessions.count('ann'), await app.sessions.count('bob')])
    }
    t.same(counts, [[1, 0], [0, 1], [0, 0]])
  })
})

t.test('one round trip reads a session; an unchanged one is not written; of a changed one only the change is; a session in use is renewed', async t => {
  const server = await startRedis()
  const { app, clock } = await createTestApp(t, { store: server, prefix: 'trip', plugins: { session: {} }, routes })
  const user = new Browser(app)
  await user.send('POST', '/basket/tea')
  const { handle } = (await user.send('POST', '/login/ann')).json()
  const key = `trip:session:data:${handle}`
  const client = server.client()
  const calls = async () => Object.fromEntries([...(await client.info('commandstats')).matchAll(/cmdstat_(\w+):calls=(\d+)/g)].map(([, name, count]) => [name, Number(count)]))
  const spent = async (work: () => Promise<unknown>) => {
    const before = await calls()
    await work()
    const after = await calls()
    return ['mget', 'evalsha', 'get', 'set', 'zadd', 'pexpire'].map(name => (after[name] ?? 0) - (before[name] ?? 0))
  }
  t.same(await spent(() => user.send('GET', '/')), [1, 0, 0, 0, 0, 0], 'one command, which reads all sessions of a turn')
  await replaceText(client, key, '{"userId":"ann","basket":"changed by another request"}')
  t.same(await spent(() => user.send('POST', '/save')), [1, 1, 1, 1, 0, 0], 'and one script to write, which looks whether the session exists; the index stays as it is')
  t.match(JSON.parse((await storedSession(client, key)).text), { basket: 'changed by another request', visits: 1 })
  await clock.advance('12h')
  t.ok(await client.pttl(key) < 13 * 3_600_000)
  await user.send('GET', '/')
  await until('the session is renewed in the background', async () => await client.pttl(key) > 23 * 3_600_000)
  t.equal((await app.sessions.list('ann'))[0]?.lastSeenAt, clock.now())
})

t.test("destroyAll finds a session that was used since a full server evicted the list of its user's sessions", async t => {
  const { app, clock, prefix, client } = await createTestApp(t, { store: 'redis', plugins: { session: {} }, routes })
  const [used, ended, nobody] = [new Browser(app), new Browser(app), new Browser(app)]
  for (const user of [used, ended]) await user.send('POST', '/login/ann')
  await nobody.send('POST', '/basket/tea')
  await client().del(await client().keys(`${prefix}:session:user:*`))
  await clock.advance('2m')
  for (const user of [used, nobody]) await user.send('GET', '/')
  await until('the session is entered again', async () => await app.sessions.count('ann') === 1)
  t.equal(await app.sessions.destroyAll('ann'), 1)
  t.same(await used.state(), {})
  t.same(await nobody.state(), { basket: ['tea'] })
  t.same(await client().keys(`${prefix}:session:user:*`), [], 'what is left has a place in no list')
})

t.test('sealed sessions reveal nothing to a reader of Redis, and open with old keys until these are removed', async t => {
  const start = (prefix?: string, encrypt: SessionPluginOptions['encrypt'] = KEY) => createTestApp(t, { store: 'redis', plugins: { session: { encrypt } }, routes, ...prefix && { prefix } })
  const { app, prefix, client } = await start()
  const user = new Browser(app, { 'user-agent': 'secret agent' })
  await user.send('POST', '/basket/very secret tea'.replaceAll(' ', '%20'))
  const { handle } = (await user.send('POST', '/login/ann')).json()
  const redis = client()
  const keys = await redis.keys(`${prefix}:*`)
  const all = JSON.stringify(await Promise.all(keys.map(async key => key.includes(':data:') ? await redis.get(key) : await redis.zrange(key, '0', '-1'))))
  t.equal(keys.length, 3)
  t.same(['tea', 'ann', 'agent', '192.0.2.7'].filter(word => all.includes(word)), [])
  t.match(await app.sessions.list('ann'), [{ address: '192.0.2.7', userAgent: 'secret agent' }])

  const { app: rotated } = await start(prefix, [OTHER_KEY, KEY])
  t.match(await user.state(rotated), { userId: 'ann', basket: ['very secret tea'] })
  await user.send('POST', '/save', undefined, rotated)
  t.match(await user.state(rotated), { userId: 'ann', visits: 1 })
  const { app: newOnly } = await start(prefix, OTHER_KEY)
  t.match(await browserWith(user.cookie, newOnly).state(), { userId: 'ann', visits: 1 }, 'a change seals the session with the new key')
  const { app: without, warnings } = await start(prefix, createHash('sha256').update('a third one').digest('base64'))
  for (let i = 0; i < 5; i++) t.same(await browserWith(user.cookie, without).state(), {}, 'a session that cannot be opened counts as none')
  t.equal(warnings().filter(message => message.includes('cannot be decrypted or parsed')).length, 1, 'which is logged once')

  const other = new Browser(app)
  const { handle: foreign } = (await other.send('POST', '/login/eve')).json()
  const textOf = async (of: string) => JSON.parse((await storedSession(redis, `${prefix}:session:data:${of}`)).text) as Record<string, string>
  const { userId } = await textOf(handle)
  await replaceText(redis, `${prefix}:session:data:${foreign}`, JSON.stringify({ ...await textOf(foreign), userId }))
  t.same(await browserWith(other.cookie, app).state(), {}, 'a property of one session does not open in another')
  await replaceText(redis, `${prefix}:session:data:${handle}`, JSON.stringify({ ...await textOf(handle), isAdmin: true }))
  t.same(await browserWith(user.cookie, rotated).state(), {}, 'a property that is not sealed is refused')
})

declare module 'fastify' {
  interface Session {
    kind?: string
  }
}

const REFUSED: Record<string, unknown> = { object: { id: 1 }, array: ['ann'], true: true, function: () => 'ann', Infinity, rounded: 2 ** 53 }
const NOBODY: Record<string, unknown> = { null: null, empty: '', NaN, false: false }
const FOUND: Record<string, unknown> = { ...REFUSED, ...NOBODY, text: 'ann', number: 7, bigint: 7n }

forEachStore(['memory', 'redis'], store => {
  for (const isAsync of [false, true]) {
    const start = async (t: Parameters<typeof createTestApp>[0]) => await createTestApp(t, {
      store,
      plugins: { session: { userId: isAsync ? async ({ kind }) => FOUND[kind ?? ''] : ({ kind }) => FOUND[kind ?? ''] } },
      routes: app => {
        app.post<{ Params: { kind: string } }>('/:kind', async ({ session, params }) => { session.kind = params.kind })
        app.post<{ Params: { kind: string, user: string } }>('/login/:kind/:user', async (request) => { await request.login(request.params.user, { set: { kind: request.params.kind } }) })
      }
    })
    const of = isAsync ? 'that an async function finds' : 'that a function finds'

    t.test(`${store}: a user's id ${of} lists the session under that user alone`, async t => {
      const { app } = await start(t)
      for (const kind of ['text', 'number', 'bigint']) t.equal((await new Browser(app).send('POST', `/${kind}`)).statusCode, 200)
      t.same([await app.sessions.count('ann'), await app.sessions.count(7), await app.sessions.count('7'), await app.sessions.count(7n)], [1, 2, 2, 2])
      t.equal((await new Browser(app).send('POST', '/login/text/ann')).statusCode, 200)
      t.equal(await app.sessions.count('ann'), 2)
    })

    t.test(`${store}: a value ${of} that is no user's id is a coded error, and no session of everybody's`, async t => {
      const { app } = await start(t)
      for (const kind of Object.keys(REFUSED)) {
        t.match((await new Browser(app).send('POST', `/${kind}`)).json(), { statusCode: 500, code: 'FST_REDIS_SUITE_SESSION_INVALID_VALUE' }, kind)
        t.match((await new Browser(app).send('POST', `/login/${kind}/ann`)).json(), { code: 'FST_REDIS_SUITE_SESSION_INVALID_VALUE' }, `login, ${kind}`)
      }
      for (const text of ['[object Object]', '[object Promise]', 'ann', 'true', 'Infinity']) t.equal(await app.sessions.count(text), 0, text)
    })

    t.test(`${store}: null, an empty string, NaN and false ${of} are no user`, async t => {
      const { app } = await start(t)
      for (const kind of Object.keys(NOBODY)) {
        t.equal((await new Browser(app).send('POST', `/${kind}`)).statusCode, 200, kind)
        t.match((await new Browser(app).send('POST', `/login/${kind}/ann`)).json(), { code: 'FST_REDIS_SUITE_SESSION_NOT_THE_USER' }, kind)
      }
      for (const text of ['null', 'NaN', 'false', 'undefined']) t.equal(await app.sessions.count(text), 0, text)
    })
  }
})

t.test('NaN, Infinity and numbers that are rounded are no user of list, count, destroyAll and login', async t => {
  const { app } = await createTestApp(t, { plugins: { session: {} }, routes: app => app.post('/', async request => { await request.login(NaN) }) })
  const { sessions } = app
  for (const id of [NaN, Infinity, 2 ** 53, true, {}, Promise.resolve('ann')] as number[]) {
    for (const call of [() => sessions.list(id), () => sessions.count(id), () => sessions.destroyAll(id)] as Array<() => Promise<unknown>>) await t.rejects(call, { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
  }
  t.match((await new Browser(app).send('POST', '/')).json(), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' })
})
