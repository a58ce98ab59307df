import fastifyCookie from '@fastify/cookie'
import csrf from '@fastify/csrf-protection'
import jwt from '@fastify/jwt'
import multipart from '@fastify/multipart'
import oauth2, { type OAuth2Namespace } from '@fastify/oauth2'
import secureSession from '@fastify/secure-session'
import websocket from '@fastify/websocket'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest, type HTTPMethods } from 'fastify'
import { createHash } from 'node:crypto'
import { createRequire } from 'node:module'
import t, { type Test } from 'tap'
import { session } from '../../plugins/session/index.js'
import { createTestApp, SECRET, type TestApp, type TestAppOptions } from '../helpers/index.js'

// Without their types: they declare request.login and reply.flash as well.
const require = createRequire(import.meta.url)
const { Authenticator, Strategy } = require('@fastify/passport') as PassportModule
// The client of the package that @fastify/websocket is made of.
const WebSocket = createRequire(require.resolve('@fastify/websocket'))('ws') as new (url: string, options: object) => Socket

interface Socket {
  once (event: string, listener: (value: unknown) => void): void
  send (text: string): void
}

interface PassportModule {
  Authenticator: new (options?: object) => Passport
  Strategy: new (name: string) => object
}

interface Passport {
  use (strategy: object): void
  initialize (): never
  secureSession (): never
  authenticate (name: string, options?: object): never
  registerUserSerializer (fn: (user: { id: string }) => Promise<unknown>): void
  registerUserDeserializer (fn: (id: string) => Promise<unknown>): void
}

/** The decorators of the packages on requests and replies. */
interface Flashing { flash (type?: string, message?: string): unknown }
type PassportRequest = FastifyRequest & Flashing & { user?: { id: string }, isAuthenticated (): boolean }

/** A client with all of its cookies, like a browser. */
class Visitor {
  readonly cookies: Record<string, string> = {}
  readonly #app: FastifyInstance

  constructor (app: FastifyInstance) {
    this.#app = app
  }

  async send (method: HTTPMethods, url: string, { payload, headers = {} }: { payload?: object | string | Buffer, headers?: Record<string, string> } = {}) {
    const response = await this.#app.inject({ method: method as 'GET', url, headers: { ...headers, cookie: this.header }, ...payload !== undefined && { payload } })
    for (const { name, value } of response.cookies) {
      if (value === '') Reflect.deleteProperty(this.cookies, name)
      else this.cookies[name] = value
    }
    return response
  }

  get header (): string {
    return Object.entries(this.cookies).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join('; ')
  }
}

/** Logs in every user whose password is `right`. */
function createPassport (): Passport {
  const passport = new Authenticator({ clearSessionIgnoreFields: ['basket'] })
  passport.use(Object.assign(new Strategy('password'), {
    authenticate (this: { success (user: object): void, fail (challenge: string, status: number): void }, { body }: FastifyRequest) {
      const { name, password } = body as { name: string, password: string }
      if (password === 'right') this.success({ id: name })
      else this.fail('wrong password', 401)
    }
  }))
  passport.registerUserSerializer(async ({ id }) => id)
  passport.registerUserDeserializer(async id => ({ id }))
  return passport
}

const PASSWORD = { payload: { name: 'ann', password: 'right' } }

/** Packages that may be registered before the session and after it. */
const besides: Record<string, (app: FastifyInstance) => unknown> = {
  cookie: app => { if (!app.hasDecorator('parseCookie')) return app.register(fastifyCookie) },
  multipart: app => app.register(multipart),
  websocket: app => app.register(websocket),
  csrf: app => app.register(csrf, { sessionPlugin: '@fastify/session' }),
  oauth2: app => app.register(oauth2, { name: 'github', credentials: { client: { id: 'x', secret: 'y' }, auth: oauth2.fastifyOauth2.GITHUB_CONFIGURATION }, startRedirectPath: '/github', callbackUri: 'http://localhost/callback' })
}

interface PassportApp extends TestApp { passport: Passport }

