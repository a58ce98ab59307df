import { Agent, request as httpRequest } from 'node:http'
import cookie from '@fastify/cookie'
import jwt from '@fastify/jwt'
import secureSession from '@fastify/secure-session'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { idempotency, type IdempotencyPluginOptions } from '../../plugins/idempotency/index.js'
import { byAddress, ON, PATIENT, post } from '../helpers/idempotency/requests.js'
import { createTestApp, forEachStore, SECRET, type StoreName, type TestAppOptions } from '../helpers/index.js'
import { addLateAuth, requireKey, WAYS } from '../helpers/shared/late-auth.js'

const SCOPE_REQUIRED = { statusCode: 400, code: 'FST_REDIS_SUITE_IDEMPOTENCY_SCOPE_REQUIRED', message: /option "scope"/ }
const INVALID_VALUE = { statusCode: 500, code: 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE', message: /route POST \/orders: the function "scope" returned/ }

/** An app whose orders return their number. */
async function openShop (t: Test, store: StoreName, options: IdempotencyPluginOptions = {}, more: TestAppOptions = {}) {
  const orders = { placed: 0 }
  const { app, warnings } = await createTestApp(t, {
    store,
    ...more,
    plugins: { ...more.plugins, idempotency: { ...PATIENT, scope: undefined, ...options } },
    async routes (app, instance) {
      await more.routes?.(app, instance)
      app.post('/orders', ON, async request => ({ order: ++orders.placed, secret: request.headers['x-api-key'] }))
    }
  })
  return { app, warnings, orders, order: async (headers: Record<string, string> = {}) => await post(app, '/orders', 'same', { a: 1 }, headers) }
}

/** Places an order twice with one key for each caller. @returns the order's number, or the error's code, for each */
async function orderTwice (app: FastifyInstance, callers: Array<Record<string, string>>): Promise<Array<[unknown, unknown]>> {
  const seen: Array<[unknown, unknown]> = []
  for (const headers of callers) {
    const ask = async () => { const body = (await post(app, '/orders', 'same', { a: 1 }, headers)).json(); return body.order ?? body.code }
    seen.push([await ask(), await ask()])
  }
  return seen
}

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: two customers that differ by x-api-key alone never get each other's response: without a scope both are refused, and the error says what to do`, async t => {
    const { app, warnings, orders } = await openShop(t, store)
    // Both connect through one proxy and have its address.
    const address = new URL(await app.listen({ port: 0, host: '127.0.0.1' }))
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    t.teardown(() => agent.destroy())
    const order = async (apiKey: string) => await new Promise<{ statusCode: number | undefined, body: string }>((resolve, reject) => {
      const sent = httpRequest({
        agent, host: address.hostname, port: address.port, method: 'POST', path: '/orders', headers: { 'x-api-key': apiKey, 'x-forwarded-for': apiKey === 'ann' ? '192.0.2.1' : '192.0.2.2', 'idempotency-key': 'same' }
      }, response => {
        let body = ''
        response.setEncoding('utf8').on('data', (part: string) => { body += part }).on('end', () => resolve({ statusCode: response.statusCode, body }))
      })
      sent.on('error', reject).end()
    })
    for (const apiKey of ['ann', 'bob', 'ann']) {
      const { statusCode, body } = await order(apiKey)
      t.match({ statusCode, ...JSON.parse(body) }, SCOPE_REQUIRED)
    }
    t.equal(orders.placed, 0)
    t.same(warnings().filter(line => /idempotency: .*"scope"/.test(line)).length, 1, 'logged once')
  })

  t.test(`${store}: a scope may be async, and identifies callers that differ by it alone`, async t => {
    for (const scope of [(request: FastifyRequest) => request.headers['x-api-key'], async (request: FastifyRequest) => await Promise.resolve(`tenant ${String(request.headers['x-api-key'])}`)]) {
      const { app } = await openShop(t, store, { scope })
      t.same(await orderTwice(app, [{ 'x-api-key': 'ann' }, { 'x-api-key': 'bob' }]), [[1, 1], [2, 2]])
    }
  })

  t.test(`${store}: with trustProxy, scope: request => request.ip identifies anonymous clients behind a proxy`, async t => {
    const { app } = await openShop(t, store, { scope: request => request.ip }, { server: { trustProxy: '127.0.0.1' } })
    t.same(await orderTwice(app, [{ 'x-forwarded-for': '192.0.2.1' }, { 'x-forwarded-for': '192.0.2.2' }, { 'x-forwarded-for': '10.9.9.9, 192.0.2.1' }]), [[1, 1], [2, 2], [1, 1]])
  })

  t.test(`${store}: a scope that is not a string, is empty, or fails, is an error, and nothing runs or is stored`, async t => {
    const wrong: unknown[] = [undefined, null, '', 5, NaN, false, ['ann', 'bob'], { id: 'ann' }, Symbol('ann')]
    for (const value of wrong) {
      for (const scope of [() => value, async () => value]) {
        const { orders, order } = await openShop(t, store, { scope: scope as never })
        t.match((await order()).json(), INVALID_VALUE, String(value))
        t.match((await order()).json(), INVALID_VALUE)
        t.equal(orders.placed, 0)
      }
    }
    for (const scope of [() => { throw new Error('no tenant') }, async () => { throw new Error('no tenant') }]) {
      const { orders, order } = await openShop(t, store, { scope })
      t.match((await order()).json(), { statusCode: 500, message: 'no tenant' })
      t.equal(orders.placed, 0)
    }
  })

  t.test(`${store}: a fingerprint may be async, and is a string`, async t => {
    const { order } = await openShop(t, store, { scope: () => 'one', fingerprint: async request => String(request.headers['x-part']) })
    t.same([(await order({ 'x-part': 'a' })).statusCode, (await order({ 'x-part': 'a' })).statusCode, (await order({ 'x-part': 'b' })).statusCode], [200, 200, 422])
    const wrong = await openShop(t, store, { scope: () => 'one', fingerprint: (async () => undefined) as never })
    t.match((await wrong.order()).json(), { statusCode: 500, code: INVALID_VALUE.code, message: /route POST \/orders: the function "fingerprint" returned undefined; allowed: a string/ })
  })

  t.test(`${store}: users of @fastify/jwt are identified by the token in Authorization, or by the subject or id of a token in a cookie`, async t => {
    const { app, order } = await openShop(t, store, {}, {
      before: async app => {
        await app.register(cookie)
        await app.register(jwt, { secret: SECRET, cookie: { cookieName: 'token', signed: false } })
        app.addHook('preHandler', async request => { await request.jwtVerify() })
      }
    })
    const sign = (payload: object, more: object = {}) => app.jwt.sign({ role: 'customer', ...payload }, more)
    const inCookie = (payload: object, more?: object) => ({ cookie: `token=${sign(payload, more)}` })
    t.same(await orderTwice(app, [{ authorization: `Bearer ${sign({ n: 1 })}` }, { authorization: `Bearer ${sign({ n: 2 })}` }]), [[1, 1], [2, 2]])
    t.same(await orderTwice(app, [inCookie({ sub: 'ann' }), inCookie({ sub: 'bob' }), inCookie({ id: 1 }), inCookie({ id: 2 }), inCookie({ userId: 'ann' })]), [[3, 3], [4, 4], [5, 5], [6, 6], [7, 7]])
    t.equal((await order(inCookie({ sub: 'ann', role: 'admin' }, { expiresIn: '1h' }))).json().order, 3, 'a renewed token is of the same user')
    t.equal((await order(inCookie({ sub: 'ann', iss: 'another' }))).json().order, 8, 'a subject of another issuer is another user')
    for (const payload of [{ n: 1 }, { sub: '' }, { id: null }, { id: { $oid: '1' } }, { iss: 'alone' }]) t.match((await order(inCookie(payload))).json(), SCOPE_REQUIRED, 'claims that several users may share')
    t.equal((await order()).statusCode, 401, 'a hook refuses before the scope is asked for')
  })

  t.test(`${store}: users that a hook sets as request.user are identified by their ids`, async t => {
    const users: Record<string, unknown> = { ann: { id: 'ann' }, bob: { id: 'bob' }, text: 'ann', number: 7, big: 7n, empty: {}, blank: '', none: null, nan: NaN, flag: true, list: [], rounded: 2 ** 60, idRounded: { id: 2 ** 60 }, issuerRounded: { sub: 'ann', iss: 2 ** 53 } }
    const { app, order } = await openShop(t, store, {}, {
      before: app => {
        app.decorateRequest<unknown>('user', null)
        app.addHook('preHandler', async request => { Reflect.set(request, 'user', users[String(request.headers['x-user'])]) })
      }
    })
    const callers = (names: string[]) => names.map(name => ({ 'x-user': name }))
    t.same(await orderTwice(app, callers(['ann', 'bob', 'text', 'number'])), [[1, 1], [2, 2], [3, 3], [4, 4]])
    t.same(await orderTwice(app, callers(['empty', 'blank', 'none', 'nan', 'flag', 'list'])), Array(6).fill([SCOPE_REQUIRED.code, SCOPE_REQUIRED.code]))
    t.same(await orderTwice(app, callers(['rounded', 'idRounded', 'issuerRounded'])), Array(3).fill([INVALID_VALUE.code, INVALID_VALUE.code]), 'several ids have been rounded to one')
    for (const [name, where] of [['rounded', 'user'], ['idRounded', 'user.id'], ['issuerRounded', 'user.iss']]) {
      t.match((await order({ 'x-user': name ?? '', authorization: 'Basic c3RhZ2luZzpzdGFnaW5n' })).json().message, `route POST /orders: request.${where} is a whole number above 2^53`)
    }
  })

  t.test(`${store}: callers that send the same Authorization are identified by request.user, or by the session that they sent`, async t => {
    const SHARED = { authorization: 'Basic c3RhZ2luZzpzdGFnaW5n' }
    const { app } = await openShop(t, store, {}, {
      plugins: { session: {} },
      before: app => {
        app.decorateRequest<unknown>('user', null)
        app.addHook('preHandler', async request => { Reflect.set(request, 'user', request.headers['x-user']) })
      },
      routes: app => app.post('/visit', async request => { Object.assign(request.session, { cart: 1 }) })
    })
    const visit = async () => ({ cookie: `sid=${encodeURIComponent((await post(app, '/visit')).cookies[0]?.value ?? '')}` })
    const callers: Array<Record<string, string>> = [{ 'x-user': 'ann' }, { 'x-user': 'bob' }, await visit(), await visit(), {}]
    t.same(await orderTwice(app, callers.map(headers => ({ ...SHARED, ...headers }))), [[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]])
  })

  t.test(`${store}: a session identifies its user, and a visitor that sent one; a new visitor is refused`, async t => {
    const { app, orders, order } = await openShop(t, store, {}, {
      plugins: { session: {} },
      routes: app => {
        app.post<{ Params: { user: string } }>('/login/:user', async request => { await request.login(request.params.user) })
        app.post('/visit', async request => { Object.assign(request.session, { cart: 1 }) })
      }
    })
    const cookieOf = async (url: string) => ({ cookie: `sid=${encodeURIComponent((await post(app, url)).cookies[0]?.value ?? '')}` })
    t.same(await orderTwice(app, [await cookieOf('/login/ann'), await cookieOf('/login/bob'), await cookieOf('/visit'), await cookieOf('/visit')]), [[1, 1], [2, 2], [3, 3], [4, 4]])
    t.equal((await order(await cookieOf('/login/ann'))).json().order, 1, 'a user is the same one from another device')
    for (const headers of [{}, { cookie: 'sid=unknown' }, { cookie: 'other=1' }]) t.match((await order(headers as Record<string, string>)).json(), SCOPE_REQUIRED)
    t.equal(orders.placed, 4)
    t.equal((await post(app, '/orders', undefined, { a: 1 })).statusCode, 200, 'without a key nothing is asked')
  })

  t.test(`${store}: an Authorization without credentials identifies no caller`, async t => {
    const { app } = await openShop(t, store)
    const empty = ['', ' ', 'Bearer', 'Bearer ', 'bearer undefined', 'Bearer null', 'Bearer [object Object]', 'Basic Og==', 'undefined', 'Token none']
    t.same(await orderTwice(app, empty.map(authorization => ({ authorization }))), empty.map(() => [SCOPE_REQUIRED.code, SCOPE_REQUIRED.code]))
    t.same(await orderTwice(app, [{ authorization: 'raw-key-1' }, { authorization: 'raw-key-2' }, { authorization: 'Bearer nullable' }]), [[1, 1], [2, 2], [3, 3]])
  })
})

