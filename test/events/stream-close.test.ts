import t from 'tap'
import { startRedis, until } from '../helpers/index.js'
import { createHandler, startStreams } from '../helpers/events/streams.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()

t.test('closing ends in some seconds when a handler does not, tells it so, and lets others take over at once', async t => {
  const { app, streams } = await startStreams(t, server.client(), 'stuck')
  const stream = streams.stream<number>('orders')
  let isTold = false
  await stream.consume({
    group: 'mail',
    handler: async (_event, { signal }) => {
      signal.addEventListener('abort', () => { isTold = true })
      await new Promise(() => {})
    }
  })
  await stream.append(1)
  await until('it is at hand', async () => (await stream.stats()).groups['mail']?.pending === 1)
  const sinceAsked = stopwatch()
  await app.close()
  t.ok(sinceAsked() < 6000)
  t.ok(isTold)
  const { streams: others } = await startStreams(t, server.client(), 'stuck')
  const source = createHandler<number>()
  await others.stream<number>('orders').consume({ group: 'mail', handler: source.handler })
  const sinceClosed = stopwatch()
  await until('it is given again', () => source.handled.length === 1)
  t.ok(sinceClosed() < 300, 'without waiting for the lease to end')
  t.equal(source.given[0]?.attempt, 2)
})
