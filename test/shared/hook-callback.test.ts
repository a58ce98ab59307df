import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { Readable } from 'node:stream'
import Fastify, { type FastifyContextConfig, type FastifyInstance, type FastifyReply, type FastifyRequest, type HTTPMethods, type RouteOptions } from 'fastify'
import t, { type Test } from 'tap'
import type {} from '../../plugins/index.js'
import { advanceWhile, createTestApp, forEachStore, SECRET, type StoreName, type TestApp, type TestAppOptions } from '../helpers/index.js'

type Handler = (request: FastifyRequest, reply: FastifyReply) => unknown

/** Responses that cannot be sent, by the path of their route. Fastify sends an error for each. */
const RESPONSES: Record<string, Handler> = {
  '/character': (_, reply) => { reply.header('x-name', '€').send('hello') },
  '/character-returned': (_, reply) => { reply.header('x-name', '€'); return 'hello' },
  '/character-async': async (_, reply) => { reply.header('x-name', '€'); return 'hello' },
  '/redirect': async (_, reply) => reply.redirect('/€'),
  '/line-break': (_, reply) => { reply.header('x-name', 'a\r\nset-cookie: a=b'); return 'hello' },
  '/name': (_, reply) => { reply.header('x name', 'a'); return 'hello' },
  '/name-async': async (_, reply) => { reply.header('', 'a'); return 'hello' },
  '/payload': (_, reply) => { reply.type('text/plain'); return 5 },
  '/payload-async': async (_, reply) => { reply.type('text/plain'); return { a: 1 } },
  '/stream': async (_, reply) => { reply.header('x-name', '€'); return Readable.from(['hello']) },
  '/no-file': async () => createReadStream('/no/such/file'),
  '/broken-stream': async () => {
    const stream = new Readable({ read () {} })
    setImmediate(() => stream.destroy(new Error('broken')))
    return stream
  },
  '/error': async () => { throw Object.assign(new Error('failed'), { headers: { 'x-name': '€' } }) },
  // eslint-disable-next-line no-throw-literal
  '/object': async () => { throw { statusCode: 418, message: 'failed', headers: { 'x name': 'a' } } }
}

interface Answer { status: number | undefined, body: string, cookies: string[] }

async function ask (app: FastifyInstance, method: string, path: string, headers: Record<string, string> = {}): Promise<Answer> {
  const { port } = app.server.address() as AddressInfo
  const sent = httpRequest({ port, host: '127.0.0.1', method, path, headers, agent: false }).end()
  const [response] = await once(sent, 'response') as [IncomingMessage]
  return { status: response.statusCode, body: await text(response), cookies: response.headers['set-cookie'] ?? [] }
}

/** The responses of Fastify without the suite. */
async function askFastify (): Promise<Record<string, Answer>> {
  const app = Fastify()
  for (const [url, handler] of Object.entries(RESPONSES)) app.get(url, handler)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const answers = await Promise.all(Object.keys(RESPONSES).map(async url => [url, await ask(app, 'GET', url)] as const))
  await app.close()
  return Object.fromEntries(answers)
}

let plainAnswers: Promise<Record<string, Answer>> | undefined

interface SetUp {
  plugins: NonNullable<TestAppOptions['plugins']>
  method?: HTTPMethods
  config?: FastifyContextConfig
  /** Further options of each route. */
  route?: (app: FastifyInstance) => Partial<RouteOptions>
  /** Runs in the handler before it responds. */
  prepare?: (request: FastifyRequest) => unknown
  /** The headers of each request. */
  headers?: (app: FastifyInstance) => Promise<Record<string, string>>
}

const SESSION = { cookie: { secure: false }, timeout: '1h' }
const CACHE = { timeout: '1h' }
const LIMIT = { max: 100, timeout: '1h' }

/** The cookie of a stored session. */
async function cookieOf (app: FastifyInstance): Promise<Record<string, string>> {
  const { cookies } = await ask(app, 'GET', '/start')
  return { cookie: cookies.map(cookie => cookie.split(';')[0]).join('; ') }
}

/** The cookie of a stored session, signed with the older of two secrets. */
async function oldCookieOf (app: FastifyInstance): Promise<Record<string, string>> {
  const { cookie = '' } = await cookieOf(app)
  const [name, value = ''] = cookie.split('=')
  const [id = ''] = decodeURIComponent(value).split('.')
  const { Signer } = await import('@fastify/cookie')
  return { cookie: `${name}=${encodeURIComponent(new Signer(SECRET.toUpperCase()).sign(id))}` }
}

