import type { FastifyInstance, FastifyRequest } from 'fastify'
import t from 'tap'
import { attributesOf } from '../../plugins/session/cookie/cookie.js'
import { checkAttributes, repairCookie } from '../../plugins/session/cookie/cookie-rules.js'
import { forEachStore, sharedRedis } from '../helpers/index.js'
import type { SessionPluginOptions } from '../../plugins/session/index.js'
import { anySession, Browser, createSessionApp } from '../helpers/session/session-app.js'
import { replaceText } from '../helpers/session/stored-session.js'

const INVALID = 'FST_REDIS_SUITE_SESSION_INVALID_COOKIE'

type Cookie = FastifyRequest['session']['cookie']
const cookieOf = (request: FastifyRequest) => request.session.cookie as unknown as Record<string, unknown>

/** Changes of the cookie by a handler, and the attribute that the error names. */
const wrong: Record<string, [attribute: string, (request: FastifyRequest) => void]> = {
  'maxAge NaN': ['maxAge', request => { request.session.cookie.maxAge = Number('a year') }],
  'maxAge Infinity': ['maxAge', request => { request.session.cookie.maxAge = Infinity }],
  'maxAge as text': ['maxAge', request => { cookieOf(request)['maxAge'] = '60000' }],
  'maxAge before the year 1601': ['expires', request => { request.session.cookie.maxAge = -1e14 }],
  'maxAge after the year 9999': ['maxAge', request => { request.session.cookie.maxAge = 1e15 }],
  'an invalid expires': ['expires', request => { request.session.cookie.expires = new Date('never') }],
  'expires as an object': ['expires', request => { cookieOf(request)['expires'] = { valueOf: 1, toString: 1 } }],
  'options({ expires })': ['expires', request => { request.session.options({ expires: new Date('never') }) }],
  'path with ;': ['path', request => { request.session.cookie.path = '/a;b' }],
  'path with a line break': ['path', request => { request.session.cookie.path = '/\r\nx' }],
  'path €': ['path', request => { request.session.cookie.path = '/€' }],
  'path as a number': ['path', request => { cookieOf(request)['path'] = 5 }],
  domain: ['domain', request => { request.session.cookie.domain = 'a b' }],
  sameSite: ['sameSite', request => { cookieOf(request)['sameSite'] = 'loose' }],
  secure: ['secure', request => { cookieOf(request)['secure'] = 'yes' }],
  httpOnly: ['httpOnly', request => { cookieOf(request)['httpOnly'] = 'no' }],
  partitioned: ['partitioned', request => { cookieOf(request)['partitioned'] = 1 }],
  'no cookie': ['', request => { anySession(request)['cookie'] = null }],
  'a text': ['', request => { anySession(request)['cookie'] = 'x' }],
  'another object, which has no HttpOnly': ['', request => { Object.assign(request.session, JSON.parse('{"cookie":{"path":"/"}}')) }]
}

/** When a handler does it. */
const moments: Record<string, (request: FastifyRequest, spoil: (request: FastifyRequest) => void) => unknown> = {
  'before the response': (request, spoil) => { anySession(request)['a'] = 1; spoil(request) },
  'before save': async (request, spoil) => { anySession(request)['a'] = 1; spoil(request); await request.session.save() },
  'after save': async (request, spoil) => { anySession(request)['a'] = 1; await request.session.save(); spoil(request) }
}

