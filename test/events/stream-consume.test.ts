import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createTestClock } from '../../plugins/testing/index.js'
import { advanceUntil, advanceWhile, forEachStore, until, type StoreName } from '../helpers/index.js'
import { createProcessClock } from '../helpers/events/process-clock.js'
import { advanceUntilDone, appendAll, createGate, createHandler, createTestStreams, dataOf, LEASE_MS, startConsumer, upTo } from '../helpers/events/streams.js'

const keys = upTo(20).map(i => `key ${i}`)

forEachStore(['memory', 'redis', 'cluster'], (store: StoreName) => {
  const start = (t: Test) => createTestStreams(t, { store })
  const test = (name: string, run: (t: Test) => Promise<void>) => t.test(`${store}: ${name}`, run)

  test('each group handles every event, each key in order and never two at a time, while some fail', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 3 })
    // Each failed attempt of an event is followed by another one, at most twice.
    const fail = ({ data, key = '' }: { data: number, key: string | undefined }, attempt: number) => attempt <= (data + Number(key.slice(4))) % 7 - 4
    const groups = ['mail', 'index'].map(group => ({ group, ...createHandler<number>({ fail }) }))
    for (const { group, handler } of groups) await startConsumer(clock, stream, { group, handler, concurrency: 8, retries: 2, backoff: { min: 50 } })
    for (const value of upTo(10)) await Promise.all(keys.map(key => stream.append(value, { key })))
    const zero = { lag: 0, pending: 0, deadLetters: 0, lost: 0 }
    t.same(await advanceUntilDone(clock, stream, 'mail', 'index'), { mail: zero, index: zero })
    for (const { given, handled, overlaps, valuesOf } of groups) {
      t.same(keys.map(valuesOf), keys.map(() => upTo(10)))
      t.equal(overlaps, 0)
      t.equal(handled.length, 200)
      const failures = keys.flatMap(key => upTo(10).map(data => Math.max(0, (data + Number(key.slice(4))) % 7 - 4))).reduce((sum, count) => sum + count, 0)
      t.equal(given.length, 200 + failures)
    }
  })

  test('as many events of different keys are handled at a time as concurrency allows', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 2 })
    for (const key of keys) await stream.append(1, { key })
    const { gate, open } = createGate()
    const source = createHandler<number>({ gate })
    const warnings: string[] = []
    const onWarning = ({ message }: Error) => { warnings.push(message) }
    process.on('warning', onWarning)
    await startConsumer(clock, stream, { group: 'mail', handler: source.handler, concurrency: 15 })
    await advanceUntil(clock, '15 events are in flight', () => source.mostInside === 15)
    // Each partition polls for more events once a second.
    await clock.advance('5s')
    t.equal(source.given.length, 15)
    open()
    await advanceUntilDone(clock, stream, 'mail')
    process.off('warning', onWarning)
    t.equal(source.mostInside, 15)
    t.equal(source.handled.length, 20)
    t.same(warnings, [])
  })

  test('a handler that blocks its process for longer than the lease delays no later event', async t => {
    const clock = createTestClock()
    const processClock = createProcessClock(clock)
    const { streams } = await createTestStreams(t, { store, clock, clockOf: () => processClock })
    const stream = streams.stream<number>('orders')
    for (const key of keys) await stream.append(1, { key })
    const source = createHandler<number>()
    const { gate, open } = createGate()
    await startConsumer(clock, stream, {
      group: 'mail',
      concurrency: 2,
      async handler (event, context) {
        if (source.given.length > 0) await gate
        await source.handler(event, context)
      }
    })
    await advanceUntil(clock, 'an event is handled, and two are in flight', async () => source.handled.length === 1 && (await stream.stats()).groups['mail']?.pending === 19)
    processClock.stall()
    await clock.advance(LEASE_MS)
    open()
    await turn()
    processClock.resume()
    t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { lost: 0, deadLetters: 0 } })
    t.equal(new Set(source.handled.map(({ key }) => key)).size, 20)
    t.equal(source.handled.length, 22, 'the 2 events in flight are handled again, and no others')
  })

  test('a poison event becomes a dead letter after its retries; its key waits for that, and other keys do not', async t => {
    const { streams, lines, clock } = await start(t)
    const stream = streams.stream<string>('orders')
    const source = createHandler<string>({ fail: ({ data }) => data === 'poison' })
    await startConsumer(clock, stream, { group: 'mail', handler: source.handler, concurrency: 4, retries: 3, backoff: { min: '1s' } })
    await appendAll(stream, ['first', 'poison', 'third'], 'bad')
    await appendAll(stream, upTo(50).map(String), 'good')
    await until('the other key is handled', () => source.valuesOf('good').length === 50)
    t.same(source.given.filter(({ key }) => key === 'bad').map(({ data }) => data), ['first', 'poison'], 'the poison event waits for its first retry')
    t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { deadLetters: 1, lost: 0 } })
    t.same(source.valuesOf('bad'), ['first', 'third'])
    t.same(source.given.filter(({ key }) => key === 'bad').map(({ data, attempt }) => `${data} ${attempt}`),
      ['first 1', 'poison 1', 'poison 2', 'poison 3', 'poison 4', 'third 1'])
    const [letter] = await stream.deadLetters('mail').list()
    const poison = source.given.find(({ data }) => data === 'poison')
    t.match(letter, { key: 'bad', data: 'poison', reason: 'no: "poison"', attempts: 4, eventId: poison?.id })
    t.equal(lines.filter(({ msg }) => msg === 'events: an event became a dead letter').length, 1)
  })

  test('the back-off between attempts doubles from its minimum to its maximum', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders')
    const times: number[] = []
    await startConsumer(clock, stream, {
      group: 'mail',
      handler () { times.push(clock.monotonic()); throw new Error('no') },
      retries: 4,
      backoff: { min: '1s', max: '4s' }
    })
    await stream.append(1)
    await until('the first attempt failed', () => times.length === 1)
    t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { deadLetters: 1 } })
    const waits = times.slice(1).map((time, i) => time - (times[i] ?? 0))
    t.equal(waits.length, 4)
    // Between half of the back-off and all of it; the clock may be two steps of 100 ms further when the store has noted the attempt.
    const isWithin = (wait: number, backoff = 0) => wait >= backoff / 2 && wait <= backoff + 200
    t.same(waits.map((wait, i) => isWithin(wait, [1000, 2000, 4000, 4000][i])), [true, true, true, true], waits.join(', '))
  })

  test('a dead letter is replayed to its own group alone, paged, and discarded', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 2 })
    let isFixed = false
    const mail = createHandler<number>({ fail: () => !isFixed })
    const index = createHandler<number>()
    await startConsumer(clock, stream, { group: 'mail', handler: mail.handler, retries: 0, concurrency: 8 })
    await startConsumer(clock, stream, { group: 'index', handler: index.handler, concurrency: 8 })
    const ids = await Promise.all(keys.map((key, value) => stream.append(value, { key })))
    const letters = stream.deadLetters('mail')
    t.match(await advanceUntilDone(clock, stream, 'mail', 'index'), { mail: { deadLetters: 20 }, index: { deadLetters: 0 } })
    const page = await letters.list({ count: 15 })
    const rest = await letters.list({ after: page.at(-1)?.id ?? '' })
    t.same([page.length, rest.length], [15, 5])
    t.same([...page, ...rest].map(({ eventId }) => eventId).sort(), [...ids].sort())
    t.same([...new Set(page.map(({ diedAt }) => diedAt <= clock.now()))], [true])
    await t.rejects(letters.replay(['x']), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' })
    t.equal(await letters.discard([page[0]?.id ?? '']), 1)
    isFixed = true
    t.equal(await letters.replay([page[1]?.id ?? '', page[0]?.id ?? '']), 1)
    await until('the replayed event is handled', () => mail.handled.length === 1)
    t.match(mail.handled[0], { id: page[1]?.eventId, key: page[1]?.key, data: page[1]?.data, appendedAt: Number })
    t.equal(await letters.replay(), 18)
    await until('the other 18 are handled', () => mail.handled.length === 19)
    t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { deadLetters: 0 } })
    t.same(await letters.list(), [])
    t.equal(await letters.discard(), 0)
    t.equal(mail.handled.length, 19)
    t.equal(index.given.length, 20, 'the other group had each event once')
  })

  test('a replayed event that fails again becomes a dead letter again', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders')
    const source = createHandler<number>({ fail: () => true })
    await startConsumer(clock, stream, { group: 'mail', handler: source.handler, retries: 1, backoff: { min: 1 } })
    const id = await stream.append(1, { key: 'a' })
    const letters = stream.deadLetters('mail')
    await advanceUntil(clock, 'it is a dead letter', async () => (await letters.list()).length === 1)
    await letters.replay()
    await advanceUntil(clock, 'it is a dead letter again', async () => source.given.length === 4 && (await letters.list()).length === 1)
    t.match(await letters.list(), [{ eventId: id, attempts: 2, data: 1 }])
    t.equal(source.given.length, 4)
  })

  test('without dead letters an event that is given up is only logged', async t => {
    const { streams, lines, clock } = await start(t)
    const stream = streams.stream<number>('orders')
    const source = createHandler<number>({ fail: ({ data }) => data === 1 })
    await startConsumer(clock, stream, { group: 'mail', handler: source.handler, retries: 0, deadLetter: false })
    await appendAll(stream, [1, 2], 'a')
    t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { deadLetters: 0, lost: 0 } })
    t.same(dataOf(source.handled), [2])
    t.equal(lines.filter(({ msg }) => msg === 'events: an event was given up').length, 1)
  })

  test('a new group begins at the oldest event, or after the newest', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders')
    await appendAll(stream, [1, 2])
    const all = createHandler<number>()
    const later = createHandler<number>()
    await startConsumer(clock, stream, { group: 'all', handler: all.handler })
    await startConsumer(clock, stream, { group: 'later', handler: later.handler, from: '$' })
    await appendAll(stream, [3, 4])
    await advanceUntilDone(clock, stream, 'all', 'later')
    t.same(dataOf(all.handled), [1, 2, 3, 4])
    t.same(dataOf(later.handled), [3, 4])
  })

  // The memory store ends with its process.
  if (store !== 'memory') {
    test('a group resumes where it was, in another app', async t => {
      const { app, streams, clock, prefix } = await start(t)
      const stream = streams.stream<number>('orders')
      const first = createHandler<number>()
      await startConsumer(clock, stream, { group: 'mail', handler: first.handler, from: '$' })
      await appendAll(stream, [1, 2])
      await advanceUntilDone(clock, stream, 'mail')
      await advanceWhile(clock, app.close())
      t.same(dataOf(first.handled), [1, 2])
      const { streams: others } = await createTestStreams(t, { store, clock, prefix })
      const again = others.stream<number>('orders')
      await again.append(3)
      const second = createHandler<number>()
      await startConsumer(clock, again, { group: 'mail', handler: second.handler, from: '$' })
      await advanceUntilDone(clock, again, 'mail')
      t.same(second.given.map(({ data, attempt }) => [data, attempt]), [[3, 1]])
    })
  }

  test('two consumers of a group share its events, each event is delivered once, and one takes over when the other closes', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 4 })
    const [first, second] = [createHandler<number>(), createHandler<number>()]
    const one = await stream.consume({ group: 'mail', handler: first.handler, concurrency: 4 })
    const two = await stream.consume({ group: 'mail', handler: second.handler, concurrency: 4 })
    await advanceUntil(clock, 'each has two partitions', () => one.owned === 2 && two.owned === 2, { step: 1000 })
    for (const value of upTo(5)) await Promise.all(keys.map(key => stream.append(value, { key })))
    await advanceUntilDone(clock, stream, 'mail')
    t.equal(first.handled.length + second.handled.length, 100)
    t.ok(first.handled.length > 0 && second.handled.length > 0, `${first.handled.length} and ${second.handled.length}`)
    await advanceWhile(clock, one.close())
    // The next tick comes long before a lease that was not released would expire.
    const passed = await advanceUntil(clock, 'the other has all partitions', () => two.owned === 4, { step: 1000 })
    t.ok(passed <= LEASE_MS / 5 + 1000, `${passed} ms`)
    await Promise.all(keys.map(key => stream.append(5, { key })))
    await advanceUntilDone(clock, stream, 'mail')
    t.same(keys.map(key => [...first.valuesOf(key), ...second.valuesOf(key)].sort()), keys.map(() => upTo(6)))
    t.equal(first.given.length + second.given.length, 120)
  })

  test('closing waits for the events in flight, and leaves the rest', async t => {
    const { app, streams, clock } = await start(t)
    const stream = streams.stream<number>('orders')
    await appendAll(stream, upTo(10), 'a')
    const { gate, open } = createGate()
    const source = createHandler<number>({ gate })
    await startConsumer(clock, stream, { group: 'mail', handler: source.handler })
    await advanceUntil(clock, 'one event is in flight', () => source.given.length === 1)
    const state = { isClosed: false }
    const closing = app.close().then(() => { state.isClosed = true })
    await clock.advance('4s')
    t.notOk(state.isClosed, 'it waits')
    open()
    await advanceWhile(clock, closing)
    t.same(dataOf(source.handled), [0])
    t.equal(source.given.length, 1)
    await t.rejects(stream.append(1), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 })
  })

  test('closing aborts a handler that does not end, in seconds, and its event is delivered again at once', async t => {
    const { app, streams, clock, prefix } = await start(t)
    const stream = streams.stream<number>('orders')
    let isAborted = false
    const consumer = await startConsumer(clock, stream, {
      group: 'mail',
      handler: async (_event, { signal }) => {
        signal.addEventListener('abort', () => { isAborted = true })
        await new Promise(() => {})
      }
    })
    await stream.append(1)
    await advanceUntil(clock, 'it is in flight', async () => (await stream.stats()).groups['mail']?.pending === 1)
    // The memory store ends with its app.
    const { passed } = await advanceWhile(clock, store === 'memory' ? consumer.close() : app.close(), { step: 100 })
    t.ok(passed >= 5000 && passed <= 5500, `closed after ${passed} ms`)
    t.ok(isAborted, 'its signal was aborted')
    const others = store === 'memory' ? streams : (await createTestStreams(t, { store, clock, prefix })).streams
    const source = createHandler<number>()
    await others.stream<number>('orders').consume({ group: 'mail', handler: source.handler })
    const waited = await advanceUntil(clock, 'it is delivered again', () => source.handled.length === 1, { step: 1 })
    t.ok(waited < 1000, `${waited} ms, without waiting for the lease to expire`)
    t.same(source.given.map(({ attempt }) => attempt), [2])
  })
})