t.test('a session of @fastify/secure-session identifies its userId; under another sessionName its callers are refused', async t => {
  for (const sessionName of ['session', 'auth']) {
    const { app, order } = await openShop(t, 'memory', {}, {
      before: async app => { await app.register(secureSession as never, { key: Buffer.alloc(32, 1), sessionName, cookieName: 'sealed' }) },
      routes: app => {
        app.post<{ Params: { user: string } }>('/login/:user', async request => {
          const session = Reflect.get(request, sessionName) as { set: (name: string, value: unknown) => void }
          session.set('userId', request.params.user)
          return ''
        })
      }
    })
    const cookieOf = async (user: string) => ({ cookie: `sealed=${encodeURIComponent((await post(app, `/login/${user}`)).cookies[0]?.value ?? '')}` })
    const seen = await orderTwice(app, [await cookieOf('ann'), await cookieOf('bob')])
    if (sessionName === 'session') t.same(seen, [[1, 1], [2, 2]])
    else t.same(seen, Array(2).fill([SCOPE_REQUIRED.code, SCOPE_REQUIRED.code]), 'the plugin does not look for other names')
    t.match((await order()).json(), SCOPE_REQUIRED)
  }
})

const noop = async () => {}

/** Sends the same request without the key, with it, with it again and without it again. */
async function statuses (app: FastifyInstance, url: string): Promise<Array<number | string>> {
  const ask = async (headers: Record<string, string> = {}) => await post(app, url, `key-of-${url}`, {}, headers)
  const before = await ask()
  const first = await ask({ 'x-key': 'k' })
  const again = await ask({ 'x-key': 'k' })
  return [before.statusCode, first.statusCode, String(again.headers['idempotency-replayed']), (await ask()).statusCode]
}