function routes (app: FastifyInstance) {
  app.post<{ Params: { what: string, when: string } }>('/spoil/:what/:when', async request => {
    await moments[request.params.when]?.(request, wrong[request.params.what]?.[1] ?? (() => {}))
  })
}

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: a cookie attribute that cannot be sent is a coded 500 that names it, and no cookie is sent`, async t => {
    for (const rolling of [false, true]) {
      const { app } = await createSessionApp(t, { store, session: { rolling }, routes })
      for (const isKnown of [false, true]) {
        for (const [what, [attribute]] of Object.entries(wrong).slice(0, store === 'memory' ? undefined : 2)) {
          for (const when of Object.keys(moments)) {
            const user = new Browser(app)
            if (isKnown) await user.send('POST', '/set', { b: 1 })
            const reply = await user.send('POST', `/spoil/${encodeURIComponent(what)}/${encodeURIComponent(when)}`)
            const name = `${what}, ${when}, rolling ${rolling}, known ${isKnown}`
            t.match(reply.json(), { statusCode: 500, code: INVALID }, name)
            t.ok(reply.json().message.startsWith(`session: request.session.cookie${attribute && '.'}${attribute} cannot be sent; set`), reply.json().message)
            t.equal(reply.headers['set-cookie'], undefined, name)
            if (isKnown) t.match(await user.state(), { b: 1 }, 'the session is still the user\'s')
          }
        }
      }
    }
  })
})

t.test('a login with a cookie that cannot be sent is a coded 500, and no user is logged in', async t => {
  const { app } = await createSessionApp(t, {
    routes: app => app.post('/spoilt-login', async request => {
      await request.login('ann', { set: { cookie: { path: '/' } as Cookie } })
    })
  })
  const user = new Browser(app)
  const reply = await user.send('POST', '/spoilt-login')
  t.match(reply.json(), { statusCode: 500, code: INVALID })
  t.equal(user.cookie, undefined)
  t.equal(await app.sessions.count('ann'), 0)
})

t.test('a lifetime of less than nothing expires the cookie, and the session', async t => {
  const { app } = await createSessionApp(t, {
    routes: app => app.post('/over', async request => { request.session.cookie.maxAge = -86_400_000; anySession(request)['a'] = 1 })
  })
  const user = new Browser(app)
  await user.send('POST', '/login/ann')
  const { cookie } = user
  const reply = await user.send('POST', '/over')
  t.equal(reply.statusCode, 200)
  // Node.js updates `Date` by a timer, which is late on a busy machine: a day is more than that.
  t.ok(Date.parse(/Expires=([^;]+)/.exec(String(reply.headers['set-cookie']))?.[1] ?? '') < Date.parse(String(reply.headers.date)))
  user.cookie = cookie
  t.same(await user.state(), {})
  t.equal(await app.sessions.count('ann'), 0)
})

t.test('stored cookie attributes that cannot be sent are ignored: the configured ones are sent, and the log says so once', async t => {
  const redis = (await sharedRedis()).client()
  const { app, prefix, warnings } = await createSessionApp(t, {
    store: 'redis',
    session: { cookie: { path: '/', maxAge: 3_600_000, sameSite: 'strict' } },
    routes: app => app.post('/regenerate', async request => { await request.session.regenerate(['userId'] as never); anySession(request)['b'] = 1 })
  })
  const stored: unknown[] = [
    { path: '/\r\nx' }, { path: 5 }, { domain: 'a b', sameSite: 'loose', secure: 'yes', httpOnly: 0, partitioned: 'x' }, { priority: {}, encode: 1, signed: true },
    { expires: 'never', originalMaxAge: 'x', originalExpires: [] }, { expires: { valueOf: 1, toString: 1 } }, { originalMaxAge: 1e15 }, { maxAge: '5' }, 5, 'text', [1], null, true,
    { __proto__: { path: '/x' }, toJSON: 1 }
  ]
  for (const cookie of stored) {
    for (const [url, status] of [['/set', 200], ['/login/ann', 200], ['/regenerate', 200], ['/logout', 200]] as const) {
      const user = new Browser(app)
      const handle = (await user.send('POST', '/login/ann')).body
      await replaceText(redis, `${prefix}:session:data:${handle}`, JSON.stringify({ cookie, userId: 'ann' }))
      const name = `${JSON.stringify(cookie)} ${url}`
      t.match(await user.state(), { userId: 'ann' }, name)
      const reply = await user.send('POST', url, { a: 1 })
      t.equal(reply.statusCode, status, name)
      if (url !== '/logout') t.match(String(reply.headers['set-cookie']), /^sid=[^;]+; Path=\/; Expires=[^;]+; HttpOnly; SameSite=(Lax|Strict)$/, name)
    }
  }
  t.same(warnings(), ['session: attributes of a stored cookie cannot be sent and are ignored; those of the option cookie are used (logged once)'])
})

t.test('options of the cookie that cannot be sent are refused at registration', async t => {
  const bad: object[] = [
    ...[NaN, Infinity, -1, '60000', 1e15].map(maxAge => ({ cookie: { maxAge } })),
    ...[new Date('never'), {}].map(expires => ({ cookie: { expires } })),
    ...['/a;b', 'admin', '/\r\n', '/€', 5].map(path => ({ cookie: { path } })),
    { cookie: { domain: 'a b' } }, { cookie: { sameSite: 'loose' } }, { cookie: { secure: 'yes' } }, { cookie: { httpOnly: 1 } }, { cookie: { partitioned: 'x' } }, { cookie: { priority: 'top' } },
    { cookie: { samesite: 'lax' } }, { cookie: 'x' }, { cookie: [] }, { cookieName: 'a b' }, { cookieName: 'sid;' }, { cookiePrefix: '\ud800' }, { cookiePrefix: 5 },
    { idGenerator: 'x' }, { rolling: 'false' }, { saveUninitialized: 1 },
    // Browsers reject these.
    { cookie: { sameSite: 'None', secure: false } }, { cookie: { partitioned: true, secure: false } }, { cookieName: '__Secure-sid', cookie: { secure: false } },
    { cookieName: '__host-sid', cookie: { secure: false } }, { cookieName: '__Host-sid', cookie: { domain: 'example.com' } }, { cookieName: '__Host-sid', cookie: { path: '/app' } }
  ]
  for (const session of bad) await t.rejects(createSessionApp(t, { session }), { code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION' }, JSON.stringify(session))
})

t.test('priority and all other attributes of the option cookie are sent', async t => {
  const { app } = await createSessionApp(t, {
    server: { trustProxy: true },
    session: { cookieName: '__Secure-sid', cookiePrefix: 's:', cookie: { path: '/', domain: 'example.com', sameSite: 'none', partitioned: true, priority: 'high', maxAge: 60_000, httpOnly: false } }
  })
  const reply = await new Browser(app, { 'x-forwarded-proto': 'https' }).send('POST', '/login/ann')
  t.match(reply.headers['set-cookie'], /^__Secure-sid=s:[^;]+; Domain=example.com; Path=\/; Expires=[^;]+; Secure; Partitioned; Priority=High; SameSite=None$/)
})

t.test('what the rules accept, @fastify/cookie can write', async t => {
  const { app } = await createSessionApp(t)
  const values: unknown[] = [
    undefined, null, true, false, 0, 1, -1, 0.5, NaN, Infinity, 2.5e14, 8.64e15, 1e300, 5n, '', ' ', '/', '/a', '/a b', '/a;b', '/a<b', '/a\tb', '/a\u0000', '/\u007f', '/€', '/\ud800', 'a', 'a.b', '.a.b', 'a..b', '-a', 'a-',
    'a_b', 'ä', `${'a'.repeat(63)}.b`, `${'a'.repeat(64)}.b`, 'Lax', 'STRICT', 'none', 'auto', 'high', '60000', '2030-01-01', new Date(0), new Date(NaN), new Date('1600-12-31'), new Date('1601-01-01'),
    new Date('9999-12-31'), new Date(253_402_300_800_000), {}, [], { valueOf: 1, toString: 1 }, () => '/', Symbol('a')
  ]
  const names = ['path', 'domain', 'httpOnly', 'secure', 'sameSite', 'partitioned', 'expires', 'originalMaxAge', 'originalExpires', 'maxAge']
  const accepts = (cookie: object) => { try { checkAttributes(cookie); return true } catch { return false } }
  let accepted = 0
  for (const name of names) {
    for (const value of values) {
      const attributes = { [name]: value }
      const isAccepted = accepts(attributes)
      // Stored ones, too, but for what JSON has no value for.
      t.equal(repairCookie(attributes) === undefined, isAccepted && value !== undefined, `${name} ${typeof value}`)
      if (!isAccepted) continue
      accepted++
      t.doesNotThrow(() => app.serializeCookie('sid', 'x', attributesOf({ ...attributes, toJSON: () => attributes } as never, {}) as never), `${name} ${String(value)}`)
    }
  }
  t.ok(accepted > 50 && accepted < 150, `${accepted} were accepted`)
})

/** Attributes of a `Set-Cookie`, but for the time at which it expires. */
const attributesIn = (header: unknown) => String(header).split('; ').slice(1).filter(each => !/^(Expires|Max-Age)=/.test(each)).sort()

t.test('a cookie is cleared with the attributes that it was set with, as a browser ignores others', async t => {
  const https = { 'x-forwarded-proto': 'https' }
  const cases: Array<{ session: Partial<SessionPluginOptions>, headers?: Record<string, string>, attributes: string[] }> = [
    { session: {}, attributes: ['HttpOnly', 'Path=/', 'SameSite=Lax'] },
    { session: {}, headers: https, attributes: ['HttpOnly', 'Path=/', 'SameSite=Lax', 'Secure'] },
    { session: { cookieName: '__Host-sid', cookie: { secure: true, sameSite: 'none', partitioned: true } }, headers: https, attributes: ['HttpOnly', 'Partitioned', 'Path=/', 'SameSite=None', 'Secure'] },
    { session: { cookie: { sameSite: 'strict', domain: 'example.com', priority: 'high', httpOnly: false, maxAge: 60_000 } }, headers: https, attributes: ['Domain=example.com', 'Path=/', 'Priority=High', 'SameSite=Strict', 'Secure'] }
  ]
  for (const { session, headers, attributes } of cases) {
    const name = session.cookieName ?? 'sid'
    const { app } = await createSessionApp(t, {
      session,
      server: { trustProxy: true },
      routes: app => {
        app.post('/destroy', async request => { await request.session.destroy() })
        app.post('/null', async request => { Reflect.set(request, 'session', null) })
        app.post('/own', async request => { Object.assign(request.session.cookie, { domain: 'shop.example.com', sameSite: 'strict' }) })
      }
    })
    for (const url of ['/logout', '/destroy', '/null']) {
      const user = new Browser(app, headers)
      t.same(attributesIn((await user.send('POST', '/login/ann')).headers['set-cookie']), attributes)
      t.same(attributesIn((await user.send('POST', url)).headers['set-cookie']), attributes, `${name} ${url}`)
      t.equal(user.cookie, undefined)
      // Attributes that a handler has set on this session's cookie.
      await user.send('POST', '/login/ann')
      const own = (await user.send('POST', '/own')).headers['set-cookie']
      t.match(attributesIn(own), ['Domain=shop.example.com'])
      t.same(attributesIn((await user.send('POST', url)).headers['set-cookie']), attributesIn(own), `${name} ${url}`)
    }
    const stranger = new Browser(app, headers)
    stranger.cookie = `${name}=of.no.session`
    t.same(attributesIn((await stranger.send('GET', '/')).headers['set-cookie']), attributes, 'a cookie of no session')
  }
})

for (const store of ['memory', 'redis'] as const) {
  t.test(`${store}: request.session = null destroys the session`, async t => {
    const { app } = await createSessionApp(t, {
      store,
      routes: app => {
        app.post('/null/:value', async request => {
          anySession(request)['a'] = 1
          Reflect.set(request, 'session', (request.params as { value: string }).value === 'null' ? null : undefined)
          return { session: request.session }
        })
      }
    })
    for (const url of ['/null/null', '/null/undefined']) {
      const user = new Browser(app)
      await user.send('POST', '/login/ann')
      const { cookie } = user
      t.same((await user.send('POST', url)).json(), { session: null })
      t.equal(user.cookie, undefined, 'the client forgets its cookie')
      user.cookie = cookie
      t.same(await user.state(), {})
      t.equal(await app.sessions.count('ann'), 0)
      const visitor = await new Browser(app).send('POST', url)
      t.same([visitor.statusCode, visitor.headers['set-cookie']], [200, undefined], 'without a session there is none to destroy')
    }
    t.match(app.sessions.stats(), { created: 2, destroyed: 2 })
  })
}

t.test('another object in place of the session is a coded error, as it would not be saved', async t => {
  const { app } = await createSessionApp(t, {
    routes: app => {
      app.post('/replace', async request => { Reflect.set(request, 'session', request.body) })
      app.post('/text', async request => { Reflect.set(request, 'session', 'text') })
    }
  })
  const user = new Browser(app)
  await user.send('POST', '/login/ann')
  for (const url of ['/replace', '/text']) {
    t.match((await user.send('POST', url, { a: 1 })).json(), { statusCode: 500, code: 'FST_REDIS_SUITE_SESSION_INVALID_SESSION', message: /null to destroy it/ })
  }
  t.same(await user.state(), { userId: 'ann' })
})

const DAY = 86_400_000
/** In how many days a cookie expires; undefined for one that ends with the browser. */
const daysOf = ({ headers }: { headers: Record<string, unknown> }) => {
  const expires = /Expires=([^;]+)/.exec(String(headers['set-cookie']))?.[1]
  // On a slow machine time passes between the two, and Node.js keeps a date for more than a second.
  return expires === undefined ? undefined : Math.round((Date.parse(expires) - Date.parse(String(headers['date']))) / DAY)
}

for (const store of ['memory', 'redis'] as const) {
  t.test(`${store}: login's option maxAge, or a maxAge that is set after it, is the lifetime of the cookie from then on`, async t => {
    const { app } = await createSessionApp(t, {
      store,
      routes: app => {
        app.post('/remember', async request => { await request.login('ann', { maxAge: '30 days' }) })
        app.post('/login-then-set', async request => { await request.login('ann'); request.session.cookie.maxAge = 30 * DAY })
        app.get('/lifetime', async request => request.session.cookie.originalMaxAge)
      }
    })
    for (const url of ['/remember', '/login-then-set']) {
      for (const visits of [0, 1]) {
        const user = new Browser(app)
        for (let visit = 0; visit < visits; visit++) await user.send('POST', '/set', { visit })
        t.equal(daysOf(await user.send('POST', url)), 30, url)
        t.equal((await user.send('GET', '/lifetime')).json(), 30 * DAY, `${url}: it is stored`)
        t.equal(daysOf(await user.send('POST', '/set', { a: 1 })), 30, 'a change renews it')
        t.match(await user.state(), { userId: 'ann', a: 1 })
      }
    }
    const user = new Browser(app)
    t.equal(daysOf(await user.send('POST', '/login/ann')), undefined)
  })

  t.test(`${store}: a session is saved, and its cookie sent, where only the cookie was changed`, async t => {
    const changes: Record<string, (cookie: Cookie & { partitioned?: boolean }) => unknown> = {
      maxAge: cookie => { cookie.maxAge = 7 * DAY },
      expires: cookie => { cookie.expires = new Date(Date.now() + 7 * DAY) },
      path: cookie => { cookie.path = '/changed' },
      domain: cookie => { cookie.domain = 'example.com' },
      httpOnly: cookie => { cookie.httpOnly = false },
      sameSite: cookie => { cookie.sameSite = 'strict' },
      secure: cookie => { cookie.secure = true },
      partitioned: cookie => { cookie.partitioned = true }
    }
    const { app } = await createSessionApp(t, {
      store,
      server: { trustProxy: true },
      session: { cookie: { secure: false } },
      routes: app => {
        app.post<{ Params: { name: string } }>('/change/:name', async request => { await changes[request.params.name]?.(request.session.cookie as Cookie) })
        app.post('/touch', async request => { request.session.touch() })
        app.get('/cookie', async request => ({ ...request.session.cookie, again: JSON.stringify(request.session) }))
      }
    })
    for (const name of Object.keys(changes)) {
      const user = new Browser(app, { 'x-forwarded-proto': 'https' })
      await user.send('POST', '/login/ann')
      const { cookie } = user
      const before = (await user.send('GET', '/cookie'))
      t.equal(before.headers['set-cookie'], undefined, 'reading changes nothing')
      const changed = await user.send('POST', `/change/${name}`)
      t.ok(changed.headers['set-cookie'], name)
      t.equal(user.cookie, cookie)
      const after = await user.send('GET', '/cookie')
      t.equal(after.headers['set-cookie'], undefined)
      const [was, is] = [before, after].map(reply => reply.json() as Record<string, unknown>)
      t.not(is?.[name === 'maxAge' || name === 'expires' ? '_expires' : name], was?.[name === 'maxAge' || name === 'expires' ? '_expires' : name], `${name} is stored`)
    }
    const user = new Browser(app)
    await user.send('POST', '/login/ann')
    await user.send('POST', '/change/maxAge')
    t.equal(daysOf(await user.send('POST', '/touch')), 7, 'touch() renews a lifetime')
    t.equal((await new Browser(app).send('POST', '/change/maxAge')).headers['set-cookie'], undefined, 'a visitor gets no session by that')
  })
}

