import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { SseOptions } from '../../plugins/events/index.js'
import { advanceUntil, createTestApp, forEachStore, type TestApp } from '../helpers/index.js'

/** A client that reads server-sent events. */
async function read (app: FastifyInstance): Promise<{ text: () => string, isOver: () => boolean }> {
  const body = (await app.inject({ url: '/events', payloadAsStream: true })).stream().setEncoding('utf8')
  let text = ''
  let isOver = false
  body.on('data', (chunk: string) => { text += chunk }).on('close', () => { isOver = true })
  return { text: () => text, isOver: () => isOver }
}

async function start (t: Test, store: 'memory' | 'redis', source: 'channel' | 'stream', options: SseOptions<number>): Promise<TestApp> {
  return await createTestApp(t, {
    store,
    plugins: { events: {} },
    routes: app => app.get('/events', async (request, reply) => source === 'channel'
      ? await app.events.sse(request, reply, 'news', options as SseOptions<unknown>)
      : await app.events.sse(request, reply, app.events.stream<number>('news'), options))
  })
}

const dataOf = (text: string) => [...text.matchAll(/^data: (.*)$/gm)].map(([, data]) => Number(data))

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
      // A stream is read from where it ends when the server is asked, which these replies come after.
      if (source === 'stream') await app.events.stream('news').stats()
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