async function createPassportApp (t: Test, order: 'before' | 'after', options: TestAppOptions = {}): Promise<PassportApp> {
  const passport = createPassport()
  const registerAll = async (app: FastifyInstance) => { for (const register of Object.values(besides)) await register(app) }
  const test = await createTestApp(t, {
    ...options,
    plugins: { session: { userId: 'passport', cookie: { secure: false } }, cache: { global: true }, rateLimit: { max: 1000 }, ...options.plugins },
    before: order === 'before' ? registerAll : () => {},
    routes: async app => {
      await app.register(passport.initialize())
      await app.register(passport.secureSession())
      if (order === 'after') await registerAll(app)
      app.post('/login', { preValidation: passport.authenticate('password', { authInfo: false }) }, async (request, reply) => {
        (request as PassportRequest).flash('notice', 'welcome')
        return await reply.send({ user: (request as PassportRequest).user })
      })
      app.post('/logout', async request => { await request.logout() })
      app.post('/basket', async request => { Reflect.set(request.session, 'basket', request.body) })
      app.get('/', async (request, reply) => ({ user: (request as PassportRequest).user, basket: Reflect.get(request.session, 'basket'), notices: (reply as FastifyReply & Flashing).flash('notice') }))
      app.get('/greeting', async request => `hello ${(request as PassportRequest).user?.id ?? 'visitor'}`)
      app.get('/token', async (_, reply) => ({ token: reply.generateCsrf() }))
      app.post('/protected', { onRequest: app.csrfProtection }, async () => 'done')
      app.post('/upload', async request => {
        const file = await request.file()
        const { length } = await file!.toBuffer()
        Reflect.set(request.session, 'uploaded', length)
        return { user: (request as PassportRequest).user, length }
      })
      app.get('/uploaded', async request => ({ uploaded: Reflect.get(request.session, 'uploaded') }))
      await app.register(async child => {
        child.get('/live', { websocket: true }, (socket, request) => {
          child.sessions.watch(request, () => socket.close(4001, 'the session ended'))
          socket.on('message', async () => {
            Reflect.set(request.session, 'uploaded', 'over a socket')
            await request.session.save()
            socket.send(JSON.stringify({ user: (request as PassportRequest).user }))
          })
        })
      })
    }
  })
  return { ...test, passport }
}

