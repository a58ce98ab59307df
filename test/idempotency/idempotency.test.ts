import { Readable } from 'node:stream'
import { gunzipSync } from 'node:zlib'
import compress from '@fastify/compress'
import Fastify, { type FastifyInstance, type RouteShorthandOptions } from 'fastify'
import t, { type Test } from 'tap'
import { idempotency, type IdempotencyPluginOptions } from '../../plugins/idempotency/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { session } from '../../plugins/session/index.js'
import { startCluster, startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const cluster = await startCluster()
const connections: Record<string, RedisPluginOptions | undefined> = { memory: undefined, Redis: { url: server.url }, Cluster: { cluster: { nodes: cluster.startupNodes } } }
let prefixes = 0

/** Defines a test for each store. */
function onEachStore (name: string, test: (t: Test, connection: RedisPluginOptions | undefined) => Promise<unknown>): void {
  for (const [store, connection] of Object.entries(connections)) {
    t.test(`${store}: ${name}`, t => test(t, connection && { ...connection, prefix: `i${++prefixes}` }))
  }
}

async function build (t: Test, connection: RedisPluginOptions | undefined, options: IdempotencyPluginOptions = {}, before?: (app: FastifyInstance) => unknown): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  if (connection) await app.register(redis, connection)
  await before?.(app)
  await app.register(idempotency, options)
  return app
}

const on: RouteShorthandOptions = { config: { idempotency: true } }

function post (app: FastifyInstance, url: string, key?: string, payload?: object | string, headers: Record<string, string> = {}) {
  return app.inject({ method: 'POST', url, headers: { ...key !== undefined && { 'idempotency-key': key }, ...headers }, ...payload !== undefined && { payload } })
}

onEachStore('what comes again has the answer of the first: status, headers that are kept, and body', async (t, connection) => {
  const app = await build(t, connection)
  let runs = 0
  app.post('/orders', on, async (request, reply) => {
    reply.code(201).header('location', `/orders/${++runs}`).header('set-cookie', 'a=secret').header('x-own', 'not kept')
    return { run: runs, key: request.idempotencyKey }
  })
  const first = await post(app, '/orders', '"k-1"', { a: 1 })
  t.equal(first.headers['idempotency-replayed'], undefined)
  const again = await post(app, '/orders', 'k-1', { a: 1 })
  t.match(again, { statusCode: 201, headers: { location: '/orders/1', 'idempotency-replayed': 'true', 'content-type': first.headers['content-type'] } })
  t.equal(again.body, first.body)
  t.same(again.json(), { run: 1, key: 'k-1' })
  t.same([again.headers['set-cookie'], again.headers['x-own']], [undefined, undefined])
  t.equal((await post(app, '/orders', 'k-2', { a: 1 })).json().run, 2, 'another key is another order')
  t.same([(await post(app, '/orders', undefined, { a: 1 })).json(), (await post(app, '/orders', undefined, { a: 1 })).json()], [{ run: 3, key: null }, { run: 4, key: null }])
})

onEachStore('of 100 equal requests at once at each of two instances one is done, and all have its answer', async (t, connection) => {
  let runs = 0
  // A busy machine answers late.
  const apps = await Promise.all([0, 1].map(async () => await build(t, connection, { timeout: '5s' })))
  for (const app of apps) {
    app.post('/orders', on, async (_, reply) => {
      await new Promise(resolve => setTimeout(resolve, 100))
      return await reply.code(201).send({ run: ++runs })
    })
    await app.ready()
  }
  // In the memory each instance knows its own alone.
  const asked = connection === undefined ? apps.slice(0, 1) : apps
  const answers = await Promise.all(asked.flatMap(app => Array.from({ length: 100 }, () => post(app, '/orders', 'all', { a: 1 }))))
  t.equal(runs, 1)
  t.same([...new Set(answers.map(({ statusCode, body }) => `${statusCode} ${body}`))], ['201 {"run":1}'])
  t.equal(answers.filter(({ headers }) => headers['idempotency-replayed'] === undefined).length, 1)
})

