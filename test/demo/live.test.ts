import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { LatestQueue } from '../../demo/latest-queue.js'
import type { LiveEvent } from '../../demo/live-events.js'
import { unusedConnections } from '../../demo/unused-connections.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { startShop } from '../helpers/demo/start-shop.js'
import { advanceUntil, startRedis, until } from '../helpers/index.js'
import { countListeners } from '../helpers/rate-limit/listening.js'

const STEP_MS = 100

const server = await startRedis({ password: 'a-redis-password' })
const clock = createTestClock()
const [a, b = t.fail('two instances') as never] = await startShop(t as Test, { env: { REDIS_URL: server.url, TRUST_PROXY: 'true' }, instances: 2, clock })
for (const app of [a, b]) await app.listen({ port: 0, host: '127.0.0.1' })

// The replies of a responsive server arrive before the clock advances, however busy the machine is.
let isPaused = false
clock.onStep(async () => {
  if (!isPaused) await Promise.all([a, b].map(async app => await app.redis.ping().catch(() => {})))
})
const advanceTo = async (what: string, check: () => unknown) => await advanceUntil(clock, what, check, { step: STEP_MS })

/** Opens the event stream of the page at that address. */
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
  await until('the first event names the instance', () => told[0]?.kind === 'hello')
  return { told, text: () => text, end: () => over.abort() }
}

// The metrics have listened all the time.
const [ofA, ofB] = [countListeners(a), countListeners(b)]
const isWatched = (app: FastifyInstance) => (app === a ? ofA : ofB)() > 0

t.test('a page receives samples of both instances with the place and state of the stores, and never the password', async t => {
  const { told, text } = await watch(t, a)
  const sampleOf = (app: FastifyInstance) => told.find(event => event.kind === 'sample' && event.instance === app.live.instance && event.store.commands !== null)
  await advanceTo('a second sample of each instance', () => sampleOf(a) !== undefined && sampleOf(b) !== undefined)
  for (const app of [a, b]) {
    t.match(sampleOf(app), { store: { label: /^(?:Redis|Valkey|Redict) \d+\.\d+\.\d+ at 127\.0\.0\.1:\d+$/, isRedis: true, circuit: 'closed', latency: Number, commands: Number }, health: { status: /pass|warn|fail/, checks: Array } })
  }
  t.notMatch(text(), 'a-redis-password')
})

t.test('a miss, a hit, an invalidation and a login at one instance are shown by a page at the other', async t => {
  const { told } = await watch(t, a)
  await advanceTo('the other instance has heard of the page', () => isWatched(b))
  const cacheEvents = () => told.flatMap(event => event.kind === 'cache' && event.instance === b.live.instance ? `${event.what} ${event.of}` : [])
  await b.inject('/live/products/7')
  await until('the response is stored', async () => (await b.inject('/live/products/7')).headers['x-cache'] === 'HIT')
  t.same((await b.inject({ method: 'POST', url: '/live/invalidate', payload: { tag: 'product:7' } })).json(), { invalidated: 'product:7' })
  t.equal((await b.inject('/live/products/7')).headers['x-cache'], 'MISS')
  const expected = ['miss /live/products/7', 'hit /live/products/7', 'invalidate product:7']
  await advanceTo('the page has received them', () => expected.every(what => cacheEvents().includes(what)))
  t.same(expected.filter(what => !cacheEvents().includes(what)), [])
  t.equal((await b.inject({ method: 'POST', url: '/live/invalidate', payload: { tag: 'user:1' } })).statusCode, 400, 'no other tags')

  await b.inject({ method: 'POST', url: '/login', payload: { email: 'user5@example.com', password: 'demo-password' } })
  const login = () => told.find(event => event.kind === 'session')
  await advanceTo('the page has received the login', () => login() !== undefined)
  t.match(login(), { what: 'login', user: '6', instance: b.live.instance })
})

