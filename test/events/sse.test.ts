import { once } from 'node:events'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Writable } from 'node:stream'
import { setImmediate as turn } from 'node:timers/promises'
import compress from '@fastify/compress'
import etag from '@fastify/etag'
import helmet from '@fastify/helmet'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache } from '../../plugins/cache/index.js'
import type { SseOptions, SseSource, StreamEvent } from '../../plugins/events/index.js'
import { SseStream } from '../../plugins/events/sse/sse-stream.js'
import { rateLimit } from '../../plugins/rate-limit/index.js'
import { session } from '../../plugins/session/index.js'
import { createTestClock } from '../../plugins/testing/index.js'
import { advanceUntil, advanceWhile, createTestApp, forEachStore, SECRET, sharedRedis, startRedis, until, type StoreName, type TestApp, type TestAppOptions } from '../helpers/index.js'
import { startProxy } from '../../tools/servers/proxy.js'

interface Fake<T> extends SseSource<T> {
  append (data: T): void
  fail (): void
  readers: number
  reads: number
}

/** A stream in memory, with ids as Redis has them. */
function fakeStream<T> (): Fake<T> {
  const all: Array<StreamEvent<T>> = []
  const wakes = new Set<() => void>()
  let hasFailed = false
  const fake: Fake<T> = {
    readers: 0,
    reads: 0,
    append (data) {
      all.push({ id: `${all.length + 1}-0`, key: undefined, data, appendedAt: 0 })
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
  store?: StoreName
  before?: (app: FastifyInstance) => unknown
}

/** An app with `/events`, listening. */
async function start<T> (t: Test, { source, options, store = 'memory', before = () => {} }: Setting<T> = {}) {
  const made = await createTestApp(t, {
    store,
    before,
    plugins: { events: {} },
    routes: app => app.get('/events', async (request, reply) => source
      ? await app.events.sse(request, reply, source, options)
      : await app.events.sse(request, reply, 'news:*', options))
  })
  await made.app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = made.app.server.address() as AddressInfo
  const logged = (text: string) => made.lines.filter(({ msg }) => String(msg).includes(text)).length
  return { ...made, logged, connect: async (headers: Record<string, string> = {}, path = '/events') => await connect(t, port, path, headers) }
}

/** Waits until a stream is read no further, because its client stopped reading. */
async function untilReadingRests (source: Fake<unknown>): Promise<void> {
  let before = -1
  let rested = 0
  await until('reading rests', () => {
    rested = source.reads === before ? rested + 1 : 0
    before = source.reads
    return source.reads > 0 && rested === 3
  })
}

/** The browser's end, with the text that has arrived. */
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

/** Parses the events as the standard defines it, as far as the tests need. */
function parse (text: string): Array<Record<string, string>> {
  return text.split('\n\n').slice(0, -1).map(block => Object.fromEntries(block.split('\n').filter(line => !line.startsWith(':')).map(line => {
    const [field = '', value = ''] = line.split(/: ?(.*)/s)
    return [field, value]
  }))).filter(event => 'data' in event)
}

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: what is published to a pattern arrives in order, once the head of the response has arrived`, async t => {
    const { app, connect } = await start(t, { store, options: { event: (_data, { channel }) => channel, retry: '2s' } })
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
})

t.test('a stream is resumed after Last-Event-ID, or the id in the query, and otherwise begins now', async t => {
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

t.test('an invalid Last-Event-ID is refused with 400, and nothing is read', async t => {
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

forEachStore(['memory', 'redis'], store => {
  t.test(`${store}: a Last-Event-ID that is no id of a stream is INVALID_LAST_EVENT_ID, and the response does not name the stream`, async t => {
    const { app } = await createTestApp(t, {
      store,
      plugins: { events: {} },
      routes (app) {
        for (const partitions of [1, 3]) {
          app.get(`/${partitions}`, async (request, reply) => await app.events.sse(request, reply, app.events.stream(`secret-${partitions}`, { partitions })))
        }
      }
    })
    for (const url of ['/1', '/3']) {
      for (const id of ['x', '-1', '1-', '1-2-3', '1-2.x', '1-2_1-2', '1-2@9', '99999999999999999-1', '1-99999999999999999999999', 'a b', '__proto__']) {
        const response = await app.inject({ url, headers: { 'last-event-id': id } })
        t.match([response.statusCode, response.json().code], [400, 'FST_REDIS_SUITE_EVENTS_INVALID_LAST_EVENT_ID'], `${url} ${id}`)
        t.notMatch(response.body, 'secret')
      }
    }
  })
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

t.test('a comment is sent with each heartbeat', async t => {
  const { connect, clock } = await start(t, { options: { heartbeat: '15s' } })
  const client = await connect()
  const comments = () => client.text.split(': \n\n').length - 1
  await until('the first one is sent with the head', () => comments() === 1)
  await clock.advance('14s')
  t.equal(comments(), 1)
  for (let beat = 1; beat <= 3; beat++) {
    await clock.advance(beat === 1 ? '1s' : '15s')
    await until(`comment ${beat} arrives`, () => comments() === 1 + beat)
  }
  t.equal(client.text, ': \n\n'.repeat(4))
})

t.test('a client is not disconnected while hooks delay the head of its response for longer than the heartbeat', async t => {
  let open = (): void => {}
  const gate = new Promise<void>(resolve => { open = resolve })
  let isHeld = false
  const { app, clock, connect, logged } = await start(t, {
    options: { heartbeat: '1s' },
    before: app => app.addHook('onSend', async () => { isHeld = true; await gate })
  })
  const connecting = connect()
  await until('the head is held up', () => isHeld)
  await clock.advance('5s')
  open()
  const client = await connecting
  t.equal(client.status, 200)
  await app.events.publish('news:a', 1)
  await until('the message arrives', () => parse(client.text).length === 1)
  t.strictSame(parse(client.text), [{ data: '1' }])
  t.equal(logged('too slow'), 0)
})

for (const takes of [true, false]) {
  t.test(`after a stall of this process a client that ${takes ? 'reads its buffered events is not' : 'reads nothing is'} disconnected`, async t => {
    const clock = createTestClock()
    let done = (): void => {}
    const sink = new Writable({ highWaterMark: 1, write (_chunk, _encoding, callback) { done = callback } })
    let slow = 0
    // As after a stall: the timer of the second heartbeat fires first, and then the event loop finds that the socket has room.
    let beats = 0
    const beat = (callback: () => void) => {
      callback()
      if (++beats === 2 && takes) done()
    }
    const late = { ...clock, setInterval: (callback: () => void, ms: number) => clock.setInterval(() => beat(callback), ms) }
    const stream = new SseStream({ heartbeat: 1000, maxBuffer: 100_000, onSlow: () => { slow++ }, cut: () => {}, clock: late })
    stream.begin()
    stream.pipe(sink)
    for (const text of ['1', '2', '3']) {
      stream.write(text)
      await turn()
    }
    await clock.advance(1000)
    t.equal(slow, 0)
    await clock.advance(1000)
    t.equal(slow, takes ? 0 : 1)
    t.equal(stream.destroyed, !takes)
    stream.destroy()
  })
}

t.test('map changes or skips events, and if it throws the others arrive', async t => {
  const map = (data: unknown) => {
    if (data === 'throw') throw new Error('map')
    return data === 'skip' ? undefined : `<${String(data)}>`
  }
  const { app, connect, lines } = await start(t, { options: { map, event: 'news' } })
  const client = await connect()
  for (const data of ['a', 'skip', 'throw', 'b']) await app.events.publish('news:a', data)
  await until('both arrived', () => parse(client.text).length === 2)
  t.strictSame(parse(client.text), [{ event: 'news', data: '"<a>"' }, { event: 'news', data: '"<b>"' }])
  t.match(lines.filter(line => line['reason'] === 'map'), [{ level: 50, channel: 'news:a' }])
})

t.test('100 clients that hang up leave no reader, no subscription and no connection', async t => {
  const source = fakeStream<number>()
  const read = await start(t, { source })
  const live = await start(t, { store: 'redis' })
  const redis = (await sharedRedis()).client()
  const channel = `${live.prefix}:events:#news:*`
  const clients = await Promise.all(Array.from({ length: 100 }, async (_, i) => await (i % 2 === 0 ? read : live).connect()))
  await until('all read', () => source.readers === 50)
  t.equal(await redis.pubsub('NUMPAT'), 1)
  source.append(1)
  await live.app.events.publish('news:a', 1)
  await until('all hear', () => clients.every(({ text }) => text.includes('data: 1')))
  t.same(clients.map(({ text }) => parse(text).length), clients.map(() => 1))
  for (const { hangUp } of clients) hangUp()
  const left = async () => ({
    readers: source.readers,
    patterns: await redis.pubsub('NUMPAT'),
    connections: await Promise.all([read, live].map(({ app }) => new Promise(resolve => { app.server.getConnections((_error, count) => resolve(count)) })))
  })
  const none = { readers: 0, patterns: 0, connections: [0, 0] }
  await until('nothing is left', async () => JSON.stringify(await left()) === JSON.stringify(none)).catch(() => {})
  t.strictSame(await left(), none, channel)
})

