import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import compress from '@fastify/compress'
import etag from '@fastify/etag'
import helmet from '@fastify/helmet'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import t, { type Test } from 'tap'
import { cache } from '../../plugins/cache/index.js'
import { events, type SseOptions, type SseSource, type StreamEvent } from '../../plugins/events/index.js'
import { rateLimit } from '../../plugins/rate-limit/index.js'
import { redis } from '../../plugins/redis/index.js'
import { session } from '../../plugins/session/index.js'
import { startRedis, until } from '../helpers/index.js'
import { collectLog } from '../helpers/app/log-lines.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
let prefixes = 0

interface Fake<T> extends SseSource<T> {
  append (data: T): void
  fail (): void
  readers: number
  reads: number
  longest: number
}

/** A stream in memory, with ids as Redis has them. */
function fakeStream<T> (): Fake<T> {
  const all: Array<StreamEvent<T>> = []
  const wakes = new Set<() => void>()
  let hasFailed = false
  const fake: Fake<T> = {
    readers: 0,
    reads: 0,
    longest: 0,
    append (data) {
      all.push({ id: `${all.length + 1}-0`, key: undefined, data, appendedAt: Date.now() })
      for (const wake of wakes) wake()
    },
    fail () {
      hasFailed = true
      for (const wake of wakes) wake()
    },
    read ({ after, signal } = {}) {
      if (after === 'bad') throw Object.assign(new Error('bad cursor'), { statusCode: 400 })
      const next = async function * () {
        fake.readers++
        try {
          for (let i = after === undefined ? all.length : Number(after.split('-')[0]); !signal?.aborted;) {
            if (hasFailed) throw new Error('the stream failed')
            const event = all[i]
            if (event === undefined) {
              await new Promise<void>(resolve => {
                wakes.add(resolve)
                signal?.addEventListener('abort', () => resolve(), { once: true })
              })
              wakes.clear()
            } else {
              fake.reads++
              yield event
              i++
            }
          }
        } finally {
          fake.readers--
        }
      }
      return next()
    }
  }
  return fake
}

interface Setting<T> {
  source?: SseSource<T>
  options?: SseOptions<unknown>
  redis?: boolean
  before?: (app: FastifyInstance) => Promise<unknown>
  log?: ReturnType<typeof collectLog>
}