const change = (request: FastifyRequest) => { Object.assign(request.session, { cart: [1] }) }

const SET_UPS: Record<string, SetUp> = {
  'session: a new session is saved': { plugins: { session: SESSION }, prepare: change },
  'session: a known session is read': { plugins: { session: SESSION }, headers: cookieOf },
  'session: a known session is read, and not renewed': { plugins: { session: { ...SESSION, rolling: false } }, headers: cookieOf },
  'session: a known session is changed': { plugins: { session: SESSION }, prepare: change, headers: cookieOf },
  'session: a cookie is signed again': { plugins: { session: { ...SESSION, secret: [SECRET, SECRET.toUpperCase()] } }, headers: oldCookieOf },
  'session: a session is destroyed': { plugins: { session: SESSION }, prepare: async request => await request.session.destroy(), headers: cookieOf },
  'session: a user logs in': { plugins: { session: SESSION }, prepare: async request => await request.login('ann') },
  'cache: tags are invalidated': { plugins: { cache: CACHE }, method: 'POST', config: { cache: { invalidates: ['a'] } } },
  'cache: the URL of a cached route is changed': { plugins: { cache: CACHE }, method: 'POST' },
  'cache: a response is made': { plugins: { cache: CACHE }, config: { cache: { ttl: '1m' } } },
  'cache: a response is made behind onRequest': { plugins: { cache: CACHE }, config: { cache: { ttl: '1m', hook: 'onRequest' } } },
  ...Object.fromEntries((['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const).flatMap((hook): Array<[string, SetUp]> => [
    [`rateLimit: a request is counted in ${hook}`, { plugins: { rateLimit: { ...LIMIT, hook } }, method: 'POST' }],
    [`rateLimit: a hook of fastify.rateLimit() in ${hook}`, { plugins: { rateLimit: { ...LIMIT, global: false } }, route: app => ({ [hook]: app.rateLimit() }) }],
    [`rateLimit: a request is counted early, and waited for in ${hook}`, { plugins: { rateLimit: { ...LIMIT, hook, early: true } } }]
  ])),
  'rateLimit: functions are async': { plugins: { rateLimit: { ...LIMIT, keyGenerator: async () => 'key', max: async () => 100, allowList: async () => false, cost: async () => 1 } } },
  'idempotency: a request has a key': { plugins: { idempotency: { scope: () => 'caller' } }, method: 'POST', config: { idempotency: true }, headers: async () => ({ 'idempotency-key': 'key' }) },
  'idempotency: a request has no key': { plugins: { idempotency: { scope: () => 'caller' } }, method: 'POST', config: { idempotency: true } },
  'metrics and health': { plugins: { metrics: {}, health: {} } },
  'all plugins at once': {
    plugins: { rateLimit: LIMIT, metrics: {}, session: SESSION, events: {}, lock: {}, cache: CACHE, idempotency: { scope: () => 'caller' }, health: {} },
    method: 'POST',
    config: { cache: { invalidates: ['a'] }, idempotency: true },
    prepare: change,
    headers: async app => ({ ...await cookieOf(app), 'idempotency-key': 'key' })
  }
}

/** A route for each response that cannot be sent, and two that can. */
function addRoutes (app: FastifyInstance, { method = 'GET', config = {}, route, prepare }: SetUp): void {
  for (const [url, handler] of Object.entries(RESPONSES)) {
    const isAsync = handler.constructor.name === 'AsyncFunction'
    app.route({
      method,
      url,
      config,
      // A sync handler stays sync if possible, as Fastify treats sync and async handlers differently.
      handler: isAsync
        ? async (request, reply) => { await prepare?.(request); return await handler(request, reply) }
        : (request, reply) => { const prepared: unknown = prepare?.(request); return prepared instanceof Promise ? prepared.then(() => handler(request, reply)) : handler(request, reply) },
      ...route?.(app)
    })
    if (method === 'POST' && app.hasDecorator('cache')) app.get(url, { config: { cache: { ttl: '1m' } } }, async () => 'hello')
  }
  app.get('/start', async request => { if (app.hasDecorator('sessions')) change(request); return 'started' })
  app.get('/good', async () => 'good')
}

