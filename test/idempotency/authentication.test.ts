import Fastify, { type FastifyInstance } from 'fastify'
import t from 'tap'
import { idempotency } from '../../plugins/idempotency/index.js'
import { createTestApp } from '../helpers/index.js'
import { byAddress, ON, post } from '../helpers/idempotency/requests.js'
import { addLateAuth, requireKey, WAYS } from '../helpers/shared/late-auth.js'

const noop = async () => {}

/** Asks without the key, with it, with it again and without it again, always for the same. */
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

t.test('beside the cache on one route neither a stored nor a replayed response is given before a later hook', async t => {
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

t.test('a response is stored and replayed where a later onRoute hook assigns onSend and onError', async t => {
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

t.test('an app does not start where another plugin redefines the hooks of a route: the error names the route', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(idempotency)
  app.addHook('onRoute', route => { Object.defineProperty(route, 'preHandler', { value: requireKey }) })
  app.post('/orders', ON, async () => 'done')
  await t.rejects(async () => await app.ready(), { code: 'FST_REDIS_SUITE_IDEMPOTENCY_HOOK_REPLACED', message: /POST \/orders/ })
})
