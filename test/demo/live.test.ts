import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { buildApp } from '../../app.js'
import { shopConfig } from '../helpers/demo/shop.js'
import { LatestQueue } from '../../demo/latest-queue.js'
import type { LiveEvent } from '../../demo/live-events.js'
import { unusedConnections } from '../../demo/unused-connections.js'
import { startRedis, until } from '../helpers/index.js'
import { countListeners } from '../helpers/rate-limit/listening.js'

const server = await startRedis({ password: 'a-redis-password' })
const [a, b] = await Promise.all([1, 2].map(async () => {
  const app = await buildApp(shopConfig({ REDIS_URL: server.url, TRUST_PROXY: 'true' }))
  await app.listen({ port: 0, host: '127.0.0.1' })
  t.teardown(() => app.close())
  return app
})) as [FastifyInstance, FastifyInstance]

/** What a page at that address is told. */
async function watch (t: Test, app: FastifyInstance, address = '10.0.0.1'): Promise<{ told: LiveEvent[], text: () => string, end: () => void }> {
  const over = new AbortController()
  t.teardown(() => over.abort())
  const response = await fetch(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}/live`, { signal: over.signal, headers: { 'x-forwarded-for': address } })
  const told: LiveEvent[] = []
  let text = ''
  const read = async () => {
    let rest = ''
    for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      text += chunk
      const parts = (rest + chunk).split('\n\n')
      rest = parts.pop() ?? ''
      for (const part of parts) {
        const data = /^data: (.*)$/m.exec(part)?.[1]
        if (data !== undefined) told.push(JSON.parse(data))
      }
    }
  }
  read().catch(() => {})
  await until('it is told who answers', () => told[0]?.kind === 'hello')
  return { told, text: () => text, end: () => over.abort() }
}

// The metrics have listened all the time.
const [ofA, ofB] = [countListeners(a), countListeners(b)]
const isWatched = (app: FastifyInstance) => (app === a ? ofA : ofB)() > 0

t.test('a page is told of both instances, where the stores are and how they do, and never the password', async t => {
  const { told, text } = await watch(t, a)
  for (const app of [a, b]) {
    await until('there is a sample', () => told.some(event => event.kind === 'sample' && event.instance === app.live.instance && event.store.commands !== null))
  }
  const sample = told.find(event => event.kind === 'sample')
  t.match(sample, { store: { label: /^Redis \d+\.\d+\.\d+ at 127\.0\.0\.1:\d+$/, isRedis: true, circuit: 'closed', latency: Number }, health: { status: /pass|warn|fail/, checks: Array } })
  t.notMatch(text(), 'a-redis-password')
})

t.test('what happens at one instance is told at the other: a miss, a hit, an invalidation, a login', async t => {
  const { told } = await watch(t, a)
  await until('the other one has heard of the page', () => isWatched(b))
  const cacheEvents = () => told.flatMap(event => event.kind === 'cache' && event.instance === b.live.instance ? `${event.what} ${event.of}` : [])
  await b.inject('/live/products/7')
  await until('the answer is stored', async () => (await b.inject('/live/products/7')).headers['x-cache'] === 'HIT')
  t.same((await b.inject({ method: 'POST', url: '/live/invalidate', payload: { tag: 'product:7' } })).json(), { invalidated: 'product:7' })
  t.equal((await b.inject('/live/products/7')).headers['x-cache'], 'MISS')
  await until('all is told', () => ['miss /live/products/7', 'hit /live/products/7', 'invalidate product:7'].every(what => cacheEvents().includes(what)))
  t.equal((await b.inject({ method: 'POST', url: '/live/invalidate', payload: { tag: 'user:1' } })).statusCode, 400, 'no other tags')

  await b.inject({ method: 'POST', url: '/login', payload: { email: 'user5@example.com', password: 'demo-password' } })
  await until('the login is told', () => told.some(event => event.kind === 'session' && event.what === 'login' && event.user === '6'))
})

t.test('decisions are told to the address that they were made for, without saying which it is', async t => {
  const [mine, other] = [await watch(t, a, '10.1.0.1'), await watch(t, a, '10.1.0.2')]
  const headers = { 'x-forwarded-for': '10.1.0.1' }
  await until('both instances are watched', () => isWatched(a) && isWatched(b))
  const answers = await Promise.all(Array.from({ length: 60 }, (_, i) => (i % 2 === 0 ? a : b).inject({ url: '/live/limited', headers })))
  t.ok(answers.every(({ statusCode }) => statusCode === 200))
  t.equal(answers.filter(answer => answer.json().allowed).length, 20, 'over both instances')
  t.equal((await a.inject({ url: '/limited', headers })).statusCode, 429, 'the same limit')
  const decisions = (told: LiveEvent[]) => told.filter(event => event.kind === 'decision')
  await until('all are told', () => decisions(mine.told).length === 61)
  t.equal(decisions(mine.told).filter(event => event.kind === 'decision' && event.allowed).length, 20)
  t.same(decisions(other.told), [])
  t.notMatch(mine.text() + other.text(), '10.1.0')
})

t.test('when the last page is closed nothing is measured any more, at either instance', async t => {
  const { end } = await watch(t, a)
  await until('both instances measure', () => isWatched(a) && isWatched(b))
  end()
  await until('neither does', () => !isWatched(a) && !isWatched(b))
})

t.test('while Redis hangs a page is still told, in time', async t => {
  const { told } = await watch(t, a)
  await until('there is a sample', () => told.some(({ kind }) => kind === 'sample'))
  server.pause()
  t.teardown(() => server.resume())
  await until('the circuit is told to be open', () => told.some(event => event.kind === 'health' && event.circuit === 'open'))
  const count = () => told.filter(event => event.kind === 'sample' && event.store.circuit === 'open').length
  await until('samples go on', () => count() >= 2)
  server.resume()
  await until('it is told to be closed', () => told.some((event, i) => event.kind === 'health' && event.circuit === 'closed' && i > 0))
})

t.test('at / a browser gets the page with a strict policy where it is built, and others where to start', async t => {
  const plain = await a.inject('/')
  t.match([plain.headers['content-type'], plain.headers['vary'], plain.json().products], [/json/, /accept/, '/products'])
  const html = await a.inject({ url: '/', headers: { accept: 'text/html,*/*' } })
  t.match(html.headers['content-type'], existsSync(join(import.meta.dirname, '../../dist/public/page.js')) ? /html/ : /json/)
  const policy = String(html.headers['content-security-policy'])
  t.match(policy, /script-src 'self';/)
  t.match(policy, /frame-ancestors 'none'/)
  t.notMatch(policy, 'unsafe')
})

t.test('closing does not wait for a connection on which nothing was asked, as browsers make them ahead', async t => {
  const app = Fastify()
  await app.register(unusedConnections)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  await once(app.server, 'connection')
  const closed = once(socket, 'close')
  await app.close()
  await closed
})

t.test('a queue keeps the latest, and says that some are missing', async t => {
  const over = new AbortController()
  const queue = new LatestQueue<number>(2, over.signal)
  for (const item of [1, 2, 3]) queue.push(item)
  const seen = []
  for await (const found of queue) {
    seen.push(found)
    if (found.item === 3) over.abort()
  }
  t.same(seen, [{ item: 2, gap: true }, { item: 3 }])
})
