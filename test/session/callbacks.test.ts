import type { FastifyInstance, FastifyReply, FastifyRequest, Session } from 'fastify'
import t from 'tap'
import { advanceWhile, forEachStore, startRedis } from '../helpers/index.js'
import { anySession, Browser, createSessionApp } from '../helpers/session/session-app.js'

const UNAVAILABLE = { code: 'FST_REDIS_SUITE_SESSION_STORE_UNAVAILABLE' }

type Callback = (error?: unknown, session?: Session | null) => unknown

/** The store without the types, which demand a callback. */
interface LooseStore {
  get (id: string, callback?: Callback): Promise<Session | null>
  set (id: string, session: object, callback?: Callback): Promise<void>
  destroy (id: string, callback?: Callback): Promise<void>
}

const storeOf = (request: FastifyRequest) => request.sessionStore as unknown as LooseStore
const decrypt = (app: FastifyInstance) => app.decryptSession as unknown as (cookie: string, request: FastifyRequest, ...rest: unknown[]) => Promise<void>

/** Each call that takes a callback. */
const calls: Record<string, (request: FastifyRequest, ...rest: Callback[]) => unknown> = {
  'sessionStore.get': (request, ...rest) => storeOf(request).get(request.session.sessionId, ...rest),
  'sessionStore.set': (request, ...rest) => storeOf(request).set(request.session.sessionId, request.session, ...rest),
  'sessionStore.destroy': (request, ...rest) => storeOf(request).destroy(request.session.sessionId, ...rest),
  decryptSession: (request, ...rest) => decrypt(request.server)(request.session.encryptedSessionId, request, ...rest),
  'decryptSession with options': (request, ...rest) => decrypt(request.server)(request.session.encryptedSessionId, request, {}, ...rest),
  'session.save': (request, ...rest) => request.session.save(...rest as [() => void]),
  'session.reload': (request, ...rest) => request.session.reload(...rest as [() => void]),
  'session.regenerate': (request, ...rest) => request.session.regenerate(...rest as [() => void]),
  'session.regenerate with keys': (request, ...rest) => request.session.regenerate([], ...rest as [() => void]),
  'session.destroy': (request, ...rest) => request.session.destroy(...rest as [() => void])
}

/** Calls that only return promises. */
const promises: Record<string, (request: FastifyRequest) => Promise<unknown>> = {
  login: request => request.login('ann'),
  logout: request => request.logout(),
  'session = null': async request => { Reflect.set(request, 'session', null) },
  'sessions.destroy': request => request.server.sessions.destroy(request.server.sessions.handleOf(request.session.sessionId)),
  'sessions.destroyAll': request => request.server.sessions.destroyAll('ann')
}

function routes (app: FastifyInstance) {
  const callOf = (request: FastifyRequest) => calls[(request.params as { call: string }).call] ?? promises[(request.params as { call: string }).call]
  app.post('/awaited/:call', async request => {
    anySession(request)['a'] = 2
    return { result: await callOf(request)?.(request) ?? null }
  })
  app.post('/forgotten/:call', async request => {
    anySession(request)['a'] = 2
    callOf(request)?.(request)
    return 'sent'
  })
  app.post('/callback/:call', (request, reply) => {
    anySession(request)['a'] = 2
    callOf(request)?.(request, (error: unknown) => reply.send({ error: error ?? null }))
  })
  app.post('/throws/:call', (request, _reply) => { callOf(request)?.(request, () => { throw Object.assign(new Error('thrown'), { statusCode: 418 }) }) })
  app.post('/rejects/:call', (request, _reply) => { callOf(request)?.(request, async () => { throw Object.assign(new Error('rejected'), { statusCode: 418 }) }) })
  app.post('/sends/:call', (request, reply: FastifyReply) => {
    callOf(request)?.(request, () => {
      reply.send('sent')
      throw new Error('thrown later')
    })
  })
}