const REFUSED = [401, 200, 'true', 401]

for (const way of Object.keys(WAYS)) {
  t.test(`no response is replayed before the preHandler hook of a plugin that ${way} in a later onRoute hook`, async t => {
    const { app } = await createTestApp(t, { ready: false, plugins: { idempotency: { scope: byAddress } } })
    addLateAuth(app, way, 'preHandler')
    app.post('/none', ON, async () => 'done')
    app.post('/function', { ...ON, preHandler: noop }, async () => 'done')
    app.post('/array', { ...ON, preHandler: [noop, noop] }, async () => 'done')
    for (const url of ['/none', '/function', '/array']) t.same(await statuses(app, url), REFUSED, url)
  })
}

t.test('no response is replayed before a hook of the context that is added after the route', async t => {
  const { app } = await createTestApp(t, { ready: false, plugins: { idempotency: { scope: byAddress } } })
  await app.register(async child => {
    child.post('/', ON, async () => 'done')
    child.addHook('preHandler', requireKey)
  }, { prefix: '/child' })
  for (const url of ['/child', '/child/']) t.same(await statuses(app, url), REFUSED, url)
})

t.test('beside the cache on one route neither a cached nor a replayed response is sent before a later hook', async t => {
  const { app } = await createTestApp(t, { ready: false, plugins: { cache: { unkeyed: false }, idempotency: { scope: byAddress } } })
  addLateAuth(app, 'assigns a longer array', 'preHandler')
  let runs = 0
  app.route({ method: ['GET', 'POST'], url: '/', config: { cache: true, idempotency: true }, handler: async () => `run ${++runs}` })
  t.same(await statuses(app, '/'), REFUSED)
  t.equal(runs, 1)
  const get = async (headers: Record<string, string> = {}) => await app.inject({ url: '/', headers })
  await get({ 'x-key': 'k' })
  t.match(await get({ 'x-key': 'k' }), { statusCode: 200, headers: { 'x-cache': 'HIT' } })
  t.equal((await get()).statusCode, 401)
})