t.test('a stream is read no faster than its client reads', async t => {
  const source = fakeStream<string>()
  const { connect } = await start(t, { source })
  const slow = await connect()
  slow.response.pause()
  await until('it reads', () => source.readers === 1)
  const count = 300
  for (let i = 0; i < count; i++) source.append('x'.repeat(100_000))
  await untilReadingRests(source)
  t.ok(source.reads < count, `${source.reads} of ${count} were read`)
  slow.response.resume()
  await until('all arrives', () => parse(slow.text).length === count)
  t.strictSame(parse(slow.text).map(({ id }) => id), Array.from({ length: count }, (_, i) => `${i + 1}-0`))
})

t.test('a client of a stream that reads nothing between two heartbeats is disconnected', async t => {
  const source = fakeStream<string>()
  const { connect, clock, logged } = await start(t, { source, options: { heartbeat: '15s' } })
  const client = await connect()
  client.response.pause()
  await until('it reads', () => source.readers === 1)
  for (let i = 0; i < 30; i++) source.append('x'.repeat(1_000_000))
  await untilReadingRests(source)
  await clock.advance('15s')
  t.equal(logged('too slow'), 0, 'before the first heartbeat it took something')
  await advanceUntil(clock, 'it is disconnected', () => logged('too slow') === 1, { step: 15_000, atMost: 60_000 })
  await until('the stream has no reader', () => source.readers === 0)
  client.response.resume()
  await until('it sees the end', () => client.isOver)
  t.notOk(client.response.complete)
  t.equal(logged('too slow'), 1)
})

