import t, { type Test } from 'tap'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { advanceUntil, newPrefix, until } from '../helpers/index.js'
import { createProcessClock } from '../helpers/events/process-clock.js'
import { judge } from '../helpers/events/stream-children.js'
import { advanceUntilDone, createGate, createTestStreams, LEASE_MS, startConsumer, upTo } from '../helpers/events/streams.js'

interface Instance {
  /** As SIGKILL does: no timer fires, no command is sent, and no handler goes on. */
  kill (): void
  stall (): void
  resume (): void
}

interface Setting<T> {
  partitions: number
  concurrency: number
  handler: (event: { key: string | undefined, data: T }, attempt: number, self: Instance) => Promise<void>
}

/** An app with a consumer of the group `mail`, which a test can kill or stall; they share the server, the prefix and the time. */
async function startInstance<T> (t: Test, clock: TestClock, prefix: string, { partitions, concurrency, handler }: Setting<T>): Promise<Instance> {
  const processClock = createProcessClock(clock)
  const { app, streams } = await createTestStreams(t, { store: 'redis', clock, prefix, clockOf: () => processClock })
  // So that the app can be closed.
  t.teardown(() => processClock.resume())
  const self = {
    kill () {
      processClock.stall()
      app.redis.disconnect()
    },
    stall: () => processClock.stall(),
    resume: () => processClock.resume()
  }
  await startConsumer(clock, streams.stream<T>('orders', { partitions }), {
    group: 'mail',
    concurrency,
    retries: 2,
    backoff: { min: 5 },
    handler: async (event, { attempt }) => await handler(event, attempt, self)
  })
  return self
}

const never = new Promise<void>(() => {})

t.test('when an instance is killed another one takes over: no event is lost, keys stay in order, and no more events are handled twice than were in flight', async t => {
  const [clock, prefix] = [createTestClock(), newPrefix()]
  const setting = { partitions: 4, concurrency: 4 }
  const { streams } = await createTestStreams(t, { store: 'redis', clock, prefix })
  const stream = streams.stream<number>('orders', { partitions: 4 })
  const handled: string[][] = []
  let isKilled = false
  await startInstance<number>(t, clock, prefix, {
    ...setting,
    async handler ({ key = '', data }, attempt, self) {
      if (isKilled) return await never
      handled.push([key, String(data), String(attempt)])
      if (handled.length < 30) return
      // It was handled, and the store does not hear of it.
      isKilled = true
      self.kill()
      await never
    }
  })
  for (const value of upTo(25)) await Promise.all(upTo(8).map(key => stream.append(value, { key: `k${key}` })))
  await until('the first instance is killed', () => isKilled)
  await clock.advance(LEASE_MS)
  await startInstance<number>(t, clock, prefix, {
    ...setting,
    handler: async ({ key = '', data }, attempt) => { handled.push([key, String(data), String(attempt)]) }
  })
  t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { deadLetters: 0, lost: 0 } })
  const { events, duplicates, outOfOrder } = judge(handled)
  t.equal(events, 200)
  t.equal(outOfOrder, 0)
  t.ok(duplicates <= setting.concurrency, `${duplicates} events were handled twice`)
  t.ok(handled.some(([, , attempt]) => attempt === '2'), 'events in flight are given again as their second attempt')
})

t.test('an event that ends its process each time becomes a dead letter, and none that was in flight beside it does', async t => {
  const [clock, prefix] = [createTestClock(), newPrefix()]
  const { streams } = await createTestStreams(t, { store: 'redis', clock, prefix })
  const stream = streams.stream<number | string>('orders', { partitions: 2 })
  const keys = upTo(20).map(key => `k${key}`)
  await Promise.all(keys.map(key => stream.append(0, { key })))
  await stream.append('poison', { key: 'bad' })
  await Promise.all(keys.map(key => stream.append(1, { key })))
  const handled: string[][] = []
  let kills = 0
  let isOver = false
  for (let starts = 0; !isOver && starts < 10; starts++) {
    const killsBefore = kills
    await startInstance<number | string>(t, clock, prefix, {
      partitions: 2,
      concurrency: 8,
      async handler ({ key = '', data }, attempt, self) {
        if (data === 'poison') {
          kills++
          self.kill()
        }
        if (kills > killsBefore) return await never
        handled.push([key, String(data), String(attempt)])
      }
    })
    await advanceUntil(clock, 'the instance is killed, or all is done', async () => {
      const { lag, pending, deadLetters } = (await stream.stats()).groups['mail'] ?? {}
      isOver = lag === 0 && pending === 0 && deadLetters === 1
      return isOver || kills > killsBefore
    })
    if (!isOver) await clock.advance(LEASE_MS)
  }
  t.ok(isOver, 'after some starts all is done')
  t.match(await stream.deadLetters('mail').list(), [{ data: 'poison', attempts: 3, reason: 'given 3 times without an outcome' }])
  t.equal(kills, 3)
  t.equal(judge(handled).events, 40)
})

t.test('events of a paused instance are handled by another, and the paused one takes nothing back when it resumes', async t => {
  const [clock, prefix] = [createTestClock(), newPrefix()]
  const { streams } = await createTestStreams(t, { store: 'redis', clock, prefix })
  const stream = streams.stream<number>('orders')
  const { gate, open } = createGate()
  const handled: Array<{ by: string, data: number }> = []
  let inFlight = 0
  const setting = { partitions: 1, concurrency: 4 }
  const paused = await startInstance<number>(t, clock, prefix, {
    ...setting,
    async handler ({ data }) {
      if (data >= 20) {
        inFlight++
        await gate
      }
      handled.push({ by: 'paused', data })
    }
  })
  for (const value of upTo(100)) await stream.append(value, { key: `k${value % 4}` })
  await until('4 events are in flight', () => inFlight === 4)
  paused.stall()
  await clock.advance(LEASE_MS)
  await startInstance<number>(t, clock, prefix, { ...setting, handler: async ({ data }) => { handled.push({ by: 'other', data }) } })
  t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { lost: 0, deadLetters: 0 } })
  open()
  paused.resume()
  await stream.append(100, { key: 'k0' })
  t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { lost: 0, deadLetters: 0 } })
  const of = (name: string) => handled.filter(({ by }) => by === name).map(({ data }) => data).sort((a, b) => a - b)
  t.same(of('paused'), upTo(24), 'the paused instance ends its events in flight')
  t.same(of('other'), upTo(101).slice(20), 'the other one handles those again, and all later ones')
})
