import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import t, { type Test } from 'tap'
import { contentsOf, diff, diffContents, joinFields, parseFields, takeSnapshot } from '../../plugins/session/session-diff.js'
import '../helpers/index.js'
import { Gate } from '../helpers/session/gate.js'
import { testRaces } from '../helpers/session/races.js'
import { anySession, Browser, createSessionApp, type SessionAppOptions } from '../helpers/session/session-app.js'
import { replaceText, storedSession } from '../helpers/session/stored-session.js'

// Before the other tests: it waits for its servers.
await testRaces(t, { counts: { redis: 100, cluster: 40 } })

interface Deep { deep: unknown }
const initial = { name: 'Ann' as unknown, list: [{ deep: true }, { deep: 2 }] as Deep[], at: new Date(0).toISOString() as unknown, 10: 'ten', empty: {} as unknown }

/** The actions of a handler on a session, and whether the session is saved afterwards. */
const deeds: Record<string, [(session: typeof initial & Record<string, unknown>) => unknown, boolean]> = {
  nothing: [() => {}, false],
  'reading all of it': [session => JSON.stringify(session), false],
  'setting the same again': [session => Object.assign(session, structuredClone(initial)), false],
  'setting a date that is equal as text': [session => { session.at = new Date(0) }, false],
  'setting and deleting a property': [session => { session['more'] = 1; delete session['more'] }, false],
  'deleting a property and setting it again': [session => { Reflect.deleteProperty(session, 'name'); session.name = initial.name }, false],
  'setting a property': [session => { session['more'] = 1 }, true],
  'deleting a property': [session => { Reflect.deleteProperty(session, 'name') }, true],
  'setting a property to undefined': [session => { session.name = undefined }, true],
  'changing a nested value': [session => { for (const item of session.list) item.deep = [1] }, true],
  'reordering a list': [session => session.list.reverse(), true],
  'setting an object to null': [session => { session.empty = null }, true],
  'setting an object with toJSON': [session => { session.empty = { toJSON: () => 'full' } }, true]
}

/** An app on Redis, and the properties of its only session there. */
async function start (t: Test, options: SessionAppOptions = {}) {
  const { app, prefix, client } = await createSessionApp(t, { store: 'redis', ...options })
  const keyOf = async () => (await client().keys(`${prefix}:session:data:*`))[0] ?? ''
  return { app, prefix, client, keyOf, textOf: async () => (await storedSession(client(), await keyOf())).text }
}

for (const encrypt of [undefined, Buffer.alloc(32, 7)]) {
  t.test(`a session is saved, and its cookie is sent, only if its content has changed${encrypt ? ', also if it is sealed' : ''}`, async t => {
    const { app, prefix, client } = await start(t, {
      session: { encrypt },
      routes: app => {
        app.post<{ Params: { deed: string } }>('/deed/:deed', async request => {
          deeds[request.params.deed]?.[0](anySession(request) as typeof initial & Record<string, unknown>)
          return app.sessions.handleOf(request.session.sessionId)
        })
      }
    })
    const outcomes = Object.keys(deeds).map(async deed => {
      const user = new Browser(app)
      await user.send('POST', '/set', initial)
      const reply = await user.send('POST', `/deed/${encodeURIComponent(deed)}`)
      const { version } = await storedSession(client(), `${prefix}:session:data:${reply.body}`)
      return [deed, reply.statusCode, version !== '1', reply.headers['set-cookie'] !== undefined]
    })
    t.same(await Promise.all(outcomes), Object.entries(deeds).map(([deed, [, isSaved]]) => [deed, 200, isSaved, isSaved]))
  })
}

t.test('an explicit save sends the cookie, and a value that JSON cannot represent is an error', async t => {
  const { app } = await start(t, {
    routes: app => {
      app.post('/save', async request => { await request.session.save(); return {} })
      app.post('/circle', async request => { const session = anySession(request); session['self'] = [session.list]; (session.list as unknown[]).push(session['self']); return {} })
    }
  })
  const user = new Browser(app)
  await user.send('POST', '/set', initial)
  t.ok((await user.send('POST', '/save')).headers['set-cookie'], 'its cookie is sent')
  t.match((await user.send('POST', '/circle')).json(), { statusCode: 500, code: 'FST_REDIS_SUITE_SESSION_UNSERIALIZABLE', message: /"list"/ })
  t.match(await user.state(), { name: 'Ann' })
})