t.test('a client of a pattern that reads nothing is disconnected when its buffer is full', async t => {
  const { app, connect, logged } = await start(t, { options: { maxBuffer: 100_000 } })
  const client = await connect()
  client.response.pause()
  for (let i = 0; i < 30; i++) await app.events.publish('news:a', 'x'.repeat(1_000_000))
  await until('it is disconnected', () => logged('too slow') === 1)
  client.response.resume()
  await until('it sees the end', () => client.isOver)
  t.notOk(client.response.complete)
  t.equal(logged('too slow'), 1)
})

t.test('an event that is larger than the buffer arrives when nothing else is buffered', async t => {
  const source = fakeStream<string>()
  const { connect } = await start(t, { source, options: { maxBuffer: 16_384 } })
  const client = await connect()
  await until('it reads', () => source.readers === 1)
  for (let i = 0; i < 3; i++) source.append('x'.repeat(3_000_000))
  await until('all arrive', () => parse(client.text).length === 3)
  t.same(parse(client.text).map(({ data = '' }) => data.length), [3_000_002, 3_000_002, 3_000_002])
})

t.test('the response ends when its stream fails, so that the browser reconnects', async t => {
  const source = fakeStream<string>()
  const { connect, lines } = await start(t, { source })
  const client = await connect()
  source.append('last words')
  await until('it arrived', () => client.text.includes('last words'))
  source.fail()
  await until('it ended', () => client.isOver)
  t.ok(client.response.complete)
  t.equal(lines.filter(line => line['reason'] === 'the stream failed').length, 1)
  t.same(lines.filter(line => Number(line['level']) >= 50), [])
})

