import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { SseOptions } from '../../plugins/events/index.js'
import { advanceUntil, advanceWhile, createTestApp, forEachStore, sharedRedis, type TestApp, type TestAppOptions } from '../helpers/index.js'
import { startProxy } from '../helpers/servers/proxy.js'

/** A client that reads server-sent events. */
async function read (app: FastifyInstance): Promise<{ text: () => string, isOver: () => boolean }> {
  const body = (await app.inject({ url: '/events', payloadAsStream: true })).stream().setEncoding('utf8')
  let text = ''
  let isOver = false
  body.on('data', (chunk: string) => { text += chunk }).on('close', () => { isOver = true })
  return { text: () => text, isOver: () => isOver }
}

async function start (t: Test, store: NonNullable<TestAppOptions['store']>, source: 'channel' | 'stream', options: SseOptions<number>): Promise<TestApp> {
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
    t.test(`${store}: events of a ${source} keep their order, whatever time an async map or event takes, and one that is mapped to undefined is left out`, async t => {
      const { app, clock } = await start(t, store, source, {
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

  t.test(`${store}: a response whose map does not settle is ended when 1,000 events wait for it, and the log says why`, async t => {
    const { app, clock, warnings } = await start(t, store, 'channel', { map: async () => await new Promise(() => {}) })
    const { isOver } = await read(app)
    for (let data = 0; data <= 1000; data++) await app.events.publish('news', data)
    await advanceUntil(clock, 'the response is over', isOver)
    t.match(warnings(), ['events: a response was ended, as 1000 events wait for `map` or `event`'])
  })
})

/** An app whose connection to Redis can be held up, and another one that appends to the stream. */
async function startBehindProxy (t: Test) {
  const proxy = await startProxy(Number(new URL((await sharedRedis()).url).port))
  t.teardown(() => proxy.stop())
  const made = await start(t, { url: `redis://127.0.0.1:${proxy.port}`, answers: false }, 'stream', {})
  const { app } = await createTestApp(t, { store: 'redis', prefix: made.prefix, clock: made.clock, plugins: { events: { timeout: '1h' } } })
  return { ...made, proxy, append: async (data: number) => await app.events.stream<number>('news').append(data) }
}

t.test('what is appended to a stream after the client has the head of the response arrives, however late Redis is asked', async t => {
  const { app, clock, proxy, append } = await startBehindProxy(t)
  await app.redis.ping()
  proxy.blackhole(true)
  const head = { hasArrived: false }
  const reading = read(app).finally(() => { head.hasArrived = true })
  for (let turn = 0; turn < 100 && !head.hasArrived; turn++) await new Promise(resolve => setImmediate(resolve))
  if (!head.hasArrived) proxy.blackhole(false)
  const { text } = await reading
  await append(1)
  proxy.blackhole(false)
  await advanceUntil(clock, 'the event comes', () => text().includes('data: 1'), { atMost: 5000 })
  t.same(dataOf(text()), [1])
})

t.test('while Redis does not answer a stream is opened all the same, and its first event is preceded by a gap', async t => {
  const { app, clock, proxy, append } = await startBehindProxy(t)
  await app.redis.ping()
  proxy.blackhole(true)
  const { value: { text } } = await advanceWhile(clock, read(app))
  await append(1)
  proxy.blackhole(false)
  let appended = 1
  await advanceUntil(clock, 'an event comes', async () => { await append(++appended); return dataOf(text()).length > 0 }, { step: 100 })
  t.match(text(), /event: gap\ndata: \{\}\n\nid: \S+\ndata: /)
})