for (const [order, store] of [['before', 'redis'], ['after', 'memory']] as const) {
  t.test(`${store}: @fastify/passport beside session logs in and out, with cookie, csrf-protection, oauth2, multipart and websocket registered ${order} the session`, async t => {
    const { app, clock, lines, warnings } = await createPassportApp(t, order, { store })
    const ann = new Visitor(app)
    await ann.send('POST', '/basket', { payload: ['tea'] })
    const planted = new Visitor(app)
    Object.assign(planted.cookies, ann.cookies)
    const wrong = await ann.send('POST', '/login', { payload: { name: 'ann', password: 'wrong' } })
    t.equal(wrong.statusCode, 401)
    t.same((await ann.send('GET', '/')).json(), { user: null, basket: ['tea'], notices: [] }, 'a login that fails leaves the session')

    t.same((await ann.send('POST', '/login', PASSWORD)).json(), { user: { id: 'ann' } })
    t.not(ann.cookies['sid'], planted.cookies['sid'])
    t.same((await planted.send('GET', '/')).json(), { user: null, notices: [] }, 'an id that was planted before the login opens nothing')
    t.same((await ann.send('GET', '/')).json(), { user: { id: 'ann' }, basket: ['tea'], notices: ['welcome'] }, 'the flash message, once')
    t.same((await ann.send('GET', '/')).json(), { user: { id: 'ann' }, basket: ['tea'], notices: [] })
    t.same((await new Visitor(app).send('GET', '/')).json(), { user: null, notices: [] }, 'the page is not shared')
    const greetings = []
    for (const visitor of [new Visitor(app), ann, new Visitor(app), ann]) {
      const { body, headers } = await visitor.send('GET', '/greeting')
      greetings.push(`${body} ${headers['x-cache']}`)
      await clock.advance(1)
    }
    t.same(greetings, ['hello visitor MISS', 'hello ann BYPASS', 'hello visitor HIT', 'hello ann BYPASS'], 'visitors share a page that greets the user, who has another')
    t.equal(await app.sessions.count('ann'), 1, 'it is in the list of the user\'s sessions')

    const stolen = new Visitor(app)
    Object.assign(stolen.cookies, ann.cookies)
    t.equal((await ann.send('POST', '/logout')).statusCode, 200)
    t.equal((await ann.send('GET', '/')).json().user, null)
    t.equal((await stolen.send('GET', '/')).json().user, null)
    t.equal(await app.sessions.count('ann'), 0)

    await ann.send('POST', '/login', PASSWORD)
    t.equal(await app.sessions.destroyAll('ann'), 1)
    t.equal((await ann.send('GET', '/')).json().user, null, 'destroyAll logs out of passport')

    t.same(lines.map(({ msg }) => msg).filter(line => String(line).startsWith('session: another')),
      ['session: another plugin has request.login and request.logout; use fastify.sessions.login and fastify.sessions.logout for those of this plugin'])
    t.same(warnings().filter(line => line.startsWith('session:')), [])
  })

  t.test(`${store}: routes without sessions, probes and metrics among them, are answered beside @fastify/passport, registered ${order} it`, async t => {
    const { app } = await createPassportApp(t, order, {
      store,
      plugins: { health: {}, metrics: { defaultMetrics: false } },
      ready: false
    })
    let seen: unknown
    app.get('/without', { config: { session: false } }, async request => {
      seen = [request.session.get('passport' as never), Object.keys(request.session), request.session.sessionId]
      return { user: (request as PassportRequest).user ?? null }
    })
    app.post('/login-without', { config: { session: false } }, async request => { await request.login({ id: 'ann' } as never) })
    const ann = new Visitor(app)
    await ann.send('POST', '/login', PASSWORD)
    for (const visitor of [ann, new Visitor(app)]) {
      for (const url of ['/health', '/health/live', '/health/ready', '/metrics']) t.equal((await visitor.send('GET', url)).statusCode, 200, url)
      t.same((await visitor.send('GET', '/without')).json(), { user: null })
      t.same(seen, [undefined, [], undefined])
    }
    t.match((await ann.send('POST', '/login-without', PASSWORD)).json(), { code: 'FST_REDIS_SUITE_SESSION_NO_SESSION' })
    t.equal((await ann.send('GET', '/greeting')).body, 'hello ann', 'the session is as it was')
  })

  t.test(`${store}: @fastify/csrf-protection with its secret in the session, registered ${order} it, lets no token of another session or of before a login pass`, async t => {
    const { app } = await createPassportApp(t, order, { store })
    const [ann, eve] = [new Visitor(app), new Visitor(app)]
    const tokenOf = async (visitor: Visitor) => (await visitor.send('GET', '/token')).json().token as string
    const post = async (visitor: Visitor, token?: string) => (await visitor.send('POST', '/protected', { headers: token === undefined ? {} : { 'csrf-token': token } })).statusCode
    const tokens = { ann: await tokenOf(ann), eve: await tokenOf(eve) }
    t.same([await post(ann), await post(ann, tokens.eve), await post(ann, tokens.ann), await post(ann, tokens.ann)], [403, 403, 200, 200])
    await ann.send('POST', '/login', PASSWORD)
    t.equal(await post(ann, tokens.ann), 403, 'the login has given a new session')
    t.equal(await post(ann, await tokenOf(ann)), 200)
  })

  t.test(`${store}: a file that @fastify/multipart receives and a socket of @fastify/websocket, registered ${order} the session, are the user's of the session`, async t => {
    const { app } = await createPassportApp(t, order, { store })
    const ann = new Visitor(app)
    await ann.send('POST', '/login', PASSWORD)
    const form = new FormData()
    form.append('file', new File(['x'.repeat(100_000)], 'a.txt'))
    const encoded = new Response(form)
    const upload = await ann.send('POST', '/upload', { payload: Buffer.from(await encoded.arrayBuffer()), headers: { 'content-type': encoded.headers.get('content-type') ?? '' } })
    t.same(upload.json(), { user: { id: 'ann' }, length: 100_000 })
    t.same((await ann.send('GET', '/uploaded')).json(), { uploaded: 100_000 })

    const address = await app.listen({ port: 0, host: '127.0.0.1' })
    const socket = new WebSocket(address.replace('http', 'ws') + '/live', { headers: { cookie: ann.header } })
    await new Promise(resolve => socket.once('open', resolve))
    const received = new Promise(resolve => socket.once('message', data => resolve(JSON.parse(String(data)))))
    const closed = new Promise(resolve => socket.once('close', code => resolve(code)))
    socket.send('who am I?')
    t.same(await received, { user: { id: 'ann' } })
    t.same((await ann.send('GET', '/uploaded')).json(), { uploaded: 'over a socket' }, 'a change that the handler saves')
    await ann.send('POST', '/logout')
    t.equal(await closed, 4001, 'the logout closes it')
  })
}