/** An app with `/events`, listening. */
async function start<T> (t: Test, { source, options, redis: hasRedis = false, before, log = collectLog() }: Setting<T> = {}) {
  const given: FastifyServerOptions = { loggerInstance: log.logger }
  const app = Fastify(given)
  t.teardown(() => app.close())
  if (hasRedis) await app.register(redis, { url: server.url, prefix: `sse${++prefixes}` })
  await before?.(app)
  await app.register(events, { timeout: 2000 })
  app.get('/events', async (request, reply) => {
    if (source) return await app.events.sse(request, reply, source, options)
    return await app.events.sse(request, reply, 'news:*', options)
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  return { app, port, log, connect: async (headers: Record<string, string> = {}, path = '/events') => await connect(t, port, path, headers) }
}

/** A browser's side: what came so far. */
async function connect (t: Test, port: number, path: string, headers: Record<string, string>) {
  const asked = httpRequest({ port, host: '127.0.0.1', path, headers, agent: false })
  asked.end()
  const [response] = await once(asked, 'response') as [IncomingMessage]
  t.teardown(() => asked.destroy())
  const client = { response, status: response.statusCode, headers: response.headers, text: '', isOver: false, hangUp: () => { asked.destroy() } }
  response.setEncoding('utf8').on('data', (chunk: string) => { client.text += chunk })
  response.on('error', () => {})
  response.on('close', () => { client.isOver = true })
  return client
}

/** Parsed as the standard says, for what matters here. */
function parse (text: string): Array<Record<string, string>> {
  return text.split('\n\n').slice(0, -1).map(block => Object.fromEntries(block.split('\n').filter(line => !line.startsWith(':')).map(line => {
    const [field = '', value = ''] = line.split(/: ?(.*)/s)
    return [field, value]
  }))).filter(event => 'data' in event)
}

for (const hasRedis of [false, true]) {
  const where = hasRedis ? 'Redis' : 'memory'
  t.test(`${where}: what is published to a pattern arrives, in order, from the head of the answer on`, async t => {
    const { app, connect } = await start(t, { redis: hasRedis, options: { event: (_data, { channel }) => channel, retry: '2s' } })
    const client = await connect()
    t.equal(client.status, 200)
    t.match(client.headers, { 'content-type': 'text/event-stream', 'cache-control': 'no-store, no-transform', 'x-accel-buffering': 'no' })
    for (let i = 0; i < 100; i++) await app.events.publish('news:a', { i })
    await app.events.publish('other', 1)
    await app.events.publish('news:b', 'line\nbreak')
    await until('all arrived', () => parse(client.text).length === 101)
    t.ok(client.text.startsWith('retry: 2000\n\n'))
    const all = parse(client.text)
    t.strictSame(all.slice(0, 100), Array.from({ length: 100 }, (_, i) => ({ event: 'news:a', data: `{"i":${i}}` })))
    t.strictSame(all[100], { event: 'news:b', data: '"line\\nbreak"' })
  })
}

t.test('a stream is resumed after Last-Event-ID, or the query, and else begins now', async t => {
  const source = fakeStream<string>()
  const { connect } = await start(t, { source })
  source.append('1')
  source.append('2')
  const fresh = await connect()
  const resumed = await connect({ 'last-event-id': '1-0' })
  const byQuery = await connect({}, '/events?lastEventId=0-0')
  await until('all read', () => source.readers === 3)
  source.append('3')
  await until('all arrived', () => [fresh, resumed, byQuery].every(client => client.text.includes('"3"')))
  t.strictSame(parse(fresh.text), [{ id: '3-0', data: '"3"' }])
  t.strictSame(parse(resumed.text).map(({ id }) => id), ['2-0', '3-0'])
  t.strictSame(parse(byQuery.text).map(({ id }) => id), ['1-0', '2-0', '3-0'])
})

t.test('a Last-Event-ID that is none is answered 400, and nothing is read', async t => {
  const source = fakeStream<string>()
  const { connect } = await start(t, { source })
  for (const id of ['a b', 'é', 'x'.repeat(4097), 'bad']) {
    const client = await connect({ 'last-event-id': id })
    t.equal(client.status, 400, id.slice(0, 20))
    t.match(client.headers['content-type'], /json/)
  }
  t.equal((await connect({}, '/events?lastEventId=1&lastEventId=2')).status, 400)
  t.equal((await connect({}, '/events?lastEventId=1%0Adata:x')).status, 400)
  t.equal(source.readers, 0)
})

t.test('no text in an event can forge a field or another event', async t => {
  const evil = 'x\n\nevent: forged\r\ndata: forged\0'
  const source: SseSource<string> = {
    async * read () {
      yield { id: evil, key: undefined, data: evil, appendedAt: 0 }
      yield { id: '2-0', key: undefined, data: '\u2028\r', appendedAt: 0, gap: true }
      await new Promise(() => {})
    }
  }
  const { connect } = await start(t, { source, options: { event: () => evil } })
  const client = await connect()
  await until('both arrived', () => parse(client.text).length >= 3)
  const flat = 'x event: forged data: forged '
  t.strictSame(parse(client.text), [
    { id: flat, event: flat, data: JSON.stringify(evil) },
    { event: 'gap', data: '{}' },
    { id: '2-0', event: flat, data: JSON.stringify('\u2028\r') }])
})

t.test('a comment is sent while nothing happens', async t => {
  const { connect } = await start(t, { options: { heartbeat: 20 } })
  const client = await connect()
  await until('some came', () => client.text.split(': \n\n').length > 4)
  t.strictSame(parse(client.text), [])
})

t.test('map changes or leaves out events, and where it throws the others arrive', async t => {
  const log = collectLog()
  const map = (data: unknown) => {
    if (data === 'throw') throw new Error('map')
    return data === 'skip' ? undefined : `<${String(data)}>`
  }
  const { app, connect } = await start(t, { log, options: { map, event: 'news' } })
  const client = await connect()
  for (const data of ['a', 'skip', 'throw', 'b']) await app.events.publish('news:a', data)
  await until('both arrived', () => parse(client.text).length === 2)
  t.strictSame(parse(client.text), [{ event: 'news', data: '"<a>"' }, { event: 'news', data: '"<b>"' }])
  t.ok(log.lines.some(line => line['reason'] === 'map'))
})

t.test('100 clients that hang up leave no reader, no subscription and no connection', async t => {
  const source = fakeStream<number>()
  const { app, port } = await start(t, { source, redis: true })
  const live = Fastify()
  t.teardown(() => live.close())
  await live.register(redis, { url: server.url, prefix: 'hangup' })
  await live.register(events)
  live.get('/live', async (request, reply) => await live.events.sse(request, reply, 'news'))
  await live.listen({ port: 0, host: '127.0.0.1' })
  const livePort = (live.server.address() as AddressInfo).port
  const clients = await Promise.all(Array.from({ length: 100 }, async (_, i) =>
    i % 2 === 0 ? await connect(t, port, '/events', {}) : await connect(t, livePort, '/live', {})))
  await until('all read', () => source.readers === 50)
  t.same(await server.client().pubsub('NUMSUB', 'hangup:events:#news'), ['hangup:events:#news', 1])
  source.append(1)
  await live.events.publish('news', 1)
  await until('all heard', () => clients.every(({ text }) => text.includes('data: 1')))
  for (const { hangUp } of clients) hangUp()
  await until('nobody reads', () => source.readers === 0)
  await until('nobody listens', async () => (await server.client().pubsub('CHANNELS', 'hangup:*')).length === 0)
  for (const each of [app, live]) await until('no connection is left', () => new Promise(resolve => { each.server.getConnections((_error, count) => resolve(count === 0)) }))
})

t.test('a stream is read no faster than its client takes', async t => {
  const source = fakeStream<string>()
  const { connect } = await start(t, { source, options: { heartbeat: '1m' } })
  const slow = await connect()
  slow.response.pause()
  await until('it reads', () => source.readers === 1)
  const big = 'x'.repeat(100_000)
  const count = 300
  for (let i = 0; i < count; i++) source.append(big)
  let before = -1
  await until('reading rests', async () => {
    const rests = source.reads === before
    before = source.reads
    await new Promise(resolve => setTimeout(resolve, 50))
    return rests && source.reads > 0
  })
  t.ok(source.reads < count, `${source.reads} of ${count} were read`)
  slow.response.resume()
  await until('all arrives', () => parse(slow.text).length === count)
  t.strictSame(parse(slow.text).map(({ id }) => id), Array.from({ length: count }, (_, i) => `${i + 1}-0`))
})

t.test('a client that takes nothing is disconnected: of a stream at the heartbeat, of a pattern when its buffer is full', async t => {
  const source = fakeStream<string>()
  const log = collectLog()
  const stream = await start(t, { source, log, options: { heartbeat: 50 } })
  const pattern = await start(t, { log, options: { maxBuffer: 100_000 } })
  const big = 'x'.repeat(1_000_000)
  const clients = [await stream.connect(), await pattern.connect()]
  for (const { response } of clients) response.pause()
  await until('it reads', () => source.readers === 1)
  for (let i = 0; i < 30; i++) {
    source.append(big)
    await pattern.app.events.publish('news:a', big)
  }
  const dropped = () => log.lines.filter(line => String(line['msg']).includes('too slow')).length
  await until('both are dropped', () => dropped() >= 2)
  await until('nobody reads', () => source.readers === 0)
  for (const { response } of clients) response.resume()
  await until('they see it', () => clients.every(({ isOver }) => isOver))
  t.equal(dropped(), 2)
})

t.test('an event that is larger than the buffer arrives where nothing else waits', async t => {
  const source = fakeStream<string>()
  const { connect } = await start(t, { source, options: { maxBuffer: 16_384 } })
  const client = await connect()
  await until('it reads', () => source.readers === 1)
  for (let i = 0; i < 3; i++) source.append('x'.repeat(3_000_000))
  await until('all arrive', () => parse(client.text).length === 3)
  t.ok(client.text.length > 9_000_000)
})

t.test('when a stream fails the answer ends, so that the browser comes back', async t => {
  const source = fakeStream<string>()
  const { connect, log } = await start(t, { source })
  const client = await connect()
  source.append('last words')
  await until('it arrived', () => client.text.includes('last words'))
  source.fail()
  await until('it ended', () => client.isOver)
  t.ok(client.response.complete)
  t.equal(log.lines.filter(line => line['reason'] === 'the stream failed').length, 1)
  t.equal(log.lines.filter(line => Number(line['level']) >= 50).length, 0)
})

t.test('closing the app ends all answers at once', async t => {
  const source = fakeStream<string>()
  const { app, connect, log } = await start(t, { source })
  const clients = await Promise.all([connect(), connect()])
  await until('both read', () => source.readers === 2)
  const sinceAsked = stopwatch()
  await app.close()
  t.ok(sinceAsked() < 1000, `${sinceAsked()} ms`)
  await until('they see it', () => clients.every(({ isOver, response }) => isOver && response.complete))
  t.equal(source.readers, 0)
  t.equal(log.lines.filter(line => Number(line['level']) >= 40).length, 0)
})

t.test('closing the app does not wait for a client that takes nothing', async t => {
  const source = fakeStream<string>()
  const { app, connect } = await start(t, { source, options: { heartbeat: '1m' } })
  const client = await connect()
  client.response.pause()
  await until('it reads', () => source.readers === 1)
  for (let i = 0; i < 100; i++) source.append('x'.repeat(1_000_000))
  await until('reading rests', async () => {
    const before = source.reads
    await new Promise(resolve => setTimeout(resolve, 50))
    return before > 0 && source.reads === before
  })
  const sinceAsked = stopwatch()
  await app.close()
  t.ok(sinceAsked() < 3000, `${sinceAsked()} ms`)
  t.equal(source.readers, 0)
})

t.test('a HEAD request gets the head, and reads nothing', async t => {
  const source = fakeStream<string>()
  const { app } = await start(t, { source })
  app.server.unref()
  const { statusCode, headers } = await app.inject({ method: 'HEAD', url: '/events' })
  t.equal(statusCode, 200)
  t.equal(headers['content-type'], 'text/event-stream')
  t.equal(source.readers, 0)
})

t.test('without Redis a live answer is refused with 503, as JSON', async t => {
  const own = await startRedis()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: own.url })
  await app.register(events, { subscribeTimeout: 100 })
  app.get('/events', async (request, reply) => await app.events.sse(request, reply, 'news'))
  await own.kill()
  const { statusCode, headers, json } = await app.inject('/events')
  t.equal(statusCode, 503)
  t.match(headers['content-type'], /json/)
  t.notOk(headers['x-accel-buffering'])
  t.equal(json().code, 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE')
})

t.test('compress, etag, helmet, sessions, a cache and a rate limit beside it leave it as it is', async t => {
  const { app, connect } = await start(t, {
    redis: true,
    async before (app) {
      await app.register(compress, { global: true, threshold: 0 })
      await app.register(etag)
      await app.register(helmet)
      await app.register(session, { secret: 'only for this test, 32 characters' })
      await app.register(rateLimit, { max: 3, timeWindow: '1 minute' })
      await app.register(cache, { global: true, ttl: '1m' })
    }
  })
  const asked = { 'accept-encoding': 'gzip, br', accept: 'text/event-stream' }
  const clients = [await connect(asked), await connect(asked)]
  await app.events.publish('news:a', 1)
  await until('both hear', () => clients.every(({ text }) => parse(text).length === 1))
  for (const { headers } of clients) {
    t.equal(headers['content-encoding'], undefined)
    t.equal(headers['cache-control'], 'no-store, no-transform')
  }
  await connect(asked)
  t.equal((await connect(asked)).status, 429)
})

t.test('options that cannot be used are a coded error', async t => {
  for (const options of [{ heartbeat: 0 }, { retry: 'soon' }, { maxBuffer: 16_383 }, { beat: 1 }, { map: 1 }, { event: 1 }]) {
    const app = Fastify()
    await app.register(events)
    app.get('/', async (request, reply) => await app.events.sse(request, reply, 'x', options as SseOptions<unknown>))
    t.equal((await app.inject('/')).json().code, 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION')
    await app.close()
  }
})
