import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { IdempotencyPluginOptions } from '../../plugins/idempotency/index.js'
import { circuitOf } from '../../plugins/shared/redis/guard.js'
import { gate, ON, PATIENT, post as send } from '../helpers/idempotency/requests.js'
import { advanceUntil, advanceWhile, createTestApp, forEachStore, newPrefix, sharedRedis, startRedis, until, type StoreName, type TestAppOptions } from '../helpers/index.js'

const own = await startRedis()
const shared = (await sharedRedis()).client()
const post = async (app: FastifyInstance, key: string) => await send(app, '/', key)

/** An app with one route. */
async function open (t: Test, store: NonNullable<TestAppOptions['store']>, options: IdempotencyPluginOptions, handler: () => unknown, more: TestAppOptions = {}) {
  const test = await createTestApp(t, {
    store,
    plugins: { idempotency: { ...PATIENT, ...options } },
    routes: app => { app.post('/', ON, async () => await handler()) },
    ...more
  })
  const text = () => JSON.stringify(test.lines)
  const linesWith = (part: string) => test.lines.filter(({ msg }) => String(msg).includes(part)).length
  return { ...test, text, linesWith }
}

t.test('if the instance that runs a request dies, the next request runs when the lease has expired, and not before', async t => {
  const prefix = newPrefix()
  const held = gate()
  let runs = 0
  let begun = 0
  // Its clock stands still, so it renews no lease.
  const { app: gone, linesWith } = await open(t, 'redis', { lease: '2 minutes' }, async () => {
    begun++
    await held.opened
    return 'late'
  }, { prefix })
  const { app, clock } = await open(t, 'redis', {}, () => ++runs, { prefix })
  const late = post(gone, 'k')
  await until('the request is in progress', () => begun === 1)
  const answers = Promise.all(Array.from({ length: 3 }, async () => await post(app, 'k')))
  const { value, passed } = await advanceWhile(clock, answers, { step: 1000, atMost: 1_200_000 })
  t.same(value.map(({ body }) => body), Array(3).fill('1'))
  t.ok(passed >= 60_000, `after ${passed} ms`)
  held.open()
  t.equal((await late).body, 'late')
  t.equal((await post(app, 'k')).body, '1')
  t.equal(linesWith('a response was not stored, as another request acquired its key'), 1)
})

t.test('during an outage a request with a key is refused within the time-out, and accepted afterwards; a request without a key runs', async t => {
  let runs = 0
  const { app, clock, linesWith } = await open(t, own, { timeout: '500ms' }, () => ++runs)
  t.equal((await post(app, 'before')).statusCode, 200)
  await own.kill()
  const times: number[] = []
  for (let i = 0; i < 20; i++) {
    const { value: refused, passed } = await advanceWhile(clock, post(app, 'k'))
    t.match([refused.statusCode, refused.headers['retry-after'], refused.json().code], [503, '1', 'FST_REDIS_SUITE_IDEMPOTENCY_STORE_UNAVAILABLE'])
    times.push(passed)
  }
  t.same(times.filter(passed => passed > 520), [], 'each within the time-out')
  t.equal(runs, 1)
  t.equal((await app.inject({ method: 'POST', url: '/' })).statusCode, 200)
  await own.start()
  await advanceUntil(clock, 'the request is accepted', async () => (await post(app, 'k')).statusCode === 200)
  t.equal(runs, 3)
  t.same([linesWith('idempotency: the store is unavailable'), linesWith('the store is available again')], [1, 1])
})

t.test("with onStoreError 'open' a request runs during an outage, and its response is stored after it", async t => {
  let runs = 0
  const { app, clock, prefix } = await open(t, own, { onStoreError: 'open', lease: 300, timeout: '2s' }, () => ++runs)
  await own.kill()
  t.equal((await advanceWhile(clock, post(app, 'k'))).value.body, '1')
  await own.start()
  await advanceUntil(clock, 'the response is stored, and the circuit is closed', async () =>
    (await own.client().keys(`${prefix}:*`)).length === 1 && circuitOf(app.redis)?.state === 'closed')
  t.match(await post(app, 'k'), { body: '1', headers: { 'idempotency-replayed': 'true' } })
  t.equal(runs, 1)
})

t.test('a response that Redis did not take is sent, and stored once Redis is available again', async t => {
  let runs = 0
  const { app, clock, prefix, linesWith } = await open(t, own, { lease: '1 minute', timeout: '2s' }, async () => {
    await own.kill()
    return ++runs
  })
  const answering = post(app, 'k')
  // The clock stands still until then: it ages keys in Redis.
  await until('Redis is gone', () => !own.answers)
  t.equal((await advanceWhile(clock, answering)).value.body, '1')
  t.equal(linesWith('could not be stored and is queued'), 1)
  await own.start()
  await advanceUntil(clock, 'the response is stored, and the circuit is closed', async () =>
    await own.client().hget((await own.client().keys(`${prefix}:*`))[0] ?? '', 'head') !== null && circuitOf(app.redis)?.state === 'closed', { step: 200 })
  t.match(await post(app, 'k'), { body: '1', headers: { 'idempotency-replayed': 'true' } })
  t.equal(runs, 1)
})

