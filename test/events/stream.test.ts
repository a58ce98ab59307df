import t, { type Test } from 'tap'
import { cursorOf, parseCursor } from '../../plugins/events/stream/cursor.js'
import type { StoredMessage } from '../../plugins/shared/work-queue/queue.js'
import { Tail } from '../../plugins/events/stream/tail.js'
import type { ConsumeOptions } from '../../plugins/events/stream/types.js'
import { advanceWhile, forEachStore, until, type StoreName } from '../helpers/index.js'
import { advanceUntilDone, appendAll, createHandler, createTestStreams, dataOf, follow, startConsumer, take, upTo } from '../helpers/events/streams.js'

const keys = upTo(20).map(i => `key ${i}`)

forEachStore(['memory', 'redis', 'cluster'], (store: StoreName) => {
  const start = (t: Test) => createTestStreams(t, { store })
  const test = (name: string, run: (t: Test) => Promise<void>) => t.test(`${store}: ${name}`, run)

  test('a reader gets all events in order, each with its key, its time and an id that is a cursor', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders')
    const ids = await appendAll(stream, upTo(250), 'a')
    const events = await take(stream.read({ after: '0' }), 250)
    t.same(dataOf(events), upTo(250))
    t.same(events.map(({ id }) => id), ids)
    t.same([...new Set(events.map(({ key, appendedAt, gap }) => JSON.stringify({ key, appendedAt, gap })))], [JSON.stringify({ key: 'a', appendedAt: clock.now() })])
    await clock.advance('1h')
    await stream.append(250)
    t.equal((await take(stream.read({ after: ids.at(-1) }), 1))[0]?.appendedAt, clock.now())
    const rest = await take(stream.read({ after: ids[99] }), 150)
    t.same(dataOf(rest), upTo(250).slice(100))
    t.equal(rest[0]?.gap, undefined)
  })

  test('a reader without a cursor gets each event that is appended from now on, as soon as it is appended', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders')
    await stream.append(-1)
    const read = follow(t, stream.read())
    // The reader asks for its position before this, over the same connection.
    for (const value of upTo(5)) {
      await stream.append(value)
      // The clock stands still: nothing polls, so each event comes by its notification.
      await until(`event ${value} is read`, () => read.length > value)
    }
    t.same(dataOf(read), upTo(5))
  })

  test('a reader of several partitions gets each key in order, and resumes after any event without loss or duplicate', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 4 })
    for (const value of upTo(10)) await Promise.all(keys.map(key => stream.append(value, { key })))
    const first = await take(stream.read({ after: '0' }), 77)
    const rest = await take(stream.read({ after: first.at(-1)?.id }), 123)
    t.equal(new Set([...first, ...rest].map(({ key, data }) => `${key} ${data}`)).size, 200)
    t.same(keys.map(key => dataOf([...first, ...rest].filter(event => event.key === key))), keys.map(() => upTo(10)))
    t.notOk([...first, ...rest].some(({ gap }) => gap))
  })

  test('an id that append returned is a cursor, also with several partitions', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 4 })
    await stream.append(0, { key: 'a' })
    const id = await stream.append(1, { key: 'a' })
    await appendAll(stream, [2, 3], 'a')
    await appendAll(stream, [4, 5], 'b')
    const events = await take(stream.read({ after: id }), 4)
    t.same(events.filter(({ key }) => key === 'a').map(({ data }) => data), [2, 3])
    t.same(events.filter(({ key }) => key === 'b').map(({ data }) => data), [4, 5])
  })

  test('a reader ends when its signal fires, when it is returned from, and when the app closes', async t => {
    const { app, streams, clock } = await start(t)
    const stream = streams.stream('orders')
    const stop = new AbortController()
    const bySignal = take(stream.read({ signal: stop.signal }), 1)
    const iterator = stream.read()[Symbol.asyncIterator]()
    const byReturn = iterator.next()
    const byClose = take(stream.read(), 1)
    stop.abort()
    t.same(await bySignal, [])
    await iterator.return?.()
    t.equal((await byReturn).done, true)
    await advanceWhile(clock, app.close())
    t.same(await byClose, [])
    t.same(await take(stream.read({ after: '0' }), 1), [], 'a reader of a closed app ends at once')
  })

  test('an invalid cursor is refused at once with a coded error', async t => {
    const { streams } = await start(t)
    const one = streams.stream('one')
    const four = streams.stream('four', { partitions: 4 })
    const max = '18446744073709551616'
    for (const after of ['', '1', '$', 'x-1', '1-1_1-1', '1-1.x', `1-${max}`, '9999999999999999-0', '1-1@0', '1-1\n', 'a'.repeat(5000)]) {
      t.throws(() => one.read({ after }), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_CURSOR', statusCode: 400 }, after)
    }
    for (const after of ['1-1', '1-1@4', '1-1@', '1-1_1-1_1-1', '1-1_1-1_1-1_1-1_1-1', '_'.repeat(5000)]) {
      t.throws(() => four.read({ after }), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_CURSOR' }, after)
    }
    t.throws(() => one.read({ after: 7 as unknown as string }), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_CURSOR' })
  })

  test('bad options and data that cannot be stored are refused with coded errors', async t => {
    const { streams } = await start(t)
    const code = 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION'
    for (const name of ['', 'a b', '{a}', 'a'.repeat(65), 7]) t.throws(() => streams.stream(name as string), { code })
    for (const options of [{ partitions: 0 }, { partitions: 65 }, { maxLength: 0 }, { maxAge: 'soon' }, { retention: -1 }, { maxDeadLetters: 0 }, { trim: 1 }, 7]) {
      t.throws(() => streams.stream('bad', options as object), { code }, JSON.stringify(options))
    }
    const stream = streams.stream('orders')
    t.equal(streams.stream('orders'), stream, 'each call returns the same stream')
    t.throws(() => streams.stream('orders', { partitions: 2 }), { code })
    const handler = () => {}
    for (const options of [{ handler }, { group: 'a b', handler }, { group: 'g' }, { group: 'g', handler, concurrency: 0 }, { group: 'g', handler, retries: -1 },
      { group: 'g', handler, backoff: 'x' }, { group: 'g', handler, deadLetter: 1 }, { group: 'g', handler, from: '1' }, { group: 'g', handler, block: 1 }, 7]) {
      await t.rejects(stream.consume(options as ConsumeOptions<unknown>), { code })
    }
    t.throws(() => stream.deadLetters('a b'), { code })
    await t.rejects(stream.append(1, { key: '' }), { code })
    await t.rejects(stream.append(1, { key: 'a'.repeat(1025) }), { code })
    const circular: Record<string, unknown> = {}
    circular['itself'] = circular
    for (const data of [undefined, () => {}, 1n, circular]) await t.rejects(stream.append(data), { code: 'FST_REDIS_SUITE_EVENTS_UNSERIALIZABLE' })
  })

  test('a trimmed event is a gap for a reader, and is counted as lost for a group that had not taken it', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders', { maxLength: 100 })
    const [first] = await appendAll(stream, upTo(10))
    const early = await startConsumer(clock, stream, { group: 'slow', handler: () => {} })
    await advanceUntilDone(clock, stream, 'slow')
    await advanceWhile(clock, early.close())
    await appendAll(stream, upTo(1000))
    const { length, groups } = await stream.stats()
    // Redis trims whole nodes of 100 entries.
    t.ok(length >= 100 && length <= 300, `${length} are stored`)
    t.match(groups['slow'], { lag: length, lost: 1000 - length })
    const [gap, next] = await take(stream.read({ after: first }), 2)
    t.match([gap?.data, gap?.gap, next?.gap], [1000 - length, true, undefined])
    const [oldest] = await take(stream.read({ after: '0' }), 1)
    t.match([oldest?.data, oldest?.gap], [1000 - length, undefined], 'a reader from the start has no gap')
    const source = createHandler<number>()
    await startConsumer(clock, stream, { group: 'slow', handler: source.handler, concurrency: 50 })
    t.match(await advanceUntilDone(clock, stream, 'slow'), { slow: { lag: 0, lost: 1000 - length } })
    t.same(dataOf(source.handled).sort((a, b) => a - b), upTo(1000).slice(-length))
  })

  test('events older than maxAge are trimmed when one is appended', async t => {
    const { streams, clock } = await start(t)
    const stream = streams.stream<number>('orders', { maxAge: '1h' })
    await Promise.all(upTo(200).map(value => stream.append(value)))
    await clock.advance('59m')
    await stream.append(200)
    t.equal((await stream.stats()).length, 201)
    await clock.advance('2m')
    await stream.append(201)
    // Redis trims whole nodes of 100 entries.
    t.same(dataOf(await take(stream.read({ after: '0' }), 2)), [200, 201])
    t.equal((await stream.stats()).length, 2)
  })
})

