import t from 'tap'
import { startRedis, until } from '../helpers/index.js'
import { anySession, Browser, buildApp } from '../helpers/session/session-app.js'

const server = await startRedis()
interface Deep { deep: unknown }
const before = { name: 'Ann' as unknown, list: [{ deep: true }, { deep: 2 }] as Deep[], at: new Date(0).toISOString() as unknown, 10: 'ten', empty: {} as unknown }

/** What a handler does with a session, and whether that is to be saved. */
const deeds: Record<string, [(session: typeof before & Record<string, unknown>) => unknown, boolean]> = {
  'it is not touched': [() => {}, false],
  'all of it is read': [session => JSON.stringify(session), false],
  'the same is set again': [session => Object.assign(session, structuredClone(before)), false],
  'a date is set that is the same as text': [session => { session.at = new Date(0) }, false],
  'a function is set, which is nothing to store': [session => { session['f'] = () => {} }, false],
  'something is set and taken away': [session => { session['more'] = 1; delete session['more'] }, false],
  'it is taken away and set again': [session => { Reflect.deleteProperty(session, 'name'); session.name = before.name }, false],
  'a property is set': [session => { session['more'] = 1 }, true],
  'a property is taken away': [session => { Reflect.deleteProperty(session, 'name') }, true],
  'a property is undefined': [session => { session.name = undefined }, true],
  'an item is appended deep inside': [session => { for (const item of session.list) item.deep = [1] }, true],
  'a list is sorted': [session => session.list.reverse(), true],
  'null stands for an object': [session => { session.empty = null }, true],
  'what says of itself how it is stored': [session => { session.empty = { toJSON: () => 'full' } }, true]
}

for (const [i, [what, [deed, isSaved]]] of Object.entries(deeds).entries()) {
  for (const encrypt of [undefined, Buffer.alloc(32, 7)]) {
    t.test(`${what}: ${isSaved ? 'saved' : 'not saved'}${encrypt ? ', sealed' : ''}`, async t => {
      const app = await buildApp(t, {
        redis: { url: server.url, prefix: `deed-${i}-${encrypt ? 'sealed' : 'plain'}` },
        session: { encrypt },
        routes: app => app.post('/deed', async request => { deed(anySession(request) as typeof before & Record<string, unknown>); return {} })
      })
      const user = new Browser(app)
      await user.send('POST', '/set', before)
      const [key = ''] = await app.redis.keys(`deed-${i}-${encrypt ? 'sealed' : 'plain'}:session:data:*`)
      const version = async () => await app.redis.hget(key, 'version')
      const first = await version()
      const reply = await user.send('POST', '/deed')
      t.equal(reply.statusCode, 200)
      t.equal(await version() !== first, isSaved)
      t.equal(reply.headers['set-cookie'] !== undefined, isSaved)
    })
  }
}

t.test('a session that is saved by hand is left to @fastify/session, and what JSON cannot tell is an error', async t => {
  const app = await buildApp(t, {
    redis: { url: server.url, prefix: 'by-hand' },
    routes: app => {
      app.post('/save', async request => { await request.session.save(); return {} })
      app.post('/circle', async request => { const session = anySession(request); session['self'] = [session.list]; (session.list as unknown[]).push(session['self']); return {} })
    }
  })
  const user = new Browser(app)
  await user.send('POST', '/set', before)
  t.ok((await user.send('POST', '/save')).headers['set-cookie'], 'it was saved, so its cookie is sent')
  t.match((await user.send('POST', '/circle')).json(), { statusCode: 500, code: 'FST_REDIS_SUITE_SESSION_UNSERIALIZABLE', message: /"list"/ })
  t.match(await user.state(), { name: 'Ann' })
})

const fieldsOf = async (prefix: string) => {
  const [key = ''] = await server.client().keys(`${prefix}:session:data:*`)
  return await server.client().hgetall(key)
}

