import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { sharedRedis, until } from '../helpers/index.js'
import { startUpstashRest } from '../helpers/servers/upstash-rest.js'

process.env['REDIS_URL'] = (await sharedRedis()).url
process.env['LOG_LEVEL'] = 'silent'

/** The first request that a reader sends to each example. */
const trials: Record<string, { method?: 'GET' | 'POST', url: string, answer: RegExp }> = {
  redis: { method: 'POST', url: '/visits', answer: /"visits":1/ },
  'rate-limit': { url: '/', answer: /world/ },
  health: { url: '/health', answer: /"redis:responseTime":\[\{"observedValue":[\d.]+/ },
  metrics: { url: '/metrics', answer: /fastify_redis_up\{client="default",service="shop"\} 1/ },
  cache: { url: '/products/1', answer: /1/ },
  'data-cache': { url: '/products/1', answer: /Teapot/ },
  session: { method: 'POST', url: '/logout', answer: /./ },
  events: { method: 'POST', url: '/orders/teapot', answer: /teapot/ },
  lock: { method: 'POST', url: '/invoices/1', answer: /"number":1/ },
  streams: { method: 'POST', url: '/orders/ann/tea', answer: /"id"/ },
  idempotency: { method: 'POST', url: '/payments', answer: /"payment":1/ },
  'node-redis': { url: '/products/1', answer: /Teapot/ }
}

for (const [name, { method = 'GET', url, answer }] of Object.entries(trials)) {
  t.test(`examples/${name}.ts runs`, async t => {
    const { build } = await import(`../../examples/${name}.ts`)
    const app = await build()
    t.teardown(() => app.close())
    const response = await app.inject({ method, url })
    t.ok(response.statusCode < 300, `${method} ${url} is ${response.statusCode}`)
    t.match(response.body, answer)
  })
}

t.test('examples/data-cache.ts returns what is written through, and counts views after its responses', async t => {
  const { build } = await import('../../examples/data-cache.js')
  const app = await build()
  t.teardown(() => app.close())
  const get = async (url: string) => (await app.inject({ url })).json()
  t.equal((await app.inject({ url: '/products/2' })).statusCode, 404)
  t.equal((await get('/products/1')).name, 'Teapot')
  const changed = await app.inject({ method: 'PUT', url: '/products/2', payload: { name: 'Kettle' } })
  t.equal(changed.json().name, 'Kettle')
  t.equal((await get('/products/2')).name, 'Kettle', 'also where "not found" was cached')
  await until('the views are counted', async () => (await get('/views')).products[1]?.views === 1)
  t.match(await get('/views'), { backlog: 0, deadLetters: 0 })
})

t.test('examples/node-redis.ts counts a limit, stores a response and a session, and sends a command, with a client of node-redis', async t => {
  const { build } = await import('../../examples/node-redis.js')
  const app = await build()
  t.teardown(() => app.close())
  // The limit of this address is used by no other test.
  const remoteAddress = '203.0.113.7'
  const get = async () => await app.inject({ url: '/products/1', remoteAddress })
  const visit = async (cookie = '') => await app.inject({ method: 'POST', url: '/visits', headers: { cookie }, remoteAddress })

  const made = await get()
  const stored = await get()
  t.match(stored, { statusCode: 200, body: made.body, headers: { 'x-cache': 'HIT' } })

  const first = await visit()
  const [cookie] = String(first.headers['set-cookie']).split(';')
  const second = await visit(cookie)
  t.same([first.json().yours, second.json().yours, (await visit()).json().yours], [1, 2, 1])
  t.ok(second.json().total > first.json().total)
  const remaining = [first, second].map(({ headers }) => Number(headers['x-ratelimit-remaining']))
  t.equal(remaining[1], remaining[0]! - 1)
})

t.test('examples/connections.ts: two instances share everything, by each client', async t => {
  const { build, connections } = await import('../../examples/connections.js')
  const redisUrl = (await sharedRedis()).url
  const rest = await startUpstashRest(redisUrl)
  for (const [i, [name, connect]] of Object.entries(connections).entries()) {
    const url = name === 'Upstash' ? `${rest.url}?_token=${rest.token}` : redisUrl
    const [one, two] = [await build(connect, url), await build(connect, url)]
    t.teardown(async () => { await Promise.all([one.close(), two.close()]) })
    // The limits and keys of this address are used by no other connection.
    const remoteAddress = `203.0.113.${20 + i}`
    const send = (app: typeof one, method: 'GET' | 'POST', url: string, headers = {}) => app.inject({ method, url, headers, remoteAddress })

    const made = await send(one, 'GET', `/time?by=${i}`)
    await until(`${name}: the response is stored`, async () => (await send(one, 'GET', `/time?by=${i}`)).headers['x-cache'] === 'HIT')
    t.match(await send(two, 'GET', `/time?by=${i}`), { statusCode: 200, body: made.body, headers: { 'x-cache': 'HIT' } }, name)

    const ordered = await send(one, 'POST', '/orders', { 'idempotency-key': 'k' })
    const again = await send(two, 'POST', '/orders', { 'idempotency-key': 'k' })
    t.match(again, { statusCode: 200, body: ordered.body, headers: { 'idempotency-replayed': 'true' } }, name)

    const first = await send(one, 'POST', '/visits')
    const [cookie] = String(first.headers['set-cookie']).split(';')
    const second = await send(two, 'POST', '/visits', { cookie })
    t.same([first.json(), second.json()], [{ visits: 1 }, { visits: 2 }], name)
    t.equal(Number(second.headers['x-ratelimit-remaining']), Number(first.headers['x-ratelimit-remaining']) - 1, name)
  }
})

t.test('examples/events.ts sends browsers the orders of another instance', async t => {
  const { build } = await import('../../examples/events.js')
  const [one, two] = [await build(), await build()]
  t.teardown(async () => { await Promise.all([one.close(), two.close()]) })
  const response = await one.inject({ url: '/live', payloadAsStream: true })
  let text = ''
  response.stream().on('data', chunk => { text += chunk })
  await two.inject({ method: 'POST', url: '/orders/kettle' })
  await until('the stream has the order', () => /event: orders:placed\ndata: .*kettle/.test(text))
  await until('the other instance has counted it', async () => (await one.inject('/heard')).json().heard === 1)
  t.equal((await one.inject('/heard')).json().heard, 1)
})

t.test('examples/lock.ts issues one invoice at a time', async t => {
  const { build } = await import('../../examples/lock.js')
  const app = await build()
  t.teardown(() => app.close())
  const made = await Promise.all(Array.from({ length: 10 }, async () => (await app.inject({ method: 'POST', url: '/invoices/7' })).json().number))
  t.same(made.sort((a, b) => a - b), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
  t.equal((await app.inject({ method: 'POST', url: '/report' })).statusCode, 200)
})

t.test('the tests of examples/testing.ts pass', async t => {
  const { tests } = await import('../../examples/testing.js')
  for (const [name, run] of Object.entries(tests)) await t.resolves(run(), name)
})

type Answer = (request: IncomingMessage, response: ServerResponse) => void

/** Starts an origin and the gateway in front of it, both on real sockets; the clock of both stands still until it is advanced. */
async function startGateway (t: Test, answer: Answer) {
  const { build } = await import('../../examples/gateway.js')
  const clock = createTestClock()
  const seen: IncomingMessage[] = []
  const origin = createServer((request, response) => {
    seen.push(request)
    response.setHeader('date', new Date(clock.now()).toUTCString())
    answer(request, response)
  })
  await new Promise<void>(resolve => origin.listen(0, '127.0.0.1', resolve))
  const app = await build({ origin: `http://127.0.0.1:${(origin.address() as AddressInfo).port}`, redisUrl: '', clock })
  const address = await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(async () => {
    await app.close()
    origin.closeAllConnections()
    origin.close()
  })
  const ask = async (path: string, init: RequestInit = {}) => {
    const response = await fetch(address + path, init)
    return { status: response.status, headers: response.headers, cache: response.headers.get('x-cache'), body: await response.text() }
  }
  return { seen, ask, address, clock }
}

t.test('examples/gateway.ts follows the header fields of the origin: fresh, stale, validated, by range', async t => {
  const { seen, ask, clock } = await startGateway(t, (request, response) => {
    response.setHeader('cache-control', request.url === '/short' ? 'max-age=1' : 'max-age=60')
    response.setHeader('etag', '"v1"')
    if (request.headers['if-none-match'] === '"v1"') response.writeHead(304).end()
    else response.end('0123456789')
  })
  t.match(await ask('/long'), { status: 200, cache: 'MISS', body: '0123456789' })
  t.match(await ask('/long'), { status: 200, cache: 'HIT', body: '0123456789' })
  t.match(await ask('/long', { headers: { range: 'bytes=2-4' } }), { status: 206, cache: 'HIT', body: '234' })
  // Without its own Cache-Control, fetch adds no-cache to a conditional request.
  t.match(await ask('/long', { headers: { 'if-none-match': 'W/"v1"', 'cache-control': 'max-stale=0' } }), { status: 304, body: '' })
  t.match(await ask('/long', { method: 'HEAD' }), { status: 200, cache: 'HIT', body: '' })
  t.equal(seen.length, 1)
  await ask('/short')
  await clock.advance(1100)
  t.match(await ask('/short'), { status: 200, cache: 'REVALIDATED', body: '0123456789' })
  t.match(await ask('/short'), { cache: 'HIT' })
  t.equal(seen.length, 3)
})

t.test('examples/gateway.ts passes on methods, bodies, statuses and headers of what it may not store', async t => {
  const { ask } = await startGateway(t, (request, response) => {
    response.setHeader('x-method', request.method ?? '')
    response.setHeader('set-cookie', ['a=1', 'b=2'])
    response.statusCode = Number(request.headers['x-status'] ?? 200)
    request.pipe(response)
  })
  const methods = ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']
  const echoes = await Promise.all(methods.map(async method => {
    const { headers, body } = await ask('/', { method, body: 'some bytes' })
    return [headers.get('x-method'), headers.getSetCookie(), body]
  }))
  t.same(echoes, methods.map(method => [method, ['a=1', 'b=2'], 'some bytes']))
  const statuses = [201, 302, 400, 404, 418, 500, 503, 599]
  t.same(await Promise.all(statuses.map(async status => (await ask(`/${status}`, { headers: { 'x-status': String(status) }, redirect: 'manual' })).status)), statuses)
})

t.test('examples/gateway.ts passes on interim responses (102, 103), and does not store them', async t => {
  const { address } = await startGateway(t, (_request, response) => {
    response.writeProcessing()
    response.writeEarlyHints({ link: '</a.css>; rel=preload; as=style', 'x-hint': 'yes' })
    response.setHeader('cache-control', 'max-age=60').end('x')
  })
  const hintsOf = async () => await new Promise<unknown[]>((resolve, reject) => {
    const hints: unknown[] = []
    get(address, response => {
      response.resume().on('end', () => resolve([...hints, response.headers['x-cache'], response.headers['x-hint']]))
    }).on('information', ({ statusCode, headers }) => hints.push([statusCode, headers['x-hint']])).on('error', reject)
  })
  t.same(await hintsOf(), [[102, undefined], [103, 'yes'], 'MISS', undefined])
  t.same(await hintsOf(), ['HIT', undefined])
})

t.test('examples/gateway.ts invalidates the response of a URL that is written to', async t => {
  const { ask } = await startGateway(t, (_request, response) => { response.setHeader('cache-control', 'max-age=60').end('x') })
  await ask('/')
  t.equal((await ask('/')).cache, 'HIT')
  await ask('/', { method: 'POST' })
  t.equal((await ask('/')).cache, 'MISS')
})

t.test('examples/gateway.ts serves the last good response while the origin is down, or a 502', async t => {
  let isGone = false
  const { ask, clock } = await startGateway(t, (request, response) => {
    if (isGone) return request.socket.destroy()
    response.setHeader('cache-control', request.url === '/strict' ? 'max-age=1, must-revalidate' : 'max-age=1').end('good')
  })
  await ask('/')
  await ask('/strict')
  isGone = true
  await clock.advance(1100)
  t.match(await ask('/'), { status: 200, cache: 'STALE', body: 'good' })
  t.match(await ask('/strict'), { status: 502, cache: 'MISS' })
  t.match(await ask('/new'), { status: 502 })
})
