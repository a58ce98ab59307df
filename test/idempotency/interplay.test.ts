import { setTimeout as sleep } from 'node:timers/promises'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyServerOptions, type RouteShorthandOptions } from 'fastify'
import t, { type Test } from 'tap'
import { idempotency, type IdempotencyPluginOptions } from '../../plugins/idempotency/index.js'
import { createMemoryStore } from '../../plugins/idempotency/memory-store.js'
import { until } from '../helpers/index.js'

const on: RouteShorthandOptions = { config: { idempotency: true } }

async function build (t: Test, options: IdempotencyPluginOptions = {}, server: FastifyServerOptions = {}): Promise<FastifyInstance> {
  const app = Fastify(server)
  t.teardown(() => app.close())
  await app.register(idempotency, options)
  return app
}

function post (app: FastifyInstance, headers: Record<string, string> = {}, payload?: string) {
  return app.inject({ method: 'POST', url: '/', headers: { 'idempotency-key': 'k', ...headers }, ...payload !== undefined && { payload } })
}

t.test('what a hook of the app makes of an answer is not made of it a second time when it is given again', async t => {
  const app = await build(t)
  app.addHook('onSend', async (request, reply, payload) => {
    if (request.headers['x-packed'] !== undefined) reply.header('content-encoding', 'x').code(203)
    return `[${String(payload)}]`
  })
  app.post('/', on, async (_, reply) => await reply.code(201).send('done'))
  t.equal((await post(app)).body, '[done]')
  const again = await post(app)
  t.match(again, { statusCode: 201, body: '[done]', headers: { 'idempotency-replayed': 'true', 'content-length': '6' } })
  const packed = await post(app, { 'x-packed': 'yes' })
  t.match(packed, { statusCode: 201, body: '[done]' })
  t.equal(packed.headers['content-encoding'], undefined)
})

t.test('an answer without a body stays without one, and an error on the way of one that is given again is an error', async t => {
  const app = await build(t)
  let isBroken = false
  app.addHook('onSend', async (_request, _reply, payload) => {
    if (!isBroken) return payload
    isBroken = false
    throw new Error('broken')
  })
  app.post('/', on, async (_, reply) => await reply.code(204).send())
  t.equal((await post(app)).statusCode, 204)
  t.match(await post(app), { statusCode: 204, body: '', headers: { 'idempotency-replayed': 'true' } })
  isBroken = true
  t.match((await post(app)).json(), { statusCode: 500, message: 'broken' })
})

t.test('of a handler that answers twice the first answer is sent and kept', async t => {
  for (const second of [(reply: FastifyReply) => reply.send('second'), () => 'second', () => { throw new Error('second') }]) {
    const app = await build(t)
    app.post('/', on, (_, reply) => {
      reply.send('first')
      return second(reply)
    })
    t.same([(await post(app)).body, (await post(app)).body], ['first', 'first'])
  }
})

t.test('a handler that goes on after its time-out keeps its key until it is over', async t => {
  const app = await build(t, { lease: 300 }, { handlerTimeout: 50 })
  let inside = 0
  let most = 0
  let runs = 0
  app.post('/', on, async () => {
    most = Math.max(most, ++inside)
    // Longer than a lease.
    if (++runs === 1) await sleep(700)
    inside--
    return 'done'
  })
  t.equal((await post(app)).statusCode, 503)
  // Whoever asks meanwhile waits, though no longer than he may.
  t.equal((await post(app)).statusCode, 503)
  t.equal(runs, 1)
  await until('it is over', () => inside === 0)
  t.equal((await post(app)).body, 'done')
  t.same([runs, most], [2, 1])
})

t.test('a route of GET and POST may have it, though Fastify adds HEAD to it', async t => {
  const app = await build(t)
  let runs = 0
  t.throws(() => app.head('/other', on, async () => 1), { code: 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION' })
  app.route({ method: ['GET', 'POST'], url: '/', ...on, handler: async () => ++runs })
  t.same([(await post(app)).body, (await post(app)).body], ['1', '1'])
  t.same([(await app.inject('/')).body, (await app.inject({ method: 'HEAD', url: '/' })).statusCode, runs], ['2', 200, 3])
})

t.test('bodies that are lists of fields, as of a form, are told apart', async t => {
  const app = await build(t)
  app.addContentTypeParser('text/form', { parseAs: 'string' }, (_request, body, done) => done(null, new URLSearchParams(String(body))))
  app.post<{ Body: URLSearchParams }>('/', on, async request => request.body.toString())
  const form = { 'content-type': 'text/form' }
  t.equal((await post(app, form, 'a=1')).body, 'a=1')
  t.equal((await post(app, form, 'a=1')).headers['idempotency-replayed'], 'true')
  t.equal((await post(app, form, 'a=2')).statusCode, 422)
})

t.test('a clock that is set forward ends no claim of this process', async t => {
  const { now } = Date
  t.teardown(() => { Date.now = now })
  let ahead = 0
  Date.now = () => now() + ahead
  const store = createMemoryStore(10)
  const claimant = { id: 'id', fingerprint: 'print', token: 'first' }
  await store.claim(claimant, 60_000)
  ahead = 3_600_000
  t.equal(await store.claim({ ...claimant, token: 'second' }, 60_000), 'theirs')
})