const ROUTES = (app: FastifyInstance) => {
  app.post('/enter', async request => { await app.sessions.login(request, 'ann', { maxAge: '1 day' }) })
  app.post('/leave', async request => { await app.sessions.logout(request) })
  app.get('/decorators', async request => ({ login: request.login === undefined ? 'none' : request.login.name, logout: request.logout === undefined ? 'none' : request.logout.name }))
}

t.test('request.login and request.logout are decorated where they are free, and fastify.sessions has both in any case', async t => {
  const taken = (...names: string[]) => (app: FastifyInstance) => { for (const name of names) app.decorateRequest(name, async function own () {}) }
  const passport = createPassport()
  const cases: Array<[what: string, login: string, logout: string, options: TestAppOptions]> = [
    ['alone', 'login', 'logout', { routes: ROUTES }],
    ['decorators: false', 'none', 'none', { plugins: { session: { decorators: false } }, routes: ROUTES }],
    ['both are taken before', 'own', 'own', { before: taken('login', 'logout'), routes: ROUTES }],
    ['login is taken after', 'own', 'logout', { routes: app => { taken('login')(app); ROUTES(app) } }],
    ['passport in the same context', 'logIn', 'logOut', { routes: async app => { await app.register(passport.initialize()); ROUTES(app) } }],
    ['passport in a child, asked in the child', 'logIn', 'logOut', { routes: async app => { await app.register(async child => { await child.register(passport.initialize()); ROUTES(child) }) } }],
    ['passport in a child, asked beside it', 'login', 'logout', { routes: async app => { ROUTES(app); await app.register(async child => { await child.register(passport.initialize()) }) } }]
  ]
  for (const [what, login, logout, options] of cases) {
    const { app } = await createTestApp(t, { ...options, plugins: { session: {}, ...options.plugins } })
    t.same((await app.inject('/decorators')).json(), { login, logout }, what)
    const ann = new Visitor(app)
    t.match((await ann.send('POST', '/enter')).headers['set-cookie'], /Expires=/, what)
    t.equal(await app.sessions.count('ann'), 1, what)
    t.equal((await ann.send('POST', '/leave')).statusCode, 200)
    t.same([ann.cookies['sid'], await app.sessions.count('ann')], [undefined, 0], what)
  }
})

t.test('@fastify/passport before the session does not start, and names request.session', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => {
    await app.register(createPassport().initialize())
    await app.register(session, { secret: SECRET })
  }, { code: 'FST_ERR_PLUGIN_NOT_PRESENT_IN_INSTANCE', message: "The decorator 'session' required by '@fastify/flash' is not present in Request" })
})