t.test('closing the app ends all responses at once', async t => {
  const source = fakeStream<string>()
  const { app, connect, warnings } = await start(t, { source })
  const clients = await Promise.all([connect(), connect()])
  await until('both read', () => source.readers === 2)
  let isClosed = false
  app.close().then(() => { isClosed = true })
  // The clock stands still: nothing waits for a timer.
  await until('the app is closed', () => isClosed)
  await until('both clients see the end', () => clients.every(({ isOver }) => isOver))
  t.same(clients.map(({ response }) => response.complete), [true, true])
  t.equal(source.readers, 0)
  t.same(warnings(), [])
})

t.test('closing the app waits a second at most for a client that reads nothing', async t => {
  const source = fakeStream<string>()
  const { app, connect, clock } = await start(t, { source })
  const client = await connect()
  client.response.pause()
  await until('it reads', () => source.readers === 1)
  for (let i = 0; i < 100; i++) source.append('x'.repeat(1_000_000))
  await untilReadingRests(source)
  let isClosed = false
  app.close().then(() => { isClosed = true })
  await until('reading ends', () => source.readers === 0)
  await clock.advance(999)
  t.notOk(isClosed)
  await clock.advance(1)
  await until('the app is closed', () => isClosed)
  t.equal(source.readers, 0)
})

t.test('a HEAD request gets the headers, and nothing is read', async t => {
  const source = fakeStream<string>()
  const { app } = await start(t, { source })
  app.server.unref()
  const { statusCode, headers } = await app.inject({ method: 'HEAD', url: '/events' })
  t.equal(statusCode, 200)
  t.equal(headers['content-type'], 'text/event-stream')
  t.equal(source.readers, 0)
})

