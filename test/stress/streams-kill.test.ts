import t from 'tap'
import { createTestApp, sharedRedis, until } from '../helpers/index.js'
import { judge, linesOf, startInstance } from '../helpers/events/stream-children.js'
import { upTo } from '../helpers/events/streams.js'

const server = await sharedRedis()
const TOTAL = 10_000
const KEYS = 100
const PARTITIONS = 4
const CONCURRENCY = 16
const INSTANCES = 3
const KILLS = 5

t.test(`${INSTANCES} processes that are killed at random lose none of ${TOTAL} events, keep the order of each key, and handle no more twice than were in flight`, async t => {
  const file = `${t.testdir({ handled: '' })}/handled`
  const { app, prefix } = await createTestApp(t, { store: 'redis', clock: 'real', plugins: { events: { timeout: '10s' } } })
  const stream = app.events.stream<number>('orders', { partitions: PARTITIONS })
  const round = () => startInstance(t, server, prefix, file, PARTITIONS, CONCURRENCY)
  const children = upTo(INSTANCES).map(round)
  await Promise.all(children)
  const appending = (async () => {
    for (const value of upTo(TOTAL / KEYS)) await Promise.all(upTo(KEYS).map(key => stream.append(value, { key: `k${key}` })))
  })()
  for (let kill = 1; kill <= KILLS; kill++) {
    await until('events are handled', () => linesOf(file).length >= TOTAL / (KILLS + 1) * kill, 30_000)
    const victim = Math.floor(Math.random() * INSTANCES)
    const child = await children[victim]
    child?.kill('SIGKILL')
    children[victim] = round()
  }
  await Promise.all([appending, ...children])
  await until('all events are handled', async () => {
    const { lag, pending } = (await stream.stats()).groups['mail'] ?? {}
    return lag === 0 && pending === 0
  }, 40_000)
  const { events, duplicates, outOfOrder } = judge(linesOf(file))
  t.equal(TOTAL - events, 0, 'no event is lost')
  t.equal(outOfOrder, 0, 'no event is out of order')
  t.ok(duplicates <= KILLS * CONCURRENCY, `${duplicates} events were handled twice`)
  t.match((await stream.stats()).groups, { mail: { deadLetters: 0, lost: 0 } })
  t.comment(`${events} events, ${duplicates} twice, ${KILLS} kills`)
})