t.test('nothing is stored of a cookie that is as the options say, and one of its own lasts', async t => {
  const app = await buildApp(t, {
    redis: { url: server.url, prefix: 'usual' },
    routes: app => {
      app.post('/week', async request => { request.session.cookie.maxAge = 604_800_000; anySession(request)['week'] = true; return {} })
      app.post('/strict', async request => { request.session.options({ sameSite: 'strict' }); anySession(request)['strict'] = true; return {} })
      app.post('/none', async request => { Object.assign(request.session, { cookie: null }); await request.session.save(); return {} })
    }
  })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  t.same([(await fieldsOf('usual')).all, 'f:cookie' in await fieldsOf('usual')], ['{"a":1}', false])
  t.match((await user.send('POST', '/week')).cookies[0], { expires: Date })
  t.match(JSON.parse((await fieldsOf('usual'))['f:cookie'] ?? ''), { originalMaxAge: 604_800_000 })
  t.match((await user.send('POST', '/set', { a: 2 })).cookies[0], { expires: Date }, 'as it was read again')
  t.match((await user.send('POST', '/strict')).cookies[0], { sameSite: 'Strict' })
  t.match((await user.send('POST', '/set', { a: 3 })).cookies[0], { sameSite: 'Strict' })
  t.match(await user.state(), { a: 3, week: true, strict: true })
  await user.send('POST', '/none')
  t.match(await user.state(), { a: 3 })
})

t.test('with any options of cookies, over HTTP and HTTPS, a session comes back with the cookie that it was given', async t => {
  const variants = [{}, { secure: false }, { secure: true }, { secure: 'auto' as const, sameSite: 'strict' as const }, { sameSite: false }, { httpOnly: false }, { domain: 'example.com' },
    { path: '/' }, { partitioned: true, secure: true }, { maxAge: 60_000 }, { expires: new Date(Date.now() + 3_600_000) }]
  for (const [i, cookie] of variants.entries()) {
    for (const protocol of ['http', 'https']) {
      const prefix = `any-${i}-${protocol}`
      const app = await buildApp(t, {
        redis: { url: server.url, prefix },
        session: { cookie },
        before: app => app.addHook('onRequest', async request => { Object.defineProperty(request, 'protocol', { value: protocol }) })
      })
      const user = new Browser(app)
      const first = await user.send('POST', '/set', { a: 1 })
      if (protocol === 'http' && 'secure' in cookie && cookie.secure === true) {
        t.equal(first.headers['set-cookie'], undefined)
        continue
      }
      const again = await user.send('POST', '/set', { a: 2 })
      const told = ({ cookies: [cookie] }: typeof first) => ({ ...cookie, value: '', expires: cookie?.expires && 'some time' })
      t.same(told(again), told(first), `${prefix} ${JSON.stringify(cookie)}`)
      const { 'f:cookie': stored = '' } = await fieldsOf(prefix)
      const isAuto = !('secure' in cookie) || cookie.secure === 'auto'
      if ('maxAge' in cookie || 'expires' in cookie) t.match(JSON.parse(stored), { expires: String }, prefix)
      else t.equal(stored, isAuto && protocol === 'https' ? '{"secure":true}' : '', prefix)
    }
  }
})

t.test('a login in a session that was never saved takes it as it is: no tombstone, and of what it held only what is kept', async t => {
  const app = await buildApp(t, {
    redis: { url: server.url, prefix: 'fresh' },
    routes: app => {
      app.post<{ Querystring: { save?: string } }>('/basket-and-login', async request => {
        Object.assign(request.session, { basket: ['tea'], tried: 1 })
        const { sessionId } = request.session
        if (request.query.save) await request.session.save()
        await request.login('ann', { keep: ['basket'] })
        return { hasNewId: request.session.sessionId !== sessionId }
      })
    }
  })
  const user = new Browser(app)
  t.same((await user.send('POST', '/basket-and-login')).json(), { hasNewId: false })
  t.same(await user.state(), { basket: ['tea'], userId: 'ann' })
  t.equal((await server.client().keys('fresh:session:data:*')).length, 1)
  t.same((await user.send('POST', '/basket-and-login')).json(), { hasNewId: true }, 'one that a client knows is another one after a login')
  t.same((await new Browser(app).send('POST', '/basket-and-login?save=1')).json(), { hasNewId: true }, 'as is one that has been saved')
})

t.test('a session that was made over HTTPS keeps a Secure cookie, and HTTP does not change it', async t => {
  const app = await buildApp(t, {
    redis: { url: server.url, prefix: 'secure' },
    before: app => app.addHook('onRequest', async request => { Object.defineProperty(request, 'protocol', { value: request.headers['x-forwarded-proto'] ?? 'http' }) })
  })
  const user = new Browser(app, { 'x-forwarded-proto': 'https' })
  t.match((await user.send('POST', '/set', { a: 1 })).cookies[0], { secure: true, sameSite: 'Lax' })
  t.same((await fieldsOf('secure')).all, '{"cookie":{"secure":true},"a":1}')
  const { cookie = '' } = user
  const reply = await app.inject({ method: 'POST', url: '/set', headers: { cookie }, payload: { a: 2 } })
  t.equal(reply.headers['set-cookie'], undefined)
  t.same(await user.state(), { a: 1 })
  t.match((await user.send('POST', '/set', { a: 3 })).cookies[0], { secure: true, sameSite: 'Lax' })
})