onEachStore('the same key with another body, query, parameter, route or method is refused, also while the first is under way', async (t, connection) => {
  const app = await build(t, connection)
  let runs = 0
  let goOn = () => {}
  const held = new Promise<void>(resolve => { goOn = resolve })
  const run = async () => {
    runs++
    await held
    return { runs }
  }
  for (const url of ['/a/:id', '/b/:id']) app.route({ method: ['POST', 'PUT'], url, ...on, handler: run })
  const first = post(app, '/a/1', 'k', { a: 1 })
  await until('it is under way', () => runs === 1)
  const others = async () => await Promise.all([
    post(app, '/a/1', 'k', { a: 2 }), post(app, '/a/1', 'k'), post(app, '/a/1?x=1', 'k', { a: 1 }), post(app, '/a/2', 'k', { a: 1 }), post(app, '/b/1', 'k', { a: 1 }),
    app.inject({ method: 'PUT', url: '/a/1', payload: { a: 1 }, headers: { 'idempotency-key': 'k' } })
  ])
  for (const isDone of [false, true]) {
    if (isDone) {
      goOn()
      await first
    }
    for (const response of await others()) t.match(response.json(), { statusCode: 422, code: 'FST_REDIS_SUITE_IDEMPOTENCY_KEY_REUSED' })
  }
  t.equal(runs, 1)
})

onEachStore('another caller with the same key has an answer of his own, whoever tells them apart', async (t, connection) => {
  const app = await build(t, connection, {}, async app => { await app.register(session, { secret: 'a secret of at least thirty-two characters' }) })
  let runs = 0
  app.post('/orders', on, async () => ({ run: ++runs }))
  app.post<{ Params: { user: string } }>('/login/:user', async request => { await request.login(request.params.user) })
  app.post('/visit', async request => { Object.assign(request.session, { cart: 1 }) })
  const cookieOf = async (url: string) => {
    const { cookies: [cookie] } = await post(app, url)
    return { cookie: `sid=${encodeURIComponent(cookie?.value ?? '')}` }
  }
  const callers: Array<Record<string, string>> = [
    {}, { authorization: 'Bearer a' }, { authorization: 'Bearer b' },
    await cookieOf('/visit'), await cookieOf('/visit'), await cookieOf('/login/ann'), await cookieOf('/login/bob')
  ]
  const ask = async (headers: Record<string, string>) => (await post(app, '/orders', 'same', { a: 1 }, headers)).json().run
  for (const [i, caller] of callers.entries()) t.equal(await ask(caller), i + 1)
  for (const [i, caller] of callers.entries()) t.equal(await ask(caller), i + 1, 'and has it again')
  t.equal(await ask(await cookieOf('/login/ann')), 6, 'a user is the same one from a second device')
  const { body } = await app.inject({ method: 'POST', url: '/orders', payload: { a: 1 }, headers: { 'idempotency-key': 'same' }, remoteAddress: '192.0.2.9' })
  t.equal(body, '{"run":8}', 'who has nothing is known by the address')
})

onEachStore('an answer 5xx, an error that was thrown and "try again" are not kept; an answer 4xx is', async (t, connection) => {
  const app = await build(t, connection)
  const runs: Record<string, number> = {}
  app.post<{ Params: { what: string } }>('/:what', on, async ({ params: { what } }, reply) => {
    runs[what] = (runs[what] ?? 0) + 1
    if (what === 'thrown') throw Object.assign(new Error('no'), { statusCode: 409 })
    if (what === 'sent') return await reply.code(400).send(new Error('no'))
    return await reply.code(Number(what)).send({ what })
  })
  for (const what of ['500', '503', '429', 'thrown', 'sent', '404', '200', '204']) for (let i = 0; i < 2; i++) await post(app, `/${what}`, what)
  t.match(runs, { 500: 2, 503: 2, 429: 2, thrown: 2, sent: 2, 404: 1, 200: 1, 204: 1 })
})