const event = (n: number, size = 1): StoredMessage => ({ id: `${n}-0`, n, key: undefined, value: Buffer.alloc(size) })

function createLog (size?: number) {
  const log: StoredMessage[] = []
  const asked: Array<[after: string, count: number]> = []
  let most = Infinity
  return {
    asked,
    add: (count: number) => { log.push(...upTo(count).map(i => event(log.length + i + 1, size))) },
    fewAtATime: (count: number) => { most = count },
    async range (after: string, count: number) {
      asked.push([after, count])
      await new Promise(resolve => setImmediate(resolve))
      if (count > most) throw new Error('too much')
      const from = Number.parseInt(after, 10)
      return log.slice(from, from + count)
    }
  }
}

t.test('readers at the end share one query of the store, and a reader behind it has its own', async t => {
  const log = createLog()
  log.add(10)
  const tail = new Tail(log.range, '10-0')
  t.same(await Promise.all(upTo(5).map(() => tail.after('10-0'))), upTo(5).map(() => []))
  t.same(log.asked, [['10-0', 100]])
  log.add(2)
  tail.touch()
  const found = await Promise.all(upTo(5).map(() => tail.after('10-0')))
  t.same(found.map(events => events.map(({ n }) => n)), upTo(5).map(() => [11, 12]))
  t.equal(log.asked.length, 2)
  t.equal((await tail.after('3-0')).length, 9)
  t.same(log.asked[2], ['3-0', 100])
})