t.test('a decision of the limiter is sent to pages of the address that it was made for, without the address', async t => {
  const [mine, other] = [await watch(t, a, '10.1.0.1'), await watch(t, a, '10.1.0.2')]
  const headers = { 'x-forwarded-for': '10.1.0.1' }
  await advanceTo('both instances are watched', () => isWatched(a) && isWatched(b))
  const answers = await Promise.all(Array.from({ length: 60 }, (_, i) => (i % 2 === 0 ? a : b).inject({ url: '/live/limited', headers })))
  t.same(answers.filter(({ statusCode }) => statusCode !== 200), [])
  t.equal(answers.filter(answer => answer.json().allowed).length, 20, 'over both instances')
  t.equal((await a.inject({ url: '/limited', headers })).statusCode, 429, 'the same limit')
  const decisions = (told: LiveEvent[]) => told.filter(event => event.kind === 'decision')
  await advanceTo('the page has received all decisions', () => decisions(mine.told).length === 61)
  t.equal(decisions(mine.told).filter(event => event.kind === 'decision' && event.allowed).length, 20)
  t.equal(decisions(mine.told).filter(event => event.kind === 'decision' && event.isLocal).length, 0, 'Redis decided')
  t.same(decisions(other.told), [])
  t.notMatch(mine.text() + other.text(), '10.1.0')
})

t.test('4 s after the last page is closed neither instance takes samples', async t => {
  const { end } = await watch(t, a)
  await advanceTo('both instances take samples', () => isWatched(a) && isWatched(b))
  end()
  const passed = await advanceTo('neither does', () => !isWatched(a) && !isWatched(b))
  t.ok(passed >= 3000 && passed <= 6000, `after ${passed} ms`)
})

t.test('a page that is opened after the last one was closed, while requests come, receives samples', async t => {
  const { end } = await watch(t, a)
  await advanceTo('both instances take samples', () => isWatched(a) && isWatched(b))
  end()
  // An event is pending at the moment at which each instance stops.
  t.teardown(clock.onStep(async () => { await Promise.all([a, b].map(app => app.inject('/live/products/7'))) }))
  await advanceTo('neither takes samples', () => !isWatched(a) && !isWatched(b))
  const { told } = await watch(t, a)
  const sampleOf = (app: FastifyInstance) => told.some(event => event.kind === 'sample' && event.instance === app.live.instance)
  await advanceUntil(clock, 'the page has a sample of each instance', () => sampleOf(a) && sampleOf(b), { step: STEP_MS, atMost: 10_000 })
  t.same([sampleOf(a), sampleOf(b)], [true, true])
})

t.test('while Redis hangs a page receives samples that say so, and the recovery', async t => {
  const { told } = await watch(t, a, '127.0.0.1')
  await advanceTo('there is a sample', () => told.some(({ kind }) => kind === 'sample'))
  const resume = () => {
    server.resume()
    isPaused = false
  }
  t.teardown(resume)
  isPaused = true
  server.pause()
  const circuits = () => told.flatMap(event => event.kind === 'health' ? event.circuit : [])
  await advanceTo('the circuit is open', () => circuits().includes('open'))
  const count = () => told.filter(event => event.kind === 'sample' && event.store.circuit === 'open').length
  await advanceTo('samples continue', () => count() >= 2)
  await a.inject('/live/limited')
  const decision = () => told.findLast(event => event.kind === 'decision')
  await advanceTo('the page has received a decision', () => decision() !== undefined)
  t.match(decision(), { isLocal: true, allowed: true }, 'this instance decided')
  t.match(told.findLast(({ kind }) => kind === 'sample'), { parcels: null, views: { backlog: null, deadLetters: null } }, 'unknown figures')
  resume()
  await advanceTo('the circuit is closed', () => circuits().at(-1) === 'closed')
  // The health may change before the circuit.
  t.same([circuits().find(circuit => circuit !== 'closed'), circuits().at(-1)], ['open', 'closed'])
})

t.test('at / a browser gets the page with a strict policy where it is built, and other clients get the routes', async t => {
  const plain = await a.inject('/')
  t.match([plain.headers['content-type'], plain.headers['vary'], plain.json().products], [/json/, /accept/, '/products'])
  const html = await a.inject({ url: '/', headers: { accept: 'text/html,*/*' } })
  t.match(html.headers['content-type'], existsSync(join(import.meta.dirname, '../../dist/public/page.js')) ? /html/ : /json/)
  const policy = String(html.headers['content-security-policy'])
  t.match(policy, /script-src 'self';/)
  t.match(policy, /frame-ancestors 'none'/)
  t.notMatch(policy, 'unsafe')
})

t.test('closing does not wait for a connection without a request, as browsers open them ahead', async t => {
  const app = Fastify()
  await app.register(unusedConnections)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const socket = connect((app.server.address() as AddressInfo).port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  await once(app.server, 'connection')
  const closed = once(socket, 'close')
  await app.close()
  await closed
  t.ok(socket.destroyed)
})

t.test('a queue keeps the latest items, and marks a gap', async t => {
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