t.test('the cookie of a session that turns out to be gone is not sent in place of the one that a login has given', async t => {
  let go = () => {}
  const app = await buildApp(t, {
    redis: { url: server.url, prefix: 'gone' },
    session: { rolling: true },
    routes: app => app.get('/late', async request => {
      await new Promise<void>(resolve => { go = resolve })
      await request.session.reload()
      return {}
    })
  })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  const late = app.inject({ url: '/late', headers: { cookie: user.cookie ?? '' } })
  await until('it has come so far', () => go.length === 1)
  await user.send('POST', '/login/ann')
  go()
  t.equal((await late).headers['set-cookie'], undefined)
  t.same(await user.state(), { userId: 'ann' })
})

t.test('a text that is nested too deeply, put there by somebody, is no session', async t => {
  const app = await buildApp(t, { redis: { url: server.url, prefix: 'deep' } })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  const [key = ''] = await server.client().keys('deep:session:data:*')
  await server.client().hset(key, 'all', `{"a":${'['.repeat(5000)}${']'.repeat(5000)}}`)
  t.same(await user.state(), {})
})

t.test('a stored cookie that is nested too deeply counts as none', async t => {
  const app = await buildApp(t, { redis: { url: server.url, prefix: 'deep-cookie' } })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  const [key = ''] = await server.client().keys('deep-cookie:session:data:*')
  await server.client().hset(key, 'all', `{"cookie":${'['.repeat(5000)}${']'.repeat(5000)},"a":1}`)
  t.same(await user.state(), { a: 1 })
  await user.send('POST', '/set', { a: 2 })
  t.same(await user.state(), { a: 2 })
})

t.test('of what a handler puts into the cookie only what a session has is sent, and what no cookie can have is an error', async t => {
  const app = await buildApp(t, {
    redis: { url: server.url, prefix: 'odd-cookie' },
    routes: app => {
      app.post<{ Body: object }>('/cookie', async request => { Object.assign(request.session.cookie, request.body); anySession(request)['at'] = Math.random() })
    }
  })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  const { cookie } = user
  for (const odd of [{ priority: 'high' }, { signed: true }, { name: 'other', value: 'x' }]) {
    const { statusCode, headers } = await user.send('POST', '/cookie', odd)
    t.same([statusCode, decodeURIComponent(String(headers['set-cookie']))], [200, `${decodeURIComponent(cookie ?? '')}; Path=/; HttpOnly; SameSite=Lax`], JSON.stringify(odd))
  }
  t.equal((await user.send('POST', '/cookie', { path: 'a\nb' })).statusCode, 500)
})

t.test('whoever reads a session beside the request has all of it', async t => {
  const app = await buildApp(t, {
    redis: { url: server.url, prefix: 'beside' },
    routes: app => {
      // Called within the hook of a request that has no cookie.
      app.addHook('onRequest', (request, _reply, done) => {
        const { other } = request.query as { other?: string }
        if (other === undefined) return done()
        const face = {} as typeof request
        app.decryptSession(other, face, () => {
          Object.assign(request, { beside: { ...face.session, cookie: undefined, modified: face.session.isModified() } })
          done()
        })
      })
      app.get('/beside', async request => Reflect.get(request, 'beside') ?? {})
      app.get('/store', async request => await new Promise((resolve, reject) => {
        request.sessionStore.get(request.session.sessionId, (error, session) => error ? reject(error) : resolve(session ?? {}))
      }))
      app.get('/modified', async request => {
        const { session } = request
        const told = [session.isModified()]
        anySession(request)['b'] = 1
        told.push(session.isModified())
        await session.save()
        told.push(session.isModified())
        await session.reload()
        return [...told, session.isModified(), request.session.isModified(), anySession(request)['b']]
      })
    }
  })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: [1] })
  const id = encodeURIComponent(decodeURIComponent(user.cookie ?? '').replace('sid=', ''))
  t.same((await app.inject(`/beside?other=${id}`)).json(), { a: [1], modified: false })
  t.same((await user.send('GET', '/store')).json(), { a: [1] })
  t.same((await user.send('GET', '/modified')).json(), [false, true, false, false, false, 1])
  t.same(await user.state(), { a: [1], b: 1 })
})