t.test('a cookie as the options define it is not stored, and one that a handler has changed is', async t => {
  const { app, textOf } = await start(t, {
    routes: app => {
      app.post('/week', async request => { request.session.cookie.maxAge = 604_800_000; anySession(request)['week'] = true; return {} })
      app.post('/strict', async request => { request.session.options({ sameSite: 'strict' }); anySession(request)['strict'] = true; return {} })
      app.post('/none', async request => { Object.assign(request.session, { cookie: null }); await request.session.save(); return {} })
    }
  })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  t.equal(await textOf(), '{"a":1}')
  t.match((await user.send('POST', '/week')).cookies[0], { expires: Date })
  t.match(JSON.parse(await textOf()), { cookie: { originalMaxAge: 604_800_000 } })
  t.match((await user.send('POST', '/set', { a: 2 })).cookies[0], { expires: Date }, 'as it was stored')
  t.match((await user.send('POST', '/strict')).cookies[0], { sameSite: 'Strict' })
  t.match((await user.send('POST', '/set', { a: 3 })).cookies[0], { sameSite: 'Strict' })
  t.match(await user.state(), { a: 3, week: true, strict: true })
  await user.send('POST', '/none')
  t.match(await user.state(), { a: 3 })
})

t.test('with any cookie options, over HTTP and HTTPS, a later response sends the cookie with the same attributes', async t => {
  const variants = [{}, { secure: false }, { secure: true }, { secure: 'auto' as const, sameSite: 'strict' as const }, { sameSite: false }, { httpOnly: false }, { domain: 'example.com' },
    { path: '/' }, { partitioned: true, secure: true }, { maxAge: 60_000 }, { expires: new Date(Date.now() + 3_600_000) }]
  for (const cookie of variants) {
    for (const protocol of ['http', 'https']) {
      const { app, textOf } = await start(t, {
        session: { cookie },
        before: app => app.addHook('onRequest', async request => { Object.defineProperty(request, 'protocol', { value: protocol }) })
      })
      const what = `${protocol} ${JSON.stringify(cookie)}`
      const user = new Browser(app)
      const first = await user.send('POST', '/set', { a: 1 })
      if (protocol === 'http' && 'secure' in cookie && cookie.secure === true) {
        t.equal(first.headers['set-cookie'], undefined, what)
        continue
      }
      const again = await user.send('POST', '/set', { a: 2 })
      const attributes = ({ cookies: [cookie] }: typeof first) => ({ ...cookie, value: '', expires: cookie?.expires && 'a date' })
      t.same(attributes(again), attributes(first), what)
      const { cookie: stored } = JSON.parse(await textOf())
      const isAuto = !('secure' in cookie) || cookie.secure === 'auto'
      if ('maxAge' in cookie || 'expires' in cookie) t.match(stored, { expires: String }, what)
      else t.same(stored, isAuto && protocol === 'https' ? { secure: true } : undefined, what)
    }
  }
})