t.test('a response that Redis did not take is replayed, and its request does not run again, after its lease has expired', async t => {
  let runs = 0
  const { app, clock, prefix } = await open(t, own, { lease: '10s', timeout: '2s' }, async () => {
    await own.client().replicaof('127.0.0.1', 1)
    return ++runs
  })
  t.equal((await post(app, 'k')).body, '1')
  const repeated = { body: '1', headers: { 'idempotency-replayed': 'true' } }
  t.match(await post(app, 'k'), repeated, 'while Redis takes no writes')
  t.equal((await send(app, '/?another=request', 'k')).statusCode, 422)
  await own.client().replicaof('NO', 'ONE')
  await own.client().del(await own.client().keys(`${prefix}:*`))
  t.match(await post(app, 'k'), repeated, 'as soon as it does, and the lease has passed')
  await advanceUntil(clock, 'the response is stored', async () => (await own.client().keys(`${prefix}:*`)).length === 1, { step: 50 })
  t.match(await post(app, 'k'), repeated, 'from Redis')
  t.equal(runs, 1)
})

t.test('a server that refuses writes counts as unavailable; one that lost its scripts does not', async t => {
  let runs = 0
  const { app, linesWith } = await open(t, own, {}, () => ++runs)
  await own.client().config('SET', 'maxmemory', '1')
  t.same([await post(app, 'k'), await post(app, 'k'), await post(app, 'k')].map(({ statusCode }) => statusCode), [503, 503, 503])
  await own.client().config('SET', 'maxmemory', '0')
  t.equal(linesWith('idempotency: the store is unavailable'), 1)
  await own.client().script('FLUSH')
  t.same([(await post(app, 'k')).body, (await post(app, 'k')).body], ['1', '1'])
})

t.test('a request whose lease expired does not replace the response of the next one', async t => {
  const held = [gate(), gate()]
  let runs = 0
  const { app, clock, prefix, linesWith } = await open(t, 'redis', { lease: '1 minute' }, async () => {
    const run = ++runs
    await held[run - 1]?.opened
    return run
  })
  const first = post(app, 'k')
  await until('the request is in progress', () => runs === 1)
  await shared.del(await shared.keys(`${prefix}:*`))
  await clock.advance('20s')
  await until('the loss is noticed', () => linesWith('a lease expired while its request was in progress') === 1)
  const second = post(app, 'k')
  await until('the next one runs', () => runs === 2)
  held[0]?.open()
  t.equal((await first).body, '1')
  held[1]?.open()
  t.equal((await second).body, '2')
  t.equal((await post(app, 'k')).body, '2')
  t.equal(linesWith('a lease expired while its request was in progress'), 1)
  t.equal(linesWith('a response was not stored, as another request acquired its key'), 1)
})

t.test('each key in Redis has a TTL, and contains neither the key of the request nor its caller', async t => {
  const { app, prefix, text } = await open(t, 'redis', {}, () => 'done')
  await post(app, 'a-secret-key')
  const keys = await shared.keys(`${prefix}:*`)
  t.equal(keys.length, 1)
  t.match(keys[0], new RegExp(`^${prefix}:idempotency:key:[\\w-]{43}$`))
  const left = await shared.pttl(keys[0] ?? '')
  t.ok(left > 86_000_000 && left <= 86_400_000, `${left} ms of a day`)
  t.notMatch(text() + keys.join(), /a-secret-key/)
})

t.test('a stored response that cannot be read is 503 with a code, runs nothing, and is not in the log', async t => {
  let runs = 0
  const { app, prefix, text } = await open(t, 'redis', {}, () => ({ run: ++runs }))
  t.equal((await post(app, 'key')).statusCode, 200)
  const [kept = ''] = await shared.keys(`${prefix}:idempotency:key:*`)
  const heads = ['secret', '{"secret', 'null', '[]', '-1', '"secret"', '{"status":200}', '{"status":"200","headers":{}}', '{"status":99,"headers":{}}', '{"status":600,"headers":{}}',
    '{"status":200,"headers":null}', '{"status":200,"headers":{"x":1}}', '{"status":200,"headers":{"x":[null]}}', '{"status":200,"headers":{"x y":"a"}}', '{"status":200,"headers":{"x":"a\\r\\nsecret: b"}}']
  const answers: string[] = []
  for (const head of heads) {
    await shared.hset(kept, 'head', head)
    const { statusCode, body } = await post(app, 'key')
    answers.push(`${head} ${statusCode} ${JSON.parse(body).code}`)
  }
  t.same(answers, heads.map(head => `${head} 503 FST_REDIS_SUITE_IDEMPOTENCY_STORE_UNAVAILABLE`))
  t.equal(runs, 1)
  t.notMatch(text(), 'secret')
  t.match(text(), 'the stored response cannot be read')
})

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
    for (const run of [1, 2]) t.match([(await send(app, '/', 'key')).statusCode, runs], [500, run])
    for (const replayed of [undefined, 'true']) t.match(await send(app, '/', 'key'), { statusCode: 200, body: 'run 3', headers: { 'idempotency-replayed': replayed } })
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
    t.equal((await send(app, '/', 'key')).statusCode, 500)
    for (const replayed of [undefined, 'true']) t.match(await send(app, '/', 'key'), { statusCode: 200, body: 'run 2', headers: { 'idempotency-replayed': replayed } })
  })
}

t.test('a response that cannot be removed during an outage is logged', async t => {
  const redis = await startRedis()
  const { app, warnings } = await createTestApp(t, {
    store: redis,
    plugins: { idempotency: { ...PATIENT, scope: () => 'caller' } },
    routes: app => app.post('/', { ...ON, onSend: async () => { await redis.kill(); throw new Error('failed') } }, async () => 'sent')
  })
  t.equal((await send(app, '/', 'key')).statusCode, 500)
  t.match(warnings().filter(line => line.startsWith('idempotency')), ['idempotency: a response that could not be sent stays stored, as the store is unavailable'])
})