/** Starts a provider that authorizes `ann`, by the code flow with PKCE. */
async function startProvider (t: Test): Promise<{ url: string }> {
  const provider = Fastify()
  t.teardown(() => provider.close())
  const codes = new Map<string, { user: string, challenge: string }>()
  provider.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, async (_: unknown, body: string) => Object.fromEntries(new URLSearchParams(body)))
  provider.get('/authorize', async (request, reply) => {
    const { redirect_uri: uri, state: opaque, code_challenge: challenge } = request.query as Record<string, string>
    const code = `code-${codes.size}`
    codes.set(code, { user: 'ann', challenge: challenge ?? '' })
    return reply.redirect(`${uri}?code=${code}&state=${opaque}`)
  })
  provider.post('/token', async (request, reply) => {
    const { code, code_verifier: verifier } = request.body as Record<string, string>
    const grant = codes.get(code ?? '')
    codes.delete(code ?? '')
    if (grant === undefined || createHash('sha256').update(verifier ?? '').digest('base64url') !== grant.challenge) return await reply.code(400).send({ error: 'invalid_grant' })
    return { access_token: `token of ${grant.user}`, token_type: 'bearer', expires_in: 3600 }
  })
  return { url: await provider.listen({ port: 0, host: '127.0.0.1' }) }
}

for (const order of ['before', 'after'] as const) {
  t.test(`@fastify/oauth2 registered ${order} session, cache and rate-limit logs users in at a provider, each with a state of their own`, async t => {
    const provider = await startProvider(t)
    const register = (app: FastifyInstance) => app.register(oauth2, {
      name: 'shop',
      credentials: { client: { id: 'shop', secret: 'a secret' }, auth: { authorizeHost: provider.url, authorizePath: '/authorize', tokenHost: provider.url, tokenPath: '/token' } },
      pkce: 'S256',
      startRedirectPath: '/login',
      callbackUri: 'http://shop.example/callback'
    })
    const { app } = await createTestApp(t, {
      ready: false,
      store: order === 'before' ? 'redis' : 'memory',
      plugins: { rateLimit: { max: 1000 }, session: {}, cache: { global: true, storeSetCookie: true } },
      before: order === 'before' ? register : () => {}
    })
    if (order === 'after') await register(app)
    app.get('/callback', async (request, reply) => {
      const { token } = await (Reflect.get(app, 'shop') as OAuth2Namespace).getAccessTokenFromAuthorizationCodeFlow(request, reply)
      await request.login(token.access_token.replace('token of ', ''), { keep: ['basket'] as never })
      return reply.redirect('/')
    })
    app.get('/', async request => ({ ...request.session, cookie: undefined }))
    app.post('/basket', async request => { Reflect.set(request.session, 'basket', ['tea']) })

    const start = async (visitor: Visitor) => String((await visitor.send('GET', '/login')).headers.location)
    const authorize = async (location: string) => {
      const response = await fetch(location, { redirect: 'manual' })
      return new URL(response.headers.get('location') ?? '')
    }
    const [ann, bob] = [new Visitor(app), new Visitor(app)]
    await ann.send('POST', '/basket')
    const planted = new Visitor(app)
    Object.assign(planted.cookies, ann.cookies)
    const locations = [await start(ann), await start(bob)]
    t.not(new URL(locations[0]!).searchParams.get('state'), new URL(locations[1]!).searchParams.get('state'), 'no redirect is cached')
    const callbacks = [await authorize(locations[0]!), await authorize(locations[1]!)]

    const swapped = await bob.send('GET', `/callback${callbacks[0]!.search}`)
    t.equal(swapped.statusCode, 500, 'the state of another browser is refused')
    t.same((await bob.send('GET', '/')).json(), {})

    const entered = await ann.send('GET', `/callback${callbacks[0]!.search}`)
    t.same([entered.statusCode, entered.headers.location], [302, '/'], entered.body)
    t.same(Object.keys(ann.cookies), ['sid'], 'state and verifier are used once')
    t.same((await ann.send('GET', '/')).json(), { userId: 'ann', basket: ['tea'] })
    t.same((await planted.send('GET', '/')).json(), {}, 'an id that was planted before the login opens nothing')
    t.equal(await app.sessions.count('ann'), 1)
    t.equal((await ann.send('GET', `/callback${callbacks[0]!.search}`)).statusCode, 500, 'the callback is neither cached nor replayed')
    t.same((await new Visitor(app).send('GET', '/')).json(), {})
  })
}