async function loggedIn (app: FastifyInstance): Promise<Browser> {
  const user = new Browser(app)
  await user.send('POST', '/login/ann')
  return user
}

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: what takes a callback returns a promise without one, and with one calls it`, async t => {
    const { app } = await createSessionApp(t, { store, routes })
    for (const call of Object.keys(calls)) {
      for (const way of ['awaited', 'forgotten', 'callback']) {
        const user = await loggedIn(app)
        const reply = await user.send('POST', `/${way}/${encodeURIComponent(call)}`)
        t.equal(reply.statusCode, 200, `${call}, ${way}: ${reply.body}`)
        if (way === 'callback') t.same(reply.json(), { error: null }, call)
        if (way === 'awaited') t.match(reply.json(), call === 'sessionStore.get' ? { result: { userId: 'ann' } } : { result: null }, call)
      }
    }
  })

  t.test(`${store}: the promises of sessionStore read, write and destroy a session`, async t => {
    const { app } = await createSessionApp(t, {
      store,
      routes: app => app.get('/own', async request => {
        const own = storeOf(request)
        await own.set('an id', { userId: 'bob', a: 1 })
        const before = await own.get('an id')
        await own.destroy('an id')
        return { before, after: await own.get('an id'), none: await own.get('none') }
      })
    })
    t.match((await app.inject('/own')).json(), { before: { userId: 'bob', a: 1 }, after: null, none: null })
  })

  t.test(`${store}: what a callback throws or rejects is logged and is the response, and one that has sent its own is left alone`, async t => {
    const { app, lines } = await createSessionApp(t, { store, routes })
    for (const call of Object.keys(calls)) {
      for (const [way, status, text] of [['throws', 418, 'thrown'], ['rejects', 418, 'rejected'], ['sends', 200, 'sent']] as const) {
        const user = await loggedIn(app)
        const reply = await user.send('POST', `/${way}/${encodeURIComponent(call)}`)
        t.equal(reply.statusCode, status, `${call} ${way}`)
        t.match(reply.body, text)
      }
    }
    t.equal(lines.filter(({ msg, level }) => msg === 'session: a callback failed' && level === 50).length, Object.keys(calls).length * 3)
  })
})

t.test('what fails without a callback rejects its promise, which ends no process where it is not awaited', async t => {
  const server = await startRedis()
  for (const call of [...Object.keys(calls), ...Object.keys(promises)]) {
    for (const way of ['awaited', 'forgotten']) {
      let hang = () => {}
      const { app, clock } = await createSessionApp(t, {
        store: { url: server.url, answers: false },
        session: { timeout: 1000 },
        routes: app => {
          app.addHook('preHandler', async () => { hang() })
          routes(app)
        }
      })
      const user = await loggedIn(app)
      hang = () => server.pause()
      const { value: reply } = await advanceWhile(clock, user.send('POST', `/${way}/${encodeURIComponent(call)}`), { step: 500 })
      t.match(reply.json(), UNAVAILABLE, `${call}, ${way}`)
      t.equal(reply.headers['set-cookie'], undefined, `${call}, ${way}: the client keeps its cookie`)
      server.resume()
    }
  }
})

t.test('an idGenerator or a signer that throws, or is async, is a coded 500 of that request', async t => {
  const signer = { sign: (value: string) => `${value}.x`, unsign: (value: string) => ({ valid: true, renew: false, value: value.slice(0, -2) }) }
  const value = 'FST_REDIS_SUITE_SESSION_INVALID_VALUE'
  const thrown = new Error('thrown')
  const bad: Array<[object, object]> = [
    [{ idGenerator: () => { throw thrown } }, { message: 'thrown' }],
    [{ idGenerator: async () => { throw thrown } }, { code: value, message: /"idGenerator" returned a promise/ }],
    [{ idGenerator: () => 5 }, { code: value, message: /"idGenerator" returned number/ }],
    [{ idGenerator: () => '' }, { code: value }],
    [{ secret: { ...signer, sign: () => { throw thrown } } }, { message: 'thrown' }],
    [{ secret: { ...signer, sign: async () => { throw thrown } } }, { code: value, message: /"secret.sign" returned a promise/ }],
    [{ secret: { ...signer, unsign: () => { throw thrown } } }, { message: 'thrown' }],
    [{ secret: { ...signer, unsign: async () => { throw thrown } } }, { code: value, message: /"secret.unsign" returned a promise/ }],
    [{ secret: { ...signer, unsign: () => ({ valid: true, renew: false, value: null }) } }, { code: value }]
  ]
  for (const [session, expected] of bad) {
    const { app } = await createSessionApp(t, { session })
    const reply = await app.inject({ url: '/', headers: { cookie: 'sid=none.x' } })
    t.match(reply.json(), { statusCode: 500, ...expected }, JSON.stringify(expected))
  }
})