t.test('a response is stored and replayed although a later onRoute hook assigns onSend and onError', async t => {
  const { app } = await createTestApp(t, { ready: false, plugins: { idempotency: { scope: byAddress } } })
  app.addHook('onRoute', route => {
    route.onSend = async (_request, reply, payload) => {
      reply.header('x-late', 'yes')
      return payload
    }
    route.onError = async () => {}
  })
  let runs = 0
  app.post('/', ON, async () => ++runs)
  app.post('/fails', ON, async () => { throw Object.assign(new Error('not now'), { statusCode: 500 + ++runs }) })
  await post(app, '/', 'k')
  t.match(await post(app, '/', 'k'), { body: '1', headers: { 'idempotency-replayed': 'true', 'x-late': 'yes' } })
  t.same([(await post(app, '/fails', 'f')).statusCode, (await post(app, '/fails', 'f')).statusCode], [502, 503])
})

t.test('an app does not start if another plugin redefines the hooks of a route: the error names the route', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(idempotency)
  app.addHook('onRoute', route => { Object.defineProperty(route, 'preHandler', { value: requireKey }) })
  app.post('/orders', ON, async () => 'done')
  await t.rejects(async () => await app.ready(), { code: 'FST_REDIS_SUITE_IDEMPOTENCY_HOOK_REPLACED', message: /POST \/orders/ })
})