onEachStore('without a key where one is required, or with one that is none, a request is refused', async (t, connection) => {
  const app = await build(t, connection, { header: 'X-Key' })
  let runs = 0
  app.post('/required', { config: { idempotency: { required: true } } }, async () => ++runs)
  app.post('/optional', on, async () => ++runs)
  t.match((await post(app, '/required')).json(), { statusCode: 400, code: 'FST_REDIS_SUITE_IDEMPOTENCY_MISSING_KEY' })
  for (const key of ['', '""', '"a', 'a b', 'ä', 'x'.repeat(256), `"${'x'.repeat(256)}"`, 'a, b']) {
    t.match((await post(app, '/optional', undefined, undefined, { 'x-key': key })).json(), { statusCode: 400, code: 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_KEY' }, key)
  }
  t.equal(runs, 0)
  t.equal((await post(app, '/optional', undefined, undefined, { 'x-key': 'x'.repeat(255) })).statusCode, 200)
})

onEachStore('who waits longer than he may is answered 409 with Retry-After, and has the answer later', async (t, connection) => {
  const app = await build(t, connection, { wait: 0 })
  let goOn = () => {}
  let isRunning = false
  app.post('/', on, async () => {
    isRunning = true
    await new Promise<void>(resolve => { goOn = resolve })
    return 'done'
  })
  const first = post(app, '/', 'k')
  await until('it is under way', () => isRunning)
  const second = await post(app, '/', 'k')
  t.match([second.headers['retry-after'], second.json()], ['1', { statusCode: 409, code: 'FST_REDIS_SUITE_IDEMPOTENCY_IN_PROGRESS' }])
  goOn()
  await first
  t.equal((await post(app, '/', 'k')).body, 'done')
})

onEachStore('a large body is kept whole; of one that is too large it is kept that it was', async (t, connection) => {
  const app = await build(t, connection, { maxBodySize: 900_000 })
  let runs = 0
  app.post<{ Body: { size: number } }>('/', on, async request => {
    runs++
    return Buffer.alloc(request.body.size, 'ä\0\r\n')
  })
  for (const key of ['large', 'large']) t.ok((await post(app, '/', key, { size: 900_000 })).rawPayload.equals(Buffer.alloc(900_000, 'ä\0\r\n')))
  t.equal((await post(app, '/', 'too', { size: 900_001 })).statusCode, 200)
  t.match((await post(app, '/', 'too', { size: 900_001 })).json(), { statusCode: 409, code: 'FST_REDIS_SUITE_IDEMPOTENCY_ANSWER_NOT_KEPT' })
  t.equal(runs, 2)
})

onEachStore('a stream and a hijacked reply are not kept, and the next one runs at once', async (t, connection) => {
  const app = await build(t, connection, { wait: '1s', lease: '1 minute' })
  let runs = 0
  app.post('/stream', on, async (_, reply) => {
    runs++
    return await reply.send(Readable.from(['a', 'b']))
  })
  app.post('/hijacked', on, (_, reply) => {
    runs++
    reply.hijack()
    reply.raw.end('own')
  })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const ask = async (path: string) => {
    const response = await fetch(url + path, { method: 'POST', headers: { 'idempotency-key': path } })
    return `${response.status} ${await response.text()}`
  }
  t.same([await ask('/stream'), await ask('/stream'), runs], ['200 ab', '200 ab', 2])
  t.same([await ask('/hijacked'), await ask('/hijacked'), runs], ['200 own', '200 own', 4])
})

onEachStore('what a client does not wait for is done, and he has the answer when he asks again', async (t, connection) => {
  const app = await build(t, connection)
  let runs = 0
  let goOn = () => {}
  app.post('/', on, async () => {
    runs++
    await new Promise<void>(resolve => { goOn = resolve })
    return 'done'
  })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const gone = new AbortController()
  const headers = { 'idempotency-key': 'k' }
  const first = fetch(url, { method: 'POST', headers, signal: gone.signal })
  await until('it is under way', () => runs === 1)
  gone.abort()
  await t.rejects(first)
  const second = fetch(url, { method: 'POST', headers })
  goOn()
  t.equal(await (await second).text(), 'done')
  t.equal(runs, 1)
})

onEachStore('an answer is kept for its ttl', async (t, connection) => {
  const app = await build(t, connection)
  let runs = 0
  app.post('/', { config: { idempotency: { ttl: '400ms' } } }, async () => ++runs)
  t.same([(await post(app, '/', 'k')).body, (await post(app, '/', 'k')).body], ['1', '1'])
  await until('it runs again', async () => (await post(app, '/', 'k')).body === '2', 2000)
})

onEachStore('a request that takes longer than the lease keeps its claim', async (t, connection) => {
  const app = await build(t, connection, { lease: 300 })
  let runs = 0
  app.post('/', on, async () => {
    runs++
    await new Promise(resolve => setTimeout(resolve, 1000))
    return runs
  })
  const answers = await Promise.all([0, 1, 2].map(async () => (await post(app, '/', 'k')).body))
  t.same(answers, ['1', '1', '1'])
})

t.test('who may not ask is turned away before a stored answer is looked for, and what is not valid takes no key', async t => {
  const app = await build(t, undefined)
  let isAllowed = true
  app.post('/', { ...on, schema: { body: { type: 'object', required: ['a'] } }, preHandler: async (_, reply) => { if (!isAllowed) return await reply.code(403).send('no') } }, async () => 'done')
  t.equal((await post(app, '/', 'k', {})).statusCode, 400)
  t.equal((await post(app, '/', 'k', { a: 1 })).body, 'done')
  isAllowed = false
  t.equal((await post(app, '/', 'k', { a: 1 })).statusCode, 403)
})

t.test('what is given again is compressed for whoever asks', async t => {
  const app = await build(t, undefined, {}, async app => { await app.register(compress, { threshold: 0 }) })
  app.post('/', on, async () => ({ text: 'x'.repeat(2000) }))
  const plain = await post(app, '/', 'k')
  const packed = await post(app, '/', 'k', undefined, { 'accept-encoding': 'gzip' })
  t.same([packed.headers['content-encoding'], packed.headers['idempotency-replayed']], ['gzip', 'true'])
  t.equal(gunzipSync(packed.rawPayload).toString(), plain.body)
  t.equal((await post(app, '/', 'k')).body, plain.body)
})

t.test('scope and fingerprint may be told', async t => {
  const app = await build(t, undefined, { scope: request => String(request.headers['x-shop']), fingerprint: request => String(request.headers['x-more']) })
  let runs = 0
  app.post('/', on, async () => ++runs)
  const ask = async (shop: string, more: string) => (await post(app, '/', 'k', undefined, { 'x-shop': shop, 'x-more': more })).statusCode === 200 ? runs : 'refused'
  t.same([await ask('a', '1'), await ask('a', '1'), await ask('b', '1'), await ask('a', '2')], [1, 1, 2, 'refused'])
})

t.test('a scope that is no text is an error, and not a scope of all strangers', async t => {
  const app = await build(t, undefined, { scope: request => request.headers.authorization as string })
  app.post('/', on, async () => 'done')
  t.equal((await post(app, '/', 'k', undefined, { authorization: 'a' })).statusCode, 200)
  t.match((await post(app, '/', 'k')).json(), { statusCode: 500, code: 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE' })
})

t.test('options that cannot be used are refused when they are given', async t => {
  const code = 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION'
  const bad = [{ ttl: 'soon' }, { ttl: 0 }, { header: 'a b' }, { required: 1 }, { scope: 'ip' }, { fingerprint: 1 }, { wait: -1 }, { lease: 1 },
    { headers: 'location' }, { maxBodySize: -1 }, { onStoreError: 'run' }, { maxKeys: 0 }, { timeout: 0 }, { redis: {} }, { tll: 1 }]
  for (const options of bad) await t.rejects(async () => { await Fastify().register(idempotency, options as never) }, { code }, JSON.stringify(options))
  const app = await build(t, undefined)
  for (const config of [1, 'yes', { timeout: 1 }, { ttl: 'soon' }]) t.throws(() => app.post('/', { config: { idempotency: config as never } }, async () => 1), { code })
  t.throws(() => app.get('/', on, async () => 1), { code })
})
