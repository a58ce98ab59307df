import type { FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { createTestApp, forEachStore, startRedis, type StoreName } from '../helpers/index.js'
import { ON, PATIENT, post } from '../helpers/idempotency/requests.js'

type Respond = (request: FastifyRequest, reply: FastifyReply) => unknown

const BAD: Record<string, Respond> = {
  'a header that is not stored': async (_, reply) => { reply.header('x-own', '€'); return 'sent' },
  'a header that is stored': async (_, reply) => { reply.header('location', '/€'); return 'sent' },
  'a name': async (_, reply) => { reply.header('x own', 'a'); return 'sent' },
  'a line break': (_, reply) => { reply.header('x-own', 'a\r\nb'); return 'sent' },
  'a status message': async (_, reply) => { reply.raw.statusMessage = '€'; return 'sent' },
  'a payload': async (_, reply) => { reply.type('text/plain'); return 5 }
}

function onEachStore (name: string, test: (t: Test, store: StoreName) => Promise<unknown>): void {
  forEachStore(['memory', 'redis'], store => { t.test(`${store}: ${name}`, t => test(t, store)) })
}

for (const [what, respond] of Object.entries(BAD)) {
  onEachStore(`a response with ${what} that cannot be sent is 500 and is not stored: the handler runs again, and its next response is replayed`, async (t, store) => {
    let runs = 0
    const { app } = await createTestApp(t, {
      store,
      plugins: { idempotency: { ...PATIENT, scope: () => 'caller' } },
      routes: app => app.post('/', ON, (request, reply) => ++runs < 3 ? respond(request, reply) : `run ${runs}`)
    })
    for (const run of [1, 2]) t.match([(await post(app, '/', 'key')).statusCode, runs], [500, run])
    for (const replayed of [undefined, 'true']) t.match(await post(app, '/', 'key'), { statusCode: 200, body: 'run 3', headers: { 'idempotency-replayed': replayed } })
  })
}

for (const kind of ['that throws', 'that rejects', 'that sets a header which cannot be sent'] as const) {
  onEachStore(`a response that a later hook ${kind} keeps from the client is not replayed`, async (t, store) => {
    let runs = 0
    const fail = (reply: FastifyReply) => {
      if (runs > 1 || reply.statusCode >= 400) return
      if (kind !== 'that sets a header which cannot be sent') throw new Error('failed')
      reply.header('x-own', '€')
    }
    const { app } = await createTestApp(t, {
      store,
      plugins: { idempotency: { ...PATIENT, scope: () => 'caller' } },
      routes: app => app.route({
        ...ON,
        method: 'POST',
        url: '/',
        handler: async () => `run ${++runs}`,
        onSend: kind === 'that rejects' ? async (_, reply, payload) => { fail(reply); return payload } : (_, reply, payload, done) => { fail(reply); done(null, payload) }
      })
    })
    t.equal((await post(app, '/', 'key')).statusCode, 500)
    for (const replayed of [undefined, 'true']) t.match(await post(app, '/', 'key'), { statusCode: 200, body: 'run 2', headers: { 'idempotency-replayed': replayed } })
  })
}

t.test('a response that cannot be removed, as Redis is gone, is logged', async t => {
  const redis = await startRedis()
  const { app, warnings } = await createTestApp(t, {
    store: redis,
    plugins: { idempotency: { ...PATIENT, scope: () => 'caller' } },
    routes: app => app.post('/', { ...ON, onSend: async () => { await redis.kill(); throw new Error('failed') } }, async () => 'sent')
  })
  t.equal((await post(app, '/', 'key')).statusCode, 500)
  t.match(warnings().filter(line => line.startsWith('idempotency')), ['idempotency: a response that could not be sent stays stored, as the store cannot be asked'])
})
