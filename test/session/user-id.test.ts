import t from 'tap'
import { createTestApp, forEachStore } from '../helpers/index.js'
import { Browser } from '../helpers/session/session-app.js'

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

    t.test(`${store}: null, an empty string, NaN and false ${of} are nobody`, async t => {
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