t.test('a response of a pattern is refused with 503 and JSON while Redis is down', async t => {
  const server = await startRedis()
  const { app, clock } = await createTestApp(t, {
    store: server,
    plugins: { events: { subscribeTimeout: 100 } },
    routes: app => app.get('/events', async (request, reply) => await app.events.sse(request, reply, 'news'))
  })
  await server.kill()
  const { value: { statusCode, headers, json }, passed } = await advanceWhile(clock, app.inject('/events'))
  t.equal(statusCode, 503)
  t.ok(passed <= 110, `${passed} ms`)
  t.match(headers['content-type'], /json/)
  t.notOk(headers['x-accel-buffering'])
  t.equal(json().code, 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE')
})

t.test('compress, etag, helmet, sessions, a cache and a rate limit leave the events and their headers as they are', async t => {
  const { app, connect } = await start(t, {
    store: 'redis',
    async before (app) {
      await app.register(compress, { global: true, threshold: 0 })
      await app.register(etag)
      await app.register(helmet)
      await app.register(session, { secret: SECRET })
      await app.register(rateLimit, { max: 3, timeWindow: '1 minute' })
      await app.register(cache, { global: true, ttl: '1m' })
    }
  })
  const asked = { 'accept-encoding': 'gzip, br', accept: 'text/event-stream' }
  const clients = [await connect(asked), await connect(asked)]
  await app.events.publish('news:a', 1)
  await until('both hear', () => clients.every(({ text }) => parse(text).length === 1))
  t.same(clients.map(({ headers }) => [headers['content-encoding'], headers['cache-control']]), clients.map(() => [undefined, 'no-store, no-transform']))
  await connect(asked)
  t.equal((await connect(asked)).status, 429)
})

t.test('invalid options are refused with a coded error', async t => {
  const all = [{ heartbeat: 0 }, { retry: 'soon' }, { maxBuffer: 16_383 }, { beat: 1 }, { map: 1 }, { event: 1 }]
  const { app } = await createTestApp(t, {
    plugins: { events: {} },
    routes (app) {
      for (const [i, options] of all.entries()) app.get(`/${i}`, async (request, reply) => await app.events.sse(request, reply, 'x', options as SseOptions<unknown>))
    }
  })
  const codes = await Promise.all(all.map(async (_, i) => (await app.inject(`/${i}`)).json().code))
  t.same(codes, all.map(() => 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION'))
})

/** A client that reads server-sent events. */
async function read (app: FastifyInstance): Promise<{ text: () => string, isOver: () => boolean }> {
  const body = (await app.inject({ url: '/events', payloadAsStream: true })).stream().setEncoding('utf8')
  let text = ''
  let isOver = false
  body.on('data', (chunk: string) => { text += chunk }).on('close', () => { isOver = true })
  return { text: () => text, isOver: () => isOver }
}

async function startSource (t: Test, store: NonNullable<TestAppOptions['store']>, source: 'channel' | 'stream', options: SseOptions<number>): Promise<TestApp> {
  return await createTestApp(t, {
    store,
    plugins: { events: {} },
    routes: app => app.get('/events', async (request, reply) => source === 'channel'
      ? await app.events.sse(request, reply, 'news', options as SseOptions<unknown>)
      : await app.events.sse(request, reply, app.events.stream<number>('news'), options))
  })
}

const dataOf = (text: string) => [...text.matchAll(/^data: (\d+)$/gm)].map(([, data]) => Number(data))

forEachStore(['memory', 'redis'], store => {
  for (const source of ['channel', 'stream'] as const) {
    t.test(`${store}: events of a ${source} keep their order, whatever time an async map or event takes, and one that is mapped to undefined is skipped`, async t => {
      const { app, clock } = await startSource(t, store, source, {
        event: async data => `type-${data}`,
        async map (data) {
          for (let turn = data % 3; turn > 0; turn--) await new Promise(resolve => setImmediate(resolve))
          return data === 5 ? undefined : data
        }
      })
      const { text } = await read(app)
      const publish = async (data: number) => source === 'channel' ? await app.events.publish('news', data) : await app.events.stream<number>('news').append(data)
      for (let data = 1; data <= 10; data++) await publish(data)
      await advanceUntil(clock, 'the last event comes', () => text().includes('data: 10'))
      t.same(dataOf(text()), [1, 2, 3, 4, 6, 7, 8, 9, 10])
      t.match(text(), /event: type-10\ndata: 10\n/)
    })
  }

  t.test(`${store}: a response whose map does not settle is ended when 1,000 events wait for it, and the log has the reason`, async t => {
    const { app, clock, warnings } = await startSource(t, store, 'channel', { map: async () => await new Promise(() => {}) })
    const { isOver } = await read(app)
    for (let data = 0; data <= 1000; data++) await app.events.publish('news', data)
    await advanceUntil(clock, 'the response is over', isOver)
    t.match(warnings(), ['events: a response was ended, as 1000 events wait for `map` or `event`'])
  })
})

/** An app whose connection to Redis can be delayed, and another one that appends to the stream. */
async function startBehindProxy (t: Test) {
  const proxy = await startProxy(Number(new URL((await sharedRedis()).url).port))
  t.teardown(() => proxy.stop())
  const store = { url: `redis://127.0.0.1:${proxy.port}`, answers: true }
  const made = await startSource(t, store, 'stream', {})
  const { app } = await createTestApp(t, { store: 'redis', prefix: made.prefix, clock: made.clock, plugins: { events: { timeout: '1h' } } })
  const hold = (isHeld: boolean) => {
    proxy.blackhole(isHeld)
    store.answers = !isHeld
  }
  return { ...made, hold, append: async (data: number) => await app.events.stream<number>('news').append(data) }
}

t.test('what is appended to a stream after the client has the head of the response arrives, however late Redis receives the read', async t => {
  const { app, clock, hold, append } = await startBehindProxy(t)
  await app.redis.ping()
  hold(true)
  const head = { hasArrived: false }
  const reading = read(app).finally(() => { head.hasArrived = true })
  for (let turn = 0; turn < 100 && !head.hasArrived; turn++) await new Promise(resolve => setImmediate(resolve))
  if (!head.hasArrived) hold(false)
  const { text } = await reading
  await append(1)
  hold(false)
  await advanceUntil(clock, 'the event comes', () => text().includes('data: 1'))
  t.same(dataOf(text()), [1])
})

t.test('while Redis does not reply a stream is still opened, and a gap precedes its first event', async t => {
  const { app, clock, hold, append } = await startBehindProxy(t)
  await app.redis.ping()
  hold(true)
  const { value: { text } } = await advanceWhile(clock, read(app))
  await append(1)
  hold(false)
  let appended = 1
  await advanceUntil(clock, 'an event comes', async () => { await append(++appended); return dataOf(text()).length > 0 }, { step: 100 })
  t.match(text(), /event: gap\ndata: \{\}\n\nid: \S+\ndata: /)
})
