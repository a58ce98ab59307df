import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createTestApp, startRedis, until } from '../helpers/index.js'
import { startHeartbeat, type Heartbeat } from '../helpers/timing/heartbeat.js'

const TIMEOUT_MS = 100
const SUBSCRIBE_TIMEOUT_MS = 200
// How much longer than its deadline a call may take.
const SLACK_MS = 100
const UNAVAILABLE = { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 }
const events = { timeout: TIMEOUT_MS, subscribeTimeout: SUBSCRIBE_TIMEOUT_MS }

for (const fault of ['hangs', 'is gone'] as const) {
  t.test(`while Redis ${fault} publish, subscribe and append fail within their deadlines, and work within 3 s after it is back`, async t => {
    const { span } = await startHeartbeat(t)
    const server = await startRedis()
    const { app } = await createTestApp(t, { store: server, clock: 'real', plugins: { events } })
    const stream = app.events.stream<number>('orders')
    let heard = 0
    await app.events.subscribe('x', () => { heard++ })
    await stream.append(1)
    if (fault === 'hangs') server.pause()
    else await server.kill()
    await fails(t, span, 'publish', TIMEOUT_MS, () => app.events.publish('x', 1))
    await fails(t, span, 'subscribe', SUBSCRIBE_TIMEOUT_MS, async () => { await app.events.subscribe('y', () => {}) })
    await fails(t, span, 'append', TIMEOUT_MS, async () => { await stream.append(2) })
    if (fault === 'hangs') server.resume()
    else await server.restart()
    const recovery = span()
    await until('a message is heard', async () => { await app.events.publish('x', 1); return heard > 0 })
    await until('an event is appended', async () => { await stream.append(3); return true })
    await recovery.within(3000, 'recovery')
  })
}

async function fails (t: Test, span: Heartbeat['span'], what: string, deadline: number, call: () => Promise<void>): Promise<void> {
  const { within } = span()
  await t.rejects(call(), UNAVAILABLE)
  await within(deadline + SLACK_MS, what)
}

for (const store of ['memory', 'redis', 'cluster'] as const) {
  t.test(`${store}: an event is read and handled within 100 ms after it is appended, and not at the next poll`, async t => {
    const { span } = await startHeartbeat(t)
    const { app } = await createTestApp(t, { store, clock: 'real', plugins: { events: { timeout: '10s' } } })
    const stream = app.events.stream<number>('orders')
    const read: number[] = []
    const handled: number[] = []
    const consumer = await stream.consume({ group: 'mail', handler: ({ data }) => { handled.push(data) } })
    const reading = async () => { for await (const { data } of stream.read()) read.push(data) }
    reading().catch(error => t.error(error))
    await until('the consumer owns the partition', () => consumer.owned === 1)
    await stream.append(-1)
    await until('the first event is read and handled', () => read.length === 1 && handled.length === 1)
    for (let value = 0; value < 5; value++) {
      const { within } = span()
      await stream.append(value)
      for (let i = 0; i < 100_000 && (read.at(-1) !== value || handled.at(-1) !== value); i++) await turn()
      await within(100, `event ${value}`)
    }
    t.same(read, [-1, 0, 1, 2, 3, 4])
    t.same(handled, [-1, 0, 1, 2, 3, 4])
  })
}

t.test('closing the app with open responses and consumers takes less than a second', async t => {
  const { span } = await startHeartbeat(t)
  const { app } = await createTestApp(t, {
    store: 'redis',
    clock: 'real',
    plugins: { events: {} },
    routes: app => app.get('/events', async (request, reply) => await app.events.sse(request, reply, 'news'))
  })
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  const consumer = await app.events.stream('orders').consume({ group: 'mail', handler: () => {} })
  await until('the consumer owns the partition', () => consumer.owned === 1)
  const responses = await Promise.all([1, 2, 3].map(() => fetch(`${url}/events`)))
  const texts = responses.map(response => response.text())
  const { within } = span()
  await app.close()
  await within(1000, 'close')
  t.same(await Promise.all(texts), texts.map(() => ': \n\n'))
})
