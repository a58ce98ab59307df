import type { FastifyInstance, FastifyReply, FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { createTestApp, until, type TestApp } from '../helpers/index.js'
import { byAddress, gate, ON, post as send } from '../helpers/idempotency/requests.js'

const open = async (t: Test, routes: (app: FastifyInstance) => unknown, server: FastifyServerOptions = {}, lease = 10_000): Promise<TestApp> =>
  await createTestApp(t, { plugins: { idempotency: { lease, wait: '1 hour', scope: byAddress } }, routes, server })

const post = async (app: FastifyInstance, headers: Record<string, string> = {}, payload?: string) => await send(app, '/', 'k', payload, headers)

t.test('a hook of the app that changes a response does not change it a second time when it is repeated', async t => {
  const { app } = await open(t, app => {
    app.addHook('onSend', async (request, reply, payload) => {
      if (request.headers['x-packed'] !== undefined) reply.header('content-encoding', 'x').code(203)
      return `[${String(payload)}]`
    })
    app.post('/', ON, async (_, reply) => await reply.code(201).send('done'))
  })
  t.equal((await post(app)).body, '[done]')
  const again = await post(app)
  t.match(again, { statusCode: 201, body: '[done]', headers: { 'idempotency-replayed': 'true', 'content-length': '6' } })
  const packed = await post(app, { 'x-packed': 'yes' })
  t.match(packed, { statusCode: 201, body: '[done]' })
  t.equal(packed.headers['content-encoding'], undefined)
})

t.test('a response without a body stays without one, and an error while a repeated one is sent is an error', async t => {
  let isBroken = false
  const { app } = await open(t, app => {
    app.addHook('onSend', async (_request, _reply, payload) => {
      if (!isBroken) return payload
      isBroken = false
      throw new Error('broken')
    })
    app.post('/', ON, async (_, reply) => await reply.code(204).send())
  })
  t.equal((await post(app)).statusCode, 204)
  t.match(await post(app), { statusCode: 204, body: '', headers: { 'idempotency-replayed': 'true' } })
  isBroken = true
  t.match((await post(app)).json(), { statusCode: 500, message: 'broken' })
})

t.test('the first response of a handler that responds twice is sent and kept', async t => {
  for (const second of [(reply: FastifyReply) => reply.send('second'), () => 'second', () => { throw new Error('second') }]) {
    const { app } = await open(t, app => {
      app.post('/', ON, (_, reply) => {
        reply.send('first')
        return second(reply)
      })
    })
    t.same([(await post(app)).body, (await post(app)).body], ['first', 'first'])
  }
})

t.test('a handler that goes on after its time-out keeps its key until it is over', async t => {
  const seen = { inside: 0, most: 0, runs: 0 }
  const held = gate()
  const { app, clock } = await open(t, app => {
    app.post('/', ON, async () => {
      seen.most = Math.max(seen.most, ++seen.inside)
      if (++seen.runs === 1) await held.opened
      seen.inside--
      return 'done'
    })
  }, { handlerTimeout: 100 }, 1000)
  t.equal((await post(app)).statusCode, 503)
  // Three leases.
  await clock.advance(3000)
  t.equal((await post(app)).statusCode, 503, 'a second request waits until its own time-out')
  t.equal(seen.runs, 1)
  held.open()
  await until('it is over', () => seen.inside === 0)
  // The time-out is Fastify's, in real time: a machine that stalls may make it too short.
  let last = await post(app)
  await until('the next one is done', async () => last.statusCode === 200 || (last = await post(app)).statusCode === 200)
  t.equal(last.body, 'done')
  t.same(seen, { inside: 0, most: 1, runs: 2 })
})

t.test('a route of GET and POST may have it, though Fastify adds HEAD to it', async t => {
  let runs = 0
  const { app } = await open(t, app => {
    t.throws(() => app.head('/other', ON, async () => 1), { code: 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION' })
    app.route({ method: ['GET', 'POST'], url: '/', ...ON, handler: async () => ++runs })
  })
  t.same([(await post(app)).body, (await post(app)).body], ['1', '1'])
  t.same([(await app.inject('/')).body, (await app.inject({ method: 'HEAD', url: '/' })).statusCode, runs], ['2', 200, 3])
})

t.test('bodies that are lists of fields, as of a form, are told apart', async t => {
  const { app } = await open(t, app => {
    app.addContentTypeParser('text/form', { parseAs: 'string' }, (_request, body, done) => done(null, new URLSearchParams(String(body))))
    app.post<{ Body: URLSearchParams }>('/', ON, async request => request.body.toString())
  })
  const form = { 'content-type': 'text/form' }
  t.equal((await post(app, form, 'a=1')).body, 'a=1')
  t.equal((await post(app, form, 'a=1')).headers['idempotency-replayed'], 'true')
  t.equal((await post(app, form, 'a=2')).statusCode, 422)
})
