import { createServer, get, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as wait } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { build } from '../../examples/gateway.js'

process.env['LOG_LEVEL'] = 'silent'
delete process.env['REDIS_URL']

type Answer = (request: IncomingMessage, response: ServerResponse) => void

/** An origin and the gateway before it, both on real sockets. */
async function start (t: Test, answer: Answer) {
  const seen: IncomingMessage[] = []
  const origin = createServer((request, response) => {
    seen.push(request)
    answer(request, response)
  })
  await new Promise<void>(resolve => origin.listen(0, '127.0.0.1', resolve))
  const app = await build(`http://127.0.0.1:${(origin.address() as AddressInfo).port}`)
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
  return { seen, ask, address }
}

t.test('it does what the origin\'s header fields say: fresh, stale, validated, by range', async t => {
  const { seen, ask } = await start(t, (request, response) => {
    response.setHeader('cache-control', request.url === '/short' ? 'max-age=1' : 'max-age=60')
    response.setHeader('etag', '"v1"')
    if (request.headers['if-none-match'] === '"v1"') response.writeHead(304).end()
    else response.end('0123456789')
  })
  t.match(await ask('/long'), { status: 200, cache: 'MISS', body: '0123456789' })
  t.match(await ask('/long'), { status: 200, cache: 'HIT', body: '0123456789' })
  t.match(await ask('/long', { headers: { range: 'bytes=2-4' } }), { status: 206, cache: 'HIT', body: '234' })
  // Without a Cache-Control of one's own, fetch adds no-cache to a condition.
  t.match(await ask('/long', { headers: { 'if-none-match': 'W/"v1"', 'cache-control': 'max-stale=0' } }), { status: 304, body: '' })
  t.match(await ask('/long', { method: 'HEAD' }), { status: 200, cache: 'HIT', body: '' })
  t.equal(seen.length, 1)
  await ask('/short')
  await wait(1100)
  t.match(await ask('/short'), { status: 200, cache: 'REVALIDATED', body: '0123456789' })
  t.match(await ask('/short'), { cache: 'HIT' })
  t.equal(seen.length, 3)
})

t.test('what it may not store goes through as it is: methods, bodies, chunks, statuses and headers', async t => {
  const { ask } = await start(t, (request, response) => {
    response.setHeader('x-method', request.method ?? '')
    response.setHeader('set-cookie', ['a=1', 'b=2'])
    response.statusCode = Number(request.headers['x-status'] ?? 200)
    request.pipe(response)
  })
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
    const { headers, body } = await ask('/', { method, body: 'some bytes' })
    t.same([headers.get('x-method'), headers.getSetCookie(), body], [method, ['a=1', 'b=2'], 'some bytes'])
  }
  for (const status of [201, 302, 400, 404, 418, 500, 503, 599]) {
    t.equal((await ask(`/${status}`, { headers: { 'x-status': String(status) }, redirect: 'manual' })).status, status)
  }
})

t.test('what comes before an answer is passed on, and not stored with it', async t => {
  const { address } = await start(t, (_request, response) => {
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

t.test('a write makes the answer of its URL invalid', async t => {
  const { ask } = await start(t, (_request, response) => { response.setHeader('cache-control', 'max-age=60').end('x') })
  await ask('/')
  t.equal((await ask('/')).cache, 'HIT')
  await ask('/', { method: 'POST' })
  t.equal((await ask('/')).cache, 'MISS')
})

t.test('an origin that is gone is a 502, and the last good answer where there is one', async t => {
  let isGone = false
  const { ask } = await start(t, (request, response) => {
    if (isGone) return request.socket.destroy()
    response.setHeader('cache-control', request.url === '/strict' ? 'max-age=1, must-revalidate' : 'max-age=1').end('good')
  })
  await ask('/')
  await ask('/strict')
  isGone = true
  await wait(1100)
  t.match(await ask('/'), { status: 200, cache: 'STALE', body: 'good' })
  t.match(await ask('/strict'), { status: 502, cache: 'MISS' })
  t.match(await ask('/new'), { status: 502 })
})