forEachStore(['memory', 'redis'], store => {
  for (const [name, setUp] of Object.entries(SET_UPS)) {
    t.test(`${store}: ${name}: a response that cannot be sent becomes the same error as without the suite, is logged, and the process goes on`, async t => {
      const plain = await (plainAnswers ??= askFastify())
      const { app, clock, lines } = await build(t, store, setUp)
      for (const url of Object.keys(RESPONSES)) {
        const headers = await setUp.headers?.(app) ?? {}
        if ('idempotency-key' in headers) headers['idempotency-key'] += url
        lines.length = 0
        for (const time of ['first', 'second']) {
          // A lease that the last request is about to release is asked for again, by the clock.
          const { value: { status, body } } = await advanceWhile(clock, ask(app, setUp.method ?? 'GET', url, headers))
          t.equal(status, plain[url]?.status, `${url}, ${time} time`)
          // After a sync onSend hook Fastify has an error of its own for a thrown value that is not an error.
          if (url !== '/object') t.equal(body, plain[url]?.body, url)
        }
        t.ok(lines.some(line => 'err' in line), `${url} is logged`)
        t.match(await ask(app, 'GET', '/good'), { status: 200, body: 'good' }, `after ${url}`)
      }
    })
  }
})

async function build (t: Test, store: StoreName, setUp: SetUp): Promise<Pick<TestApp, 'app' | 'clock' | 'lines'>> {
  const test = await createTestApp(t, { store, plugins: setUp.plugins, routes: app => addRoutes(app, setUp) })
  await test.app.listen({ port: 0, host: '127.0.0.1' })
  return test
}

const REFUSALS: Record<string, () => unknown> = {
  'an object with a header that cannot be sent': () => ({ statusCode: 429, message: 'refused', headers: { 'x-name': '€' } }),
  'an error with a header that cannot be sent': () => Object.assign(new Error('refused'), { statusCode: 429, headers: { 'x name': 'a' } }),
  'an error that is thrown': () => { throw Object.assign(new Error('refused'), { statusCode: 429, headers: { 'x-name': 'a\r\nb' } }) }
}

forEachStore(['memory', 'redis'], store => {
  for (const hook of ['onRequest', 'preParsing', 'preValidation', 'preHandler'] as const) {
    t.test(`${store}: a refusal in ${hook} whose errorResponseBuilder made it unsendable ends the response, and the process goes on`, async t => {
      for (const [what, make] of Object.entries(REFUSALS)) {
        for (const builder of [() => make() as object, async () => make() as object]) {
          const { app } = await build(t, store, { plugins: { rateLimit: { ...LIMIT, max: 1, hook, errorResponseBuilder: builder } } })
          t.equal((await ask(app, 'GET', '/good')).status, 200)
          const { status, body } = await ask(app, 'GET', '/good')
          t.match([status, JSON.parse(body)], [429, { statusCode: 429 }], what)
          t.equal((await ask(app, 'GET', '/none')).status, 404)
        }
      }
    })
  }

  t.test(`${store}: a key generator that rejects without a reason lets no request pass`, async t => {
    for (const reason of [undefined, '', 0]) {
      const { app } = await build(t, store, { plugins: { rateLimit: { ...LIMIT, keyGenerator: async () => await Promise.reject(reason) } } })
      t.equal((await ask(app, 'GET', '/good')).status, 500, JSON.stringify(reason))
    }
  })

  t.test(`${store}: if Fastify cannot send the error either, the response is a plain 500 that is logged, or the connection ends`, async t => {
    const { app, warnings } = await createTestApp(t, {
      store,
      plugins: { session: SESSION },
      routes: app => {
        // Each of them ends the process of an app without the suite.
        app.get('/message', async (request, reply) => { change(request); reply.raw.statusMessage = 'a\r\nb'; reply.raw.setHeader('x-name', 'a'); return 'hello' })
        app.get('/begun', async (request, reply) => { change(request); reply.raw.writeHead(200).write('begun'); return 'hello' })
        app.get('/good', async () => 'good')
      }
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    t.match(await ask(app, 'GET', '/message'), { status: 500, body: '{"statusCode":500,"error":"Internal Server Error","message":"Internal Server Error"}' })
    t.match(warnings().filter(line => line.startsWith('session')), ['session: neither a response nor its error could be sent'])
    await t.rejects(ask(app, 'GET', '/begun'), 'the connection ends')
    t.match(await ask(app, 'GET', '/good'), { status: 200, body: 'good' })
  })
})

t.test('a stream is destroyed if the hook that holds it fails', async t => {
  let stream: Readable | undefined
  const { app } = await createTestApp(t, {
    plugins: { session: { ...SESSION, userId: async () => { throw new Error('failed') } } },
    routes: app => app.get('/', async request => {
      change(request)
      stream = Readable.from(['hello'])
      return stream
    })
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  t.equal((await ask(app, 'GET', '/')).status, 500)
  t.equal(stream?.destroyed, true)
})