t.test('a login in a session that was never saved keeps its id, leaves no tombstone and drops all properties but those of the option keep', async t => {
  const { app, prefix, client } = await start(t, {
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
  t.equal((await client().keys(`${prefix}:session:data:*`)).length, 1)
  t.same((await user.send('POST', '/basket-and-login')).json(), { hasNewId: true }, 'a session that a client knows changes its id')
  t.same((await new Browser(app).send('POST', '/basket-and-login?save=1')).json(), { hasNewId: true }, 'as does one that has been saved')
})

t.test('a session created over HTTPS keeps its Secure cookie, and a request over HTTP does not change it', async t => {
  const { app, textOf } = await start(t, {
    before: app => app.addHook('onRequest', async request => { Object.defineProperty(request, 'protocol', { value: request.headers['x-forwarded-proto'] ?? 'http' }) })
  })
  const user = new Browser(app, { 'x-forwarded-proto': 'https' })
  t.match((await user.send('POST', '/set', { a: 1 })).cookies[0], { secure: true, sameSite: 'Lax' })
  t.equal(await textOf(), '{"cookie":{"secure":true},"a":1}')
  const { cookie = '' } = user
  const reply = await app.inject({ method: 'POST', url: '/set', headers: { cookie }, payload: { a: 2 } })
  t.equal(reply.headers['set-cookie'], undefined)
  t.same(await user.state(), { a: 1 })
  t.match((await user.send('POST', '/set', { a: 3 })).cookies[0], { secure: true, sameSite: 'Lax' })
})

t.test('the cookie of a session that has ended meanwhile does not replace the cookie of a login', async t => {
  const gate = new Gate()
  const { app } = await start(t, {
    session: { rolling: true },
    routes: app => app.get('/late', async request => {
      await gate.wait('late')
      await request.session.reload()
      return {}
    })
  })
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  const late = app.inject({ url: '/late', headers: { cookie: user.cookie ?? '' } })
  await gate.arrival('late')
  await user.send('POST', '/login/ann')
  gate.open('late')
  t.equal((await late).headers['set-cookie'], undefined)
  t.same(await user.state(), { userId: 'ann' })
})

t.test('a stored text that is nested too deeply is no session', async t => {
  const { app, client, keyOf } = await start(t)
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  await replaceText(client(), await keyOf(), `{"a":${'['.repeat(5000)}${']'.repeat(5000)}}`)
  t.same(await user.state(), {})
})

t.test('a stored cookie that is nested too deeply counts as none', async t => {
  const { app, client, keyOf } = await start(t)
  const user = new Browser(app)
  await user.send('POST', '/set', { a: 1 })
  await replaceText(client(), await keyOf(), `{"cookie":${'['.repeat(5000)}${']'.repeat(5000)},"a":1}`)
  t.same(await user.state(), { a: 1 })
  await user.send('POST', '/set', { a: 2 })
  t.same(await user.state(), { a: 2 })
})

t.test('only known attributes of a cookie are sent, and an invalid one is an error', async t => {
  const { app } = await start(t, {
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

t.test('a session that is read outside of the hooks is complete', async t => {
  const { app } = await start(t, {
    routes: app => {
      // Called in a hook of a request that has no cookie.
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
        const modified = [session.isModified()]
        anySession(request)['b'] = 1
        modified.push(session.isModified())
        await session.save()
        modified.push(session.isModified())
        await session.reload()
        return [...modified, session.isModified(), request.session.isModified(), anySession(request)['b']]
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

t.test('a difference is what was set and what was removed', async t => {
  const before = takeSnapshot({ a: 1, b: { deep: [1] }, c: 'x', gone: true })
  const after = takeSnapshot({ a: 1, b: { deep: [1, 2] }, c: undefined, d: new Date(0) })
  t.same(diff(before, after), { set: { b: '{"deep":[1,2]}', d: '"1970-01-01T00:00:00.000Z"' }, delete: ['c', 'gone'] })
  t.same(diff(before, before), { set: {}, delete: [] })
})

t.test('a difference from the stored text is the difference from what that text holds', async t => {
  const objects = fc.dictionary(fc.oneof(fc.constantFrom('a', 'b', 'c', '"', 'a":1,"b', '10', '2'), fc.string({ unit: 'binary' })), fc.jsonValue(), { noNullPrototype: true })
  fc.assert(fc.property(objects, objects, fc.array(fc.boolean()), (one, other, kept) => {
    // Most properties are unchanged, which random objects seldom have in common.
    const some = Object.entries(one).filter((_, i) => kept[i] ?? true)
    const contents = contentsOf(one)
    return [other, { ...Object.fromEntries(some), ...other }, { ...other, ...one }, Object.fromEntries(some.reverse()), one].every(next => {
      const after = takeSnapshot(next)
      return isDeepStrictEqual(diffContents(contents, after), diff(takeSnapshot(JSON.parse(`{${contents}}`)), after))
    })
  }), { numRuns: 300, seed: 16 })
  t.same(diffContents('"a":1,"b":12', { a: '1', b: '1' }), { set: { b: '1' }, delete: [] }, 'a number is not its beginning')
  t.same(diffContents('"a":1', { a: '1', b: '2' }), { set: { b: '2' }, delete: [] }, 'behind the end')
  t.same(diffContents('', {}), { set: {}, delete: [] })
})

t.test('stored fields that would reach a prototype or hide a method are omitted', async t => {
  const parsed = parseFields('{"__proto__":{"admin":true},"constructor":1,"save":1,"a":{"__proto__":{"admin":true}}}')
  t.same(Object.keys(parsed ?? {}), ['a'])
  t.equal(Reflect.get(parsed ?? {}, 'admin'), undefined)
  t.equal(Reflect.get({}, 'admin'), undefined)
})

t.test('a text that cannot be parsed is no session', async t => {
  t.same(['', '{', '{"a":}', '[1]', '"a"', 'null', '1'].filter(text => parseFields(text) !== undefined), [])
  t.equal(parseFields('{"a":"sealed"}', () => undefined), undefined)
  t.equal(parseFields('{"a":"sealed"}', () => '{'), undefined)
  t.same(parseFields('{"a":"sealed"}', (name, sealed) => JSON.stringify([name, sealed])), { a: ['a', 'sealed'] })
})

t.test('joined fields are parsed as they were', async t => {
  const fields = { 'a"b': '1', ключ: '[{}]', '': '"\\u0000"' }
  t.same(parseFields(joinFields(fields)), { 'a"b': 1, ключ: [{}], '': '\u0000' })
  t.equal(joinFields({}), '{}')
})