for (const order of ['before', 'after'] as const) {
  t.test(`users by a JWT in a cookie, read ${order} cache, rate-limit and idempotency are registered, have responses, limits and keys of their own`, async t => {
    const nameOf = (request: FastifyRequest) => (request.user as { sub: string } | null | undefined)?.sub
    const login = async (app: FastifyInstance) => {
      await app.register(fastifyCookie)
      await app.register(jwt, { secret: SECRET, cookie: { cookieName: 'token', signed: false } })
      app.addHook('onRequest', async request => { if (request.cookies['token'] !== undefined) await request.jwtVerify() })
    }
    const { app, clock } = await createTestApp(t, {
      ready: false,
      plugins: { rateLimit: { max: 100, hook: 'preHandler', keyGenerator: request => nameOf(request) ?? request.ip }, cache: { ttl: '1m', hook: 'preHandler' }, idempotency: {} },
      before: order === 'before' ? login : () => {}
    })
    if (order === 'after') await login(app)
    let runs = 0
    app.get('/shared', { config: { cache: true } }, async () => ({ run: ++runs }))
    app.get('/mine', { config: { cache: { private: nameOf } } }, async request => ({ run: ++runs, name: nameOf(request) }))
    app.get('/forgotten', { config: { cache: true } }, async request => nameOf(request))
    app.get('/limited', { config: { rateLimit: { max: 1, timeWindow: '1h' } } }, async () => 'x')
    app.post('/orders', { config: { idempotency: true } }, async request => ({ run: ++runs, name: nameOf(request) }))
    await app.ready()
    const [ann, bob, nobody] = [new Visitor(app), new Visitor(app), new Visitor(app)]
    for (const [visitor, name] of [[ann, 'ann'], [bob, 'bob']] as const) visitor.cookies['token'] = app.jwt.sign({ sub: name })
    const get = async (visitor: Visitor, url: string) => { const { body } = await visitor.send('GET', url); await clock.advance(1); return body }
    const twice = async (visitor: Visitor, url: string) => [await get(visitor, url), await get(visitor, url)]

    t.equal(new Set([...await twice(ann, '/mine'), ...await twice(bob, '/mine')]).size, 2, 'one response for each user')
    t.match(await get(ann, '/mine'), '"name":"ann"')
    t.match(await get(bob, '/mine'), '"name":"bob"')
    t.same([...await twice(ann, '/forgotten'), ...await twice(bob, '/forgotten')], ['ann', 'ann', 'bob', 'bob'], 'a route without an owner is not shared either')
    t.same(await twice(nobody, '/shared'), [await get(nobody, '/shared'), await get(nobody, '/shared')])
    const statuses = async (visitor: Visitor) => [(await visitor.send('GET', '/limited')).statusCode, (await visitor.send('GET', '/limited')).statusCode]
    t.same([await statuses(ann), await statuses(bob)], [[200, 429], [200, 429]])
    const buy = async (visitor: Visitor) => (await visitor.send('POST', '/orders', { headers: { 'idempotency-key': 'k' } })).body
    t.same(new Set([await buy(ann), await buy(ann)]).size, 1)
    t.not(await buy(ann), await buy(bob))
    t.match(await buy(nobody), 'SCOPE_REQUIRED')
    ann.cookies['token'] += 'x'
    t.equal((await ann.send('GET', '/mine')).statusCode, 401, 'a forged token is given nothing that is stored')
  })

  t.test(`@fastify/secure-session registered ${order} the cache: visitors share a page, users have their own, and our session works beside one of another name`, async t => {
    const register = (app: FastifyInstance) => app.register(secureSession, { sessionName: 'sealed' as 'session', key: Buffer.alloc(32, 1), cookieName: 'sealed', cookie: { path: '/' } })
    const { app, clock } = await createTestApp(t, {
      ready: false,
      plugins: { session: {}, cache: {} },
      before: order === 'before' ? register : () => {}
    })
    if (order === 'after') await register(app)
    interface Sealed { get (name: string): unknown, set (name: string, value: unknown): void, delete (): void }
    const sealedOf = (request: FastifyRequest) => Reflect.get(request, 'sealed') as Sealed
    let runs = 0
    app.post('/login/:name', async request => {
      sealedOf(request).set('user', (request.params as { name: string }).name)
      await request.login((request.params as { name: string }).name)
    })
    app.post('/logout', async request => { sealedOf(request).delete(); await request.logout() })
    app.get('/', { config: { cache: true } }, async request => ({ run: ++runs, user: sealedOf(request).get('user') ?? 'nobody' }))
    app.get('/both', async request => ({ sealed: sealedOf(request).get('user'), ours: Reflect.get(request.session, 'userId') }))
    const get = async (visitor: Visitor) => { const { body } = await visitor.send('GET', '/'); await clock.advance(1); return JSON.parse(body) as { run: number, user: string } }
    const [ann, bob, one, another] = [new Visitor(app), new Visitor(app), new Visitor(app), new Visitor(app)]
    await ann.send('POST', '/login/ann')
    await bob.send('POST', '/login/bob')
    await get(one)
    const page = await get(one)
    t.same([page, await get(another)], [{ run: page.run, user: 'nobody' }, page], 'visitors share it')
    for (const [visitor, user] of [[ann, 'ann'], [bob, 'bob'], [ann, 'ann']] as const) t.equal((await get(visitor)).user, user)
    t.same(await get(one), page)
    t.same((await ann.send('GET', '/both')).json(), { sealed: 'ann', ours: 'ann' })
    await ann.send('POST', '/logout')
    t.same(ann.cookies, {}, 'the client forgets both cookies')
    t.same([(await ann.send('GET', '/both')).json(), (await get(ann)).user], [{}, 'nobody'])
  })

  t.test(`@fastify/csrf-protection registered ${order} session, cache and idempotency: a page with a token is not shared, and no request without one is replayed`, async t => {
    const register = (app: FastifyInstance) => app.register(csrf, { sessionPlugin: '@fastify/session' })
    const { app, clock } = await createTestApp(t, {
      ready: false,
      plugins: { session: {}, cache: { global: true }, idempotency: {} },
      before: order === 'before' ? register : () => {}
    })
    if (order === 'after') await register(app)
    let runs = 0
    app.get('/form', async (_, reply) => ({ token: reply.generateCsrf() }))
    app.post('/orders', { onRequest: app.csrfProtection, config: { idempotency: true } }, async () => ({ run: ++runs }))
    const tokenOf = async (visitor: Visitor) => { const { token } = (await visitor.send('GET', '/form')).json(); await clock.advance(1); return token as string }
    const buy = async (visitor: Visitor, token?: string) => {
      const { statusCode, body } = await visitor.send('POST', '/orders', { headers: { 'idempotency-key': 'k', ...token !== undefined && { 'csrf-token': token } } })
      return statusCode === 200 ? body : statusCode
    }
    const [ann, eve] = [new Visitor(app), new Visitor(app)]
    const tokens = { ann: await tokenOf(ann), eve: await tokenOf(eve) }
    t.not(await tokenOf(ann), await tokenOf(eve))
    t.same([await buy(ann), await buy(ann, tokens.eve)], [403, 403])
    t.same([await buy(ann, tokens.ann), await buy(ann, tokens.ann)], ['{"run":1}', '{"run":1}'])
    t.same([await buy(ann), await buy(ann, 'x')], [403, 403], 'a stored response is replayed to no request that is refused')
    t.equal(await buy(eve, tokens.eve), '{"run":2}')
  })
}
