// The connection to Redis breaks at each command of a request, before Redis receives it or in place of the reply, and is restored at once.
import type { FastifyInstance, LightMyRequestResponse } from 'fastify'
import t from 'tap'
import { advanceWhile, createTestApp, sharedRedis, startProxy, type TestApp } from '../helpers/index.js'
import { anySession, Browser } from '../helpers/session/session-app.js'

const PATIENT = { timeout: '1h' } as const

interface Source { version: number, orders: number }

function addRoutes (app: FastifyInstance, source: Source): void {
  app.get('/', async request => ({ ...request.session, cookie: undefined }))
  app.post('/change', async request => { anySession(request)['b'] = 2 })
  app.post('/login/:user', async request => { await request.login((request.params as { user: string }).user, { keep: ['b'] }) })
  app.post('/logout', async request => { await request.logout() })
  app.get('/mine', { config: { cache: { private: request => anySession(request)['userId'] as string } } }, async request => anySession(request)['userId'])
  app.get('/page', { config: { session: false, cache: { tags: ['page'] } } }, async () => source.version)
  app.put('/change-page', { config: { session: false, cache: { invalidates: ['page'] } } }, async () => { source.version++ })
  app.post('/order', { config: { session: false, idempotency: true } }, async () => `order ${++source.orders}`)
  app.post('/lock', { config: { session: false } }, async () => await app.locks.using('r', () => 'done'))
  app.get('/limited', { config: { session: false, rateLimit: { max: 2, timeWindow: '1h' } } }, async () => 'within')
}

interface World extends TestApp {
  source: Source
  /** Logged in as ann. */
  ann: Browser
  /** A client whose connections do not break. */
  other: FastifyInstance
  send: (method: 'GET' | 'POST' | 'PUT', url: string, app?: FastifyInstance) => Promise<LightMyRequestResponse>
}

interface Action {
  before?: (world: World) => Promise<unknown>
  act: (world: World) => Promise<LightMyRequestResponse>
  /** Returns what is wrong afterwards, on both instances. */
  after: (world: World, isDone: boolean, response: LightMyRequestResponse) => Promise<unknown>
  expected: (isDone: boolean) => readonly unknown[]
}

const states = async ({ ann, other }: World): Promise<unknown[]> => [await ann.state(), await ann.state(other)]
const ANN = { userId: 'ann' }
const either = (...all: unknown[]) => all.map(each => [each, each])
const KEY = { 'idempotency-key': 'k' }

const actions: Record<string, Action> = {
  'a session is read': { act: ({ ann }) => ann.send('GET', '/'), after: states, expected: () => either(ANN) },
  'a session is changed': {
    act: ({ ann }) => ann.send('POST', '/change'),
    after: states,
    expected: isDone => either({ ...ANN, b: 2 }, ...isDone ? [] : [ANN])
  },
  'another user logs in': {
    act: ({ ann }) => ann.send('POST', '/login/bob'),
    after: states,
    expected: isDone => either({ userId: 'bob' }, ...isDone ? [] : [ANN, {}])
  },
  'a user logs out': {
    act: async ({ ann }) => {
      const { cookie } = ann
      const response = await ann.send('POST', '/logout')
      ann.cookie = cookie
      return response
    },
    after: states,
    expected: isDone => either({}, ...isDone ? [] : [ANN])
  },
  "an owner's response is asked for": {
    before: async ({ app }) => {
      const bob = new Browser(app)
      await bob.send('POST', '/login/bob')
      await bob.send('GET', '/mine')
    },
    act: ({ ann }) => ann.send('GET', '/mine'),
    after: async ({ ann, other }, isDone, response) => [isDone ? response.body : 'ann', (await ann.send('GET', '/mine', undefined, other)).body],
    expected: () => [['ann', 'ann']]
  },
  'a response is made and stored': {
    act: ({ send }) => send('GET', '/page'),
    after: async ({ send, other }, _isDone, { body }) => [body, (await send('GET', '/page')).body, (await send('GET', '/page', other)).body],
    expected: () => [['1', '1', '1']]
  },
  'what is stored is invalidated': {
    before: async ({ send, other }) => { for (const app of [undefined, other]) await send('GET', '/page', app) },
    act: ({ send }) => send('PUT', '/change-page'),
    after: async ({ send, other }) => [(await send('GET', '/page')).body, (await send('GET', '/page', other)).body],
    expected: () => [['2', '2']]
  },
  'a request with a key runs': {
    act: async ({ app }) => await app.inject({ method: 'POST', url: '/order', headers: KEY }),
    after: async ({ app, other, source }) => {
      const bodies = []
      for (const each of [app, other]) bodies.push((await each.inject({ method: 'POST', url: '/order', headers: KEY })).body)
      return [...bodies, source.orders]
    },
    expected: () => [['order 1', 'order 1', 1]]
  },
  'a section runs under a lock': {
    act: ({ send }) => send('POST', '/lock'),
    after: async ({ send, other }, isDone, { body }) => [isDone ? body : 'done', (await send('POST', '/lock', other)).body],
    expected: () => [['done', 'done']]
  },
  'a limited request is counted': {
    act: ({ send }) => send('GET', '/limited'),
    after: async ({ send, other }) => [(await send('GET', '/limited', other)).statusCode, (await send('GET', '/limited', other)).statusCode],
    // The client repeats commands without a reply, so it may count twice.
    expected: () => [[200, 429], [429, 429], [200, 200]]
  }
}

for (const [what, { before, act, after, expected }] of Object.entries(actions)) {
  t.test(`wherever the connection breaks while ${what}, the response is right or 503, and so is what follows`, async t => {
    const { port, url } = await sharedRedis()
    const proxy = await startProxy(port)
    let broke = 0
    for (const lost of ['request', 'reply'] as const) {
      for (let at = 1, isReached = true; isReached; at++) {
        const source: Source = { version: 1, orders: 0 }
        const options = {
          plugins: { rateLimit: { ...PATIENT, global: false }, session: { ...PATIENT, cookie: { secure: false } }, cache: { ...PATIENT, l1: false as const }, idempotency: { ...PATIENT, scope: () => 'all' }, lock: { ...PATIENT, wait: '1h' } },
          routes: (app: FastifyInstance) => { addRoutes(app, source) }
        }
        const test = await createTestApp(t, { ...options, store: { url: `redis://127.0.0.1:${proxy.port}` } })
        const { app: other } = await createTestApp(t, { ...options, store: { url }, prefix: test.prefix, clock: test.clock })
        const ann = new Browser(test.app)
        const send: World['send'] = async (method, url, app = test.app) => await app.inject({ method, url })
        const world = { ...test, source, other, ann, send }
        await ann.send('POST', '/login/ann')
        await before?.(world)
        const counted = proxy.breakAt(at, lost)
        const { value: response } = await advanceWhile(test.clock, act(world))
        isReached = counted() >= at
        if (isReached) broke++
        const name = `${lost} ${at}`
        t.ok([200, 503].includes(response.statusCode), `${name}: ${response.statusCode} ${response.body}`)
        if (response.statusCode === 503) t.equal(response.headers['retry-after'], '1', name)
        proxy.breakAt(Infinity)
        const isDone = response.statusCode === 200
        // A write that failed is pending, and written in the background.
        await test.clock.advance(200)
        const { value: found } = await advanceWhile(test.clock, after(world, isDone, response))
        t.ok(expected(isDone).some(each => JSON.stringify(each) === JSON.stringify(found)), `${name}: ${response.statusCode}, then ${JSON.stringify(found)}`)
      }
    }
    t.ok(broke >= 2, `${broke} times`)
  })
}