t.test('a maxAge of a login that is no duration is a coded error, and no user is logged in', async t => {
  const { app } = await createSessionApp(t, {
    routes: app => app.post('/remember', async request => { await request.login('ann', { maxAge: (request.body as { maxAge: string }).maxAge }) })
  })
  for (const maxAge of [0, -1, 'soon', true, {}, 3e14]) {
    const user = new Browser(app)
    t.match((await user.send('POST', '/remember', { maxAge })).json(), { statusCode: 500, code: 'FST_REDIS_SUITE_SESSION_INVALID_OPTION', message: /maxAge/ }, String(maxAge))
    t.equal(user.cookie, undefined)
  }
  t.equal(await app.sessions.count('ann'), 0)
})

t.test('behind a TLS proxy without trustProxy a session whose cookie is or should be Secure is warned of once, with what to set', async t => {
  const https = { 'x-forwarded-proto': 'https' }
  const start = async (secure: boolean | 'auto', trustProxy: boolean) =>
    await createSessionApp(t, { session: { cookie: { secure } }, server: { trustProxy } })
  const LOST = "session: a Secure cookie cannot be sent over HTTP, so changes of the session are lost. Behind a TLS proxy set Fastify's option trustProxy, and have the proxy send X-Forwarded-Proto; without TLS set cookie.secure to 'auto' or false (logged once)"
  const OPEN = "session: the cookie is sent without Secure, as Fastify does not read the proxy's headers, by which the client uses HTTPS. Set Fastify's option trustProxy (logged once)"
  const cases: Array<[secure: boolean | 'auto', trustProxy: boolean, headers: Record<string, string>, warning?: string]> = [
    [true, false, https, LOST], [true, false, {}, LOST], [true, true, {}, LOST], [true, true, https],
    ['auto', false, https, OPEN], ['auto', false, { forwarded: 'for=192.0.2.1;proto=https' }, OPEN], ['auto', false, { 'x-forwarded-ssl': 'on' }, OPEN], ['auto', false, {}], ['auto', true, https],
    ['auto', false, { 'x-forwarded-proto': 'http' }], [false, false, https]
  ]
  for (const [secure, trustProxy, headers, warning] of cases) {
    for (const url of ['/set', '/login/ann']) {
      const { app, warnings } = await start(secure, trustProxy)
      const user = new Browser(app, headers)
      await user.send('GET', '/')
      t.same(warnings(), [], 'a visitor without a session loses nothing')
      for (let i = 0; i < 2; i++) await user.send('POST', url, { a: i })
      t.same(warnings(), warning === undefined ? [] : [warning], `${secure} ${trustProxy} ${JSON.stringify(headers)} ${url}`)
    }
  }
})
