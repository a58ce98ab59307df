import t from 'tap'
import { createTestApp, sharedRedis, until } from '../helpers/index.js'
import { judge, linesOf, startInstance } from '../helpers/events/stream-children.js'
import { upTo } from '../helpers/events/streams.js'

const server = await sharedRedis()

t.test('an event that ends its process each time becomes a dead letter, and none that was in flight beside it does', async t => {
  const file = `${t.testdir({ handled: '' })}/handled`
  const { app, prefix } = await createTestApp(t, { store: 'redis', clock: 'real', plugins: { events: { timeout: '10s' } } })
  const stream = app.events.stream<number | string>('orders', { partitions: 2 })
  const keys = upTo(20).map(key => `k${key}`)
  await Promise.all(keys.map(key => stream.append(0, { key })))
  await stream.append('poison', { key: 'bad' })
  await Promise.all(keys.map(key => stream.append(1, { key })))
  // An event that was in flight when its process ended is handled again, so that lines are not events.
  const isDone = () => judge(linesOf(file)).events >= 40
  let isOver = false
  let starts = 0
  while (!isOver && starts < 10) {
    starts++
    const child = await startInstance(t, server, prefix, file, 2, 8).catch(() => undefined)
    await until('it was killed, or all is done', async () => {
      isOver = isDone() && (await stream.stats()).groups['mail']?.deadLetters === 1
      return isOver || child === undefined || child.signalCode !== null
    }, 20_000)
  }
  t.ok(isOver, `after ${starts} starts all is done`)
  t.match(await stream.deadLetters('mail').list(), [{ data: 'poison', attempts: 3 }])
  t.equal(judge(linesOf(file)).events, 40)
})

t.test('events of a paused process are handled by another, and the paused one takes nothing back when it resumes', async t => {
  const file = `${t.testdir({ handled: '' })}/handled`
  const { app, prefix } = await createTestApp(t, { store: 'redis', clock: 'real', plugins: { events: { timeout: '10s' } } })
  const stream = app.events.stream<number>('orders')
  const paused = await startInstance(t, server, prefix, file, 1, 4)
  for (const value of upTo(100)) await stream.append(value, { key: `k${value % 4}` })
  await until('it handles them', () => linesOf(file).length > 20)
  paused.kill('SIGSTOP')
  await startInstance(t, server, prefix, file, 1, 4)
  const isDone = async () => {
    const { lag, pending } = (await stream.stats()).groups['mail'] ?? {}
    return lag === 0 && pending === 0
  }
  await until('the other has done the rest', isDone)
  paused.kill('SIGCONT')
  await stream.append(100, { key: 'k0' })
  await until('the event that came after is handled', async () => await isDone() && linesOf(file).some(([, data]) => data === '100'))
  const values = linesOf(file).map(([, data]) => data)
  t.equal(new Set(values).size, 101, 'no event is lost')
  t.ok(values.length - 101 <= 4, `${values.length - 101} events were handled twice; at most the 4 in flight may be`)
})