t.test('the tail in memory is bounded in events and bytes, and a reader misses no event that it dropped', async t => {
  const log = createLog(10_000)
  const tail = new Tail(log.range, '0-0')
  log.add(500)
  tail.touch()
  const seen: number[] = []
  for (let after = '0-0'; ;) {
    const events = await tail.after(after)
    seen.push(...events.map(({ n }) => n))
    const last = events.at(-1)
    if (last === undefined) break
    after = last.id
  }
  t.same(seen, upTo(500).map(i => i + 1))
  const asked = log.asked.length
  await tail.after('450-0')
  t.equal(log.asked.length, asked, 'the newest events are in memory')
  await tail.after('0-0')
  t.equal(log.asked.length, asked + 1, 'the oldest are not')
})

t.test('a page that is too large for the store is asked for in smaller ones', async t => {
  const log = createLog()
  log.add(50)
  log.fewAtATime(10)
  const tail = new Tail(log.range, '0-0')
  let failures = 0
  let count = 0
  for (let after = '0-0'; count < 50 && failures < 100;) {
    const events = await tail.after(after).catch(() => { failures++; return [] })
    count += events.length
    after = events.at(-1)?.id ?? after
  }
  t.equal(count, 50)
  t.match(log.asked.map(([, most]) => most).slice(0, 5), [100, 50, 25, 12, 6])
})

t.test('a cursor is parsed to the positions that it was made of', t => {
  const positions = [{ id: '1700000000000-0', n: 7 }, { id: '0-0', n: undefined }, { id: '1699999999999-18446744073709551615', n: undefined }]
  t.same(parseCursor(cursorOf(positions), 3), positions)
  t.same(parseCursor('0', 2), [{ id: '0-0', n: undefined }, { id: '0-0', n: undefined }])
  t.same(parseCursor('5-1.3@1', 2), [{ id: '4-18446744073709551615', n: undefined }, { id: '5-1', n: 3 }])
  t.end()
})
