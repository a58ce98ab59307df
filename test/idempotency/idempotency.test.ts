import { Readable } from 'node:stream'
import { gunzipSync } from 'node:zlib'
import compress from '@fastify/compress'
import Fastify, { type FastifyInstance, type FastifyReply, type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { idempotency, type IdempotencyPluginOptions } from '../../plugins/idempotency/index.js'
import { sleep } from '../../plugins/shared/plugin/clock.js'
import { byAddress, gate, ON, PATIENT, post } from '../helpers/idempotency/requests.js'
import { advanceWhile, createTestApp, forEachStore, until, type StoreName, type TestApp, type TestAppOptions } from '../helpers/index.js'

type Open = (options: IdempotencyPluginOptions, routes: NonNullable<TestAppOptions['routes']>, more?: TestAppOptions) => Promise<TestApp>

/** Opens apps whose time-outs pass only when the test advances the clock. */
async function openApp (t: Test, store: StoreName, options: IdempotencyPluginOptions, routes: NonNullable<TestAppOptions['routes']>, more: TestAppOptions = {}): Promise<TestApp> {
  return await createTestApp(t, { store, routes, ...more, plugins: { ...more.plugins, idempotency: { ...PATIENT, ...options } } })
}

function onEachStore (name: string, test: (t: Test, open: Open, store: StoreName) => Promise<unknown>): void {
  forEachStore(['memory', 'redis', 'cluster'], store => {
    t.test(`${store}: ${name}`, async t => await test(t, async (options, routes, more) => await openApp(t, store, options, routes, more), store))
  })
}

onEachStore('a repeated request gets the first response: status, stored headers and body', async (t, open) => {
  let runs = 0
  const { app } = await open({}, app => {
    app.post('/orders', ON, async (request, reply) => {
      reply.code(201).header('location', `/orders/${++runs}`).header('set-cookie', 'a=secret').header('x-own', 'kept')
      return { run: runs, key: request.idempotencyKey }
    })
  })
  const first = await post(app, '/orders', '"k-1"', { a: 1 })
  t.equal(first.headers['idempotency-replayed'], undefined)
  const again = await post(app, '/orders', 'k-1', { a: 1 })
  t.match(again, { statusCode: 201, headers: { location: '/orders/1', 'idempotency-replayed': 'true', 'content-type': first.headers['content-type'] } })
  t.equal(again.body, first.body)
  t.same(again.json(), { run: 1, key: 'k-1' })
  t.same([again.headers['set-cookie'], again.headers['x-own']], [undefined, 'kept'])
  t.equal((await post(app, '/orders', 'k-2', { a: 1 })).json().run, 2, 'another key is another order')
  t.same([(await post(app, '/orders', undefined, { a: 1 })).json(), (await post(app, '/orders', undefined, { a: 1 })).json()], [{ run: 3, key: null }, { run: 4, key: null }])
})

onEachStore('10 equal requests at once on each of two instances run once, and all get the response', async (t, open, store) => {
  let runs = 0
  const { apps, clock } = await open({}, app => {
    app.post('/orders', ON, async (_, reply) => {
      await sleep(clock, 100)
      return await reply.code(201).send({ run: ++runs })
    })
    // The memory store knows the requests of its own instance only.
  }, { instances: store === 'memory' ? 1 : 2 })
  const answers = Promise.all(apps.flatMap(app => Array.from({ length: 10 }, async () => await post(app, '/orders', 'all', { a: 1 }))))
  const { value } = await advanceWhile(clock, answers)
  t.equal(runs, 1)
  t.same(value.map(({ statusCode, body }) => `${statusCode} ${body}`), value.map(() => '201 {"run":1}'))
  t.equal(value.filter(({ headers }) => headers['idempotency-replayed'] === undefined).length, 1)
})

onEachStore('the same key with another body, query, parameter, route or method is refused, also while the first request is in progress', async (t, open) => {
  let runs = 0
  const held = gate()
  const run = async () => {
    runs++
    await held.opened
    return { runs }
  }
  const { app } = await open({}, app => {
    for (const url of ['/a/:id', '/b/:id']) app.route({ method: ['POST', 'PUT'], url, ...ON, handler: run })
  })
  const first = post(app, '/a/1', 'k', { a: 1 })
  await until('the request is in progress', () => runs === 1)
  const others = async () => (await Promise.all([
    post(app, '/a/1', 'k', { a: 2 }), post(app, '/a/1', 'k'), post(app, '/a/1?x=1', 'k', { a: 1 }), post(app, '/a/2', 'k', { a: 1 }), post(app, '/b/1', 'k', { a: 1 }),
    app.inject({ method: 'PUT', url: '/a/1', payload: { a: 1 }, headers: { 'idempotency-key': 'k' } })
  ])).map(response => `${response.statusCode} ${response.json().code}`)
  const refused = Array(6).fill('422 FST_REDIS_SUITE_IDEMPOTENCY_KEY_REUSED')
  t.same(await others(), refused, 'in progress')
  held.open()
  await first
  t.same(await others(), refused, 'done')
  t.equal(runs, 1)
})

onEachStore('a repetition may send the members of its JSON body in another order; the refusal of another request names the parts that differ', async (t, open) => {
  let runs = 0
  const { app } = await open({ fingerprint: request => String(request.headers['x-part'] ?? '') }, app => {
    for (const url of ['/a', '/b']) app.route({ method: ['POST', 'PUT'], url, ...ON, handler: async () => ({ run: ++runs }) })
  })
  const body = { b: { d: [{ f: 1, e: 2 }], c: null }, a: 'x', pipe: { getReader: 1 }, __proto__: null, 10: 1, 9: 2 }
  const send = async (request: { payload?: object, method?: 'POST' | 'PUT', url?: string, headers?: Record<string, string> }) => {
    const { headers, ...rest } = request
    return await app.inject({ method: 'POST', url: '/a', payload: body, ...rest, headers: { 'idempotency-key': 'k', ...headers } })
  }
  t.same((await send({})).json(), { run: 1 })
  t.same((await send({ payload: { 9: 2, 10: 1, pipe: { getReader: 1 }, a: 'x', b: { c: null, d: [{ e: 2, f: 1 }] } } })).json(), { run: 1 })
  const others: Array<[Parameters<typeof send>[0], string]> = [
    [{ payload: { ...body, a: 'y' } }, 'body'], [{ payload: { ...body, pipe: { getReader: 2 } } }, 'body'], [{ payload: { ...body, b: { d: [{ f: 1, e: 2 }, 1], c: null } } }, 'body'], [{ method: 'PUT' }, 'method'], [{ url: '/b' }, 'path'],
    [{ url: '/a?x=1' }, 'query'], [{ headers: { host: 'b.example' } }, 'host'], [{ headers: { 'x-part': '2' } }, 'fingerprint'], [{ url: '/b', payload: {}, headers: { host: 'b.example' } }, 'host and another path and another body']
  ]
  for (const [other, differs] of others) {
    t.match((await send(other)).json(), { statusCode: 422, message: `idempotency: this key was used for a request with another ${differs}; send each new request with a new key` })
  }
  t.equal(runs, 1)
})

onEachStore('x-… headers of the handler are replayed, except those of hooks, of other plugins and of one request; set-cookie and hop-by-hop headers never are', async (t, open) => {
  let requests = 0
  const { app } = await open({ headers: undefined }, app => {
    app.addHook('onRequest', async (_, reply) => { reply.header('x-frame-options', 'DENY').header('x-hook', ++requests).header('x-changed', 'before') })
    app.addHook('onSend', async (_, reply) => { reply.header('x-late', requests) })
    const handler = async (_: unknown, reply: FastifyReply) => await reply.headers({
      'x-order': '7',
      'x-list': ['a', 'b'],
      'x-changed': 'by the handler',
      'x-request-id': 'first',
      'x-cache': 'MISS',
      'x-ratelimit-cost': 1,
      'set-cookie': 'a=secret',
      'keep-alive': 'timeout=5',
      server: 'app',
      link: '</a>'
    }).send({ requests })
    app.post('/default', ON, handler)
    app.post('/listed', { config: { idempotency: { headers: ['Server', 'X-L*', 'x-request-id', 'keep-alive', 'set-cookie'] } } }, handler)
    app.post('/none', { config: { idempotency: { headers: [] } } }, handler)
  })
  const replayed = async (url: string) => {
    await post(app, url, url)
    const { headers } = await post(app, url, url)
    t.equal(headers['idempotency-replayed'], 'true')
    return Object.fromEntries(Object.entries(headers).filter(([name]) => /^x-(?!frame)|^set-cookie|^keep-alive|^server|^link/.test(name)))
  }
  const byHooks = (requests: number) => ({ 'x-hook': String(requests), 'x-late': String(requests), 'x-changed': 'before' })
  t.same(await replayed('/default'), { ...byHooks(2), 'x-changed': 'by the handler', 'x-order': '7', 'x-list': ['a', 'b'], link: '</a>' })
  t.same(await replayed('/listed'), { ...byHooks(4), 'x-list': ['a', 'b'], server: 'app', 'x-request-id': 'first' })
  t.same(await replayed('/none'), byHooks(6))
})

onEachStore('another caller with the same key gets its own response, whatever identifies callers', async (t, open) => {
  let runs = 0
  const { app } = await open({ scope: undefined }, app => {
    app.post('/orders', ON, async () => ({ run: ++runs }))
    app.post<{ Params: { user: string } }>('/login/:user', async request => { await request.login(request.params.user) })
    app.post('/visit', async request => { Object.assign(request.session, { cart: 1 }) })
  }, { plugins: { session: {} } })
  const cookieOf = async (url: string) => {
    const { cookies: [cookie] } = await post(app, url)
    return { cookie: `sid=${encodeURIComponent(cookie?.value ?? '')}` }
  }
  const callers: Array<Record<string, string>> = [
    { authorization: 'Bearer a' }, { authorization: 'Bearer b' },
    await cookieOf('/visit'), await cookieOf('/visit'), await cookieOf('/login/ann'), await cookieOf('/login/bob')
  ]
  const ask = async (headers: Record<string, string>) => (await post(app, '/orders', 'same', { a: 1 }, headers)).json().run
  for (const when of ['first', 'again']) {
    const answers: unknown[] = []
    for (const caller of callers) answers.push(await ask(caller))
    t.same(answers, callers.map((_, i) => i + 1), when)
  }
  t.equal(await ask(await cookieOf('/login/ann')), 5, 'a user is the same one from a second device')
  t.equal((await post(app, '/orders', 'same', { a: 1 })).statusCode, 400, 'an address alone is no caller')
})

onEachStore('a 5xx response, a thrown error and "try again" are not stored; a 4xx response is', async (t, open) => {
  const runs: Record<string, number> = {}
  const { app } = await open({}, app => {
    app.post<{ Params: { what: string } }>('/:what', ON, async ({ params: { what } }, reply) => {
      runs[what] = (runs[what] ?? 0) + 1
      if (what === 'thrown') throw Object.assign(new Error('no'), { statusCode: 409 })
      if (what === 'sent') return await reply.code(400).send(new Error('no'))
      return await reply.code(Number(what)).send({ what })
    })
  })
  for (const what of ['500', '503', '429', 'thrown', 'sent', '404', '200', '204']) for (let i = 0; i < 2; i++) await post(app, `/${what}`, what)
  t.same(runs, { 500: 2, 503: 2, 429: 2, thrown: 2, sent: 2, 404: 1, 200: 1, 204: 1 })
})

onEachStore('a request without a required key, or with an invalid key, is refused', async (t, open) => {
  let runs = 0
  const { app } = await open({ header: 'X-Key' }, app => {
    app.post('/required', { config: { idempotency: { required: true } } }, async () => ++runs)
    app.post('/optional', ON, async () => ++runs)
  })
  t.match((await post(app, '/required')).json(), { statusCode: 400, code: 'FST_REDIS_SUITE_IDEMPOTENCY_MISSING_KEY' })
  const wrong: Record<string, string> = {
    '': 'is empty',
    '""': 'is empty',
    '"a': 'begins with a quote, but does not end with one',
    '"a\\"': 'begins with a quote, but does not end with one',
    '"': 'begins with a quote, but does not end with one',
    '"a"; b=1': 'begins with a quote, but does not end with one',
    '"a"b"': 'has a quote or a backslash between its quotes',
    '"a\\b"': 'has a quote or a backslash between its quotes',
    'a"': 'has a quote, but does not begin with one',
    'a b': 'has a blank or a comma outside of quotes',
    'a, b': 'has a blank or a comma outside of quotes, as if it was sent twice',
    ä: 'has a character that is not printable ASCII',
    ['x'.repeat(256)]: 'has a key of 256 characters',
    [`"${'x'.repeat(257)}"`]: 'has a key of 257 characters'
  }
  for (const [key, why] of Object.entries(wrong)) {
    const { statusCode, code, message } = (await post(app, '/optional', undefined, undefined, { 'x-key': key })).json()
    t.match([statusCode, code, message], [400, 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_KEY', `idempotency: the header x-key ${why}`], key)
  }
  t.equal(runs, 0)
  t.equal((await post(app, '/optional', undefined, undefined, { 'x-key': 'x'.repeat(255) })).statusCode, 200)
})

onEachStore('a request that waits longer than "wait" is answered 409 with Retry-After, and gets the response later', async (t, open) => {
  const held = gate()
  let isRunning = false
  const { app, clock } = await open({}, app => {
    for (const [url, wait] of [['/now', 0], ['/soon', '3s']] as const) {
      app.post(url, { config: { idempotency: { wait } } }, async () => {
        isRunning = true
        await held.opened
        return 'done'
      })
    }
  })
  const firsts: Array<ReturnType<typeof post>> = []
  for (const [url, wait] of [['/now', 0], ['/soon', 3000]] as const) {
    isRunning = false
    firsts.push(post(app, url, url))
    await until('the request is in progress', () => isRunning)
    const { value: second, passed } = await advanceWhile(clock, post(app, url, url), { step: 50, atMost: 3_600_000 })
    t.match([second.headers['retry-after'], second.json()], ['1', { statusCode: 409, code: 'FST_REDIS_SUITE_IDEMPOTENCY_IN_PROGRESS' }])
    t.ok(passed >= wait, `${passed} ms of ${wait}`)
  }
  held.open()
  await Promise.all(firsts)
  t.same([(await post(app, '/now', '/now')).body, (await post(app, '/soon', '/soon')).body], ['done', 'done'])
})

onEachStore('a large body is stored whole; for a body that is too large the store notes that the request ran', async (t, open) => {
  let runs = 0
  const { app } = await open({ maxBodySize: 900_000 }, app => {
    app.post<{ Body: { size: number } }>('/', ON, async request => {
      runs++
      return Buffer.alloc(request.body.size, 'ä\0\r\n')
    })
  })
  const whole = Buffer.alloc(900_000, 'ä\0\r\n')
  const large = [await post(app, '/', 'large', { size: 900_000 }), await post(app, '/', 'large', { size: 900_000 })]
  t.same(large.map(({ rawPayload }) => rawPayload.equals(whole)), [true, true])
  t.equal((await post(app, '/', 'too', { size: 900_001 })).statusCode, 200)
  t.match((await post(app, '/', 'too', { size: 900_001 })).json(), { statusCode: 409, code: 'FST_REDIS_SUITE_IDEMPOTENCY_ANSWER_NOT_KEPT' })
  t.equal(runs, 2)
})

onEachStore('a stream and a hijacked reply are not stored, and the next request runs long before the lease expires', async (t, open) => {
  let runs = 0
  const { app, clock } = await open({ lease: '1 day' }, app => {
    app.post('/stream', ON, async (_, reply) => {
      runs++
      return await reply.send(Readable.from(['a', 'b']))
    })
    app.post('/hijacked', ON, (_, reply) => {
      runs++
      reply.hijack()
      reply.raw.end('own')
    })
  })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const ask = async (path: string) => {
    const response = await fetch(url + path, { method: 'POST', headers: { 'idempotency-key': path } })
    return `${response.status} ${await response.text()}`
  }
  // This request may arrive before the key is released, and polls then.
  const askTwice = async (path: string) => [await ask(path), (await advanceWhile(clock, ask(path))).value]
  t.same([await askTwice('/stream'), runs], [['200 ab', '200 ab'], 2])
  t.same([await askTwice('/hijacked'), runs], [['200 own', '200 own'], 4])
})

onEachStore('a request whose client disconnected is completed, and a repetition gets its response', async (t, open) => {
  let runs = 0
  const held = gate()
  const { app, clock } = await open({}, app => {
    app.post('/', ON, async () => {
      runs++
      await held.opened
      return 'done'
    })
    // Node.js closes a connection whose client disconnected some seconds later.
  }, { server: { forceCloseConnections: true } })
  const url = await app.listen({ host: '127.0.0.1', port: 0 })
  const gone = new AbortController()
  const headers = { 'idempotency-key': 'k' }
  const first = fetch(url, { method: 'POST', headers, signal: gone.signal })
  await until('the request is in progress', () => runs === 1)
  gone.abort()
  await t.rejects(first)
  const second = fetch(url, { method: 'POST', headers })
  held.open()
  t.equal(await (await advanceWhile(clock, second)).value.text(), 'done')
  t.equal(runs, 1)
})

onEachStore('a response is stored for its ttl', async (t, open) => {
  let runs = 0
  const { app, clock } = await open({}, app => { app.post('/', { config: { idempotency: { ttl: '1 hour' } } }, async () => ++runs) })
  const ask = async () => (await post(app, '/', 'k')).body
  const before = [await ask(), await ask()]
  await clock.advance('59 minutes')
  t.same([...before, await ask()], ['1', '1', '1'])
  await clock.advance('1 minute')
  t.equal(await ask(), '2')
})

onEachStore('a request that takes longer than the lease keeps its key', async (t, open) => {
  let runs = 0
  const held = gate()
  const { app, clock } = await open({ lease: '2 minutes' }, app => {
    app.post('/', ON, async () => {
      runs++
      await held.opened
      return runs
    })
  })
  const ask = async () => (await post(app, '/', 'k')).body
  const first = ask()
  await until('the request is in progress', () => runs === 1)
  for (let third = 0; third < 9; third++) {
    await clock.advance('40s')
    // This request reaches Redis after the lease was renewed.
    t.equal((await post(app, '/', 'k', { other: true })).statusCode, 422, 'the claim stands')
  }
  const others = [ask(), ask()]
  held.open()
  t.same((await advanceWhile(clock, Promise.all([first, ...others]))).value, ['1', '1', '1'])
  t.equal(runs, 1)
})

t.test('an unauthorized caller is refused before the look-up of a stored response, and an invalid request acquires no key', async t => {
  let isAllowed = true
  const { app } = await openApp(t, 'memory', {}, app => {
    app.post('/', { ...ON, schema: { body: { type: 'object', required: ['a'] } }, preHandler: async (_, reply) => { if (!isAllowed) return await reply.code(403).send('no') } }, async () => 'done')
  })
  t.equal((await post(app, '/', 'k', {})).statusCode, 400)
  t.equal((await post(app, '/', 'k', { a: 1 })).body, 'done')
  isAllowed = false
  t.equal((await post(app, '/', 'k', { a: 1 })).statusCode, 403)
})

t.test('a replayed response is compressed for each client that accepts it', async t => {
  const { app } = await openApp(t, 'memory', {}, app => { app.post('/', ON, async () => ({ text: 'x'.repeat(2000) })) },
    { before: async app => { await app.register(compress, { threshold: 0 }) } })
  const plain = await post(app, '/', 'k')
  const packed = await post(app, '/', 'k', undefined, { 'accept-encoding': 'gzip' })
  t.same([packed.headers['content-encoding'], packed.headers['idempotency-replayed']], ['gzip', 'true'])
  t.equal(gunzipSync(packed.rawPayload).toString(), plain.body)
  t.equal((await post(app, '/', 'k')).body, plain.body)
})

t.test('the options scope and fingerprint identify callers and requests', async t => {
  let runs = 0
  const { app } = await openApp(t, 'memory', { scope: request => String(request.headers['x-shop']), fingerprint: request => String(request.headers['x-more']) },
    app => { app.post('/', ON, async () => ++runs) })
  const ask = async (shop: string, more: string) => (await post(app, '/', 'k', undefined, { 'x-shop': shop, 'x-more': more })).statusCode === 200 ? runs : 'refused'
  t.same([await ask('a', '1'), await ask('a', '1'), await ask('b', '1'), await ask('a', '2')], [1, 1, 2, 'refused'])
})

t.test('a scope that is not a string is an error, and not a scope that unknown callers share', async t => {
  const { app } = await openApp(t, 'memory', { scope: request => request.headers.authorization as string }, app => { app.post('/', ON, async () => 'done') })
  t.equal((await post(app, '/', 'k', undefined, { authorization: 'a' })).statusCode, 200)
  t.match((await post(app, '/', 'k')).json(), { statusCode: 500, code: 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_VALUE' })
})

t.test('invalid options are refused at registration of the plugin or of a route', async t => {
  const code = 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION'
  const bad = [{ ttl: 'soon' }, { ttl: 0 }, { header: 'a b' }, { required: 1 }, { scope: 'ip' }, { fingerprint: 1 }, { wait: -1 }, { lease: 1 },
    { headers: 'location' }, { maxBodySize: -1 }, { onStoreError: 'run' }, { maxKeys: 0 }, { timeout: 0 }, { redis: {} }, { tll: 1 }, { clock: Date }]
  for (const options of bad) await t.rejects(async () => { await Fastify().register(idempotency, options as never) }, { code }, JSON.stringify(options))
  await openApp(t, 'memory', {}, app => {
    for (const config of [1, 'yes', { timeout: 1 }, { ttl: 'soon' }]) t.throws(() => app.post('/', { config: { idempotency: config as never } }, async () => 1), { code })
    t.throws(() => app.get('/', ON, async () => 1), { code })
  })
})

const open = async (t: Test, routes: (app: FastifyInstance) => unknown, server: FastifyServerOptions = {}, lease = 10_000): Promise<TestApp> =>
  await createTestApp(t, { plugins: { idempotency: { lease, wait: '1 hour', scope: byAddress } }, routes, server })

const postOne = async (app: FastifyInstance, headers: Record<string, string> = {}, payload?: string) => await post(app, '/', 'k', payload, headers)

t.test('a hook of the app that changes a response does not change it again when it is replayed', async t => {
  const { app } = await open(t, app => {
    app.addHook('onSend', async (request, reply, payload) => {
      if (request.headers['x-packed'] !== undefined) reply.header('content-encoding', 'x').code(203)
      return `[${String(payload)}]`
    })
    app.post('/', ON, async (_, reply) => await reply.code(201).send('done'))
  })
  t.equal((await postOne(app)).body, '[done]')
  const again = await postOne(app)
  t.match(again, { statusCode: 201, body: '[done]', headers: { 'idempotency-replayed': 'true', 'content-length': '6' } })
  const packed = await postOne(app, { 'x-packed': 'yes' })
  t.match(packed, { statusCode: 201, body: '[done]' })
  t.equal(packed.headers['content-encoding'], undefined)
})

t.test('a response without a body is replayed without one, and an error during a replay is sent as an error', async t => {
  let isBroken = false
  const { app } = await open(t, app => {
    app.addHook('onSend', async (_request, _reply, payload) => {
      if (!isBroken) return payload
      isBroken = false
      throw new Error('broken')
    })
    app.post('/', ON, async (_, reply) => await reply.code(204).send())
  })
  t.equal((await postOne(app)).statusCode, 204)
  t.match(await postOne(app), { statusCode: 204, body: '', headers: { 'idempotency-replayed': 'true' } })
  isBroken = true
  t.match((await postOne(app)).json(), { statusCode: 500, message: 'broken' })
})

t.test('the first response of a handler that responds twice is sent and stored', async t => {
  for (const second of [(reply: FastifyReply) => reply.send('second'), () => 'second', () => { throw new Error('second') }]) {
    const { app } = await open(t, app => {
      app.post('/', ON, (_, reply) => {
        reply.send('first')
        return second(reply)
      })
    })
    t.same([(await postOne(app)).body, (await postOne(app)).body], ['first', 'first'])
  }
})

t.test('a handler that goes on after its time-out keeps its key until it ends', async t => {
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
  t.equal((await postOne(app)).statusCode, 503)
  // Three leases.
  await clock.advance(3000)
  t.equal((await postOne(app)).statusCode, 503, 'a second request waits until its own time-out')
  t.equal(seen.runs, 1)
  held.open()
  await until('the handler has ended', () => seen.inside === 0)
  // Fastify's time-out passes in real time: a stall of the machine may shorten it.
  let last = await postOne(app)
  await until('the next request has run', async () => last.statusCode === 200 || (last = await postOne(app)).statusCode === 200)
  t.equal(last.body, 'done')
  t.same(seen, { inside: 0, most: 1, runs: 2 })
})

t.test('a route of GET and POST may have a key, although Fastify adds HEAD to it', async t => {
  let runs = 0
  const { app } = await open(t, app => {
    t.throws(() => app.head('/other', ON, async () => 1), { code: 'FST_REDIS_SUITE_IDEMPOTENCY_INVALID_OPTION' })
    app.route({ method: ['GET', 'POST'], url: '/', ...ON, handler: async () => ++runs })
  })
  t.same([(await postOne(app)).body, (await postOne(app)).body], ['1', '1'])
  t.same([(await app.inject('/')).body, (await app.inject({ method: 'HEAD', url: '/' })).statusCode, runs], ['2', 200, 3])
})

t.test('bodies that are lists of fields, such as forms, are distinct', async t => {
  const { app } = await open(t, app => {
    app.addContentTypeParser('text/form', { parseAs: 'string' }, (_request, body, done) => done(null, new URLSearchParams(String(body))))
    app.post<{ Body: URLSearchParams }>('/', ON, async request => request.body.toString())
  })
  const form = { 'content-type': 'text/form' }
  t.equal((await postOne(app, form, 'a=1')).body, 'a=1')
  t.equal((await postOne(app, form, 'a=1')).headers['idempotency-replayed'], 'true')
  t.equal((await postOne(app, form, 'a=2')).statusCode, 422)
})
