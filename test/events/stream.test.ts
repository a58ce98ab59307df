import t, { type Test } from 'tap'
import type { ConsumeOptions } from '../../plugins/events/stream/types.js'
import { until } from '../helpers/index.js'
import { appendAll, createHandler, dataOf, startStores, startStreams, take, upTo } from '../helpers/events/streams.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const stores = await startStores()
let made = 0
const keys = upTo(20).map(i => `key ${i}`)

for (const [store, clientOf] of Object.entries(stores)) {
  const start = (t: Test) => startStreams(t, clientOf(), `s${++made}`)
  const test = (name: string, run: (t: Test) => Promise<void>) => t.test(`${store}: ${name}`, run)

  test('what is appended is read from the start, in order, with its key, time and an id to go on after', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders')
    const before = Date.now()
    const ids = await appendAll(stream, upTo(250), 'a')
    const events = await take(stream.read({ after: '0' }), 250)
    t.same(dataOf(events), upTo(250))
    t.same(events.map(({ id }) => id), ids)
    t.ok(events.every(({ key, appendedAt: at, gap }) => key === 'a' && at >= before - 1000 && at <= Date.now() + 1000 && gap === undefined))
    const rest = await take(stream.read({ after: ids[99] }), 150)
    t.same(dataOf(rest), upTo(250).slice(100))
    t.equal(rest[0]?.gap, undefined)
  })

  test('a reader without a cursor gets what is appended after it began to read, at once', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<string>('orders')
    await stream.append('before')
    const reading = take(stream.read(), 2)
    // Its position is asked for before this, over the same connection.
    await stream.append('one')
    await new Promise(resolve => setTimeout(resolve, 100))
    const sinceAsked = stopwatch()
    await stream.append('two')
    t.same(dataOf(await reading), ['one', 'two'])
    t.ok(sinceAsked() < 500, 'without waiting for the next look')
  })

  test('over several partitions a reader gets all, each key in order, and goes on from any event without loss or duplicate', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 4 })
    for (const value of upTo(10)) await Promise.all(keys.map(key => stream.append(value, { key })))
    const first = await take(stream.read({ after: '0' }), 77)
    const rest = await take(stream.read({ after: first.at(-1)?.id }), 123)
    t.equal(new Set([...first, ...rest].map(({ key, data }) => `${key} ${data}`)).size, 200)
    for (const key of keys) t.same([...first, ...rest].filter(event => event.key === key).map(({ data }) => data), upTo(10))
    t.notOk([...first, ...rest].some(({ gap }) => gap))
  })

  test('with several partitions the id that append told is a cursor too', async t => {
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
    const { app, streams } = await start(t)
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
    await app.close()
    t.same(await byClose, [])
    t.same(await take(stream.read({ after: '0' }), 1), [], 'there is nothing to read after it')
  })

  test('a cursor that is none is refused at once with a coded error', async t => {
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
    t.equal(streams.stream('orders'), stream, 'the same each time')
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

  test('what is trimmed shows: to a reader as a gap, to a group that is slow as lost', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { maxLength: 100 })
    const [first] = await appendAll(stream, upTo(10))
    const slow = await stream.consume({ group: 'slow', handler: () => new Promise(resolve => setTimeout(resolve, 1)) })
    await until('it is done with them', async () => {
      const { lag, pending } = (await stream.stats()).groups['slow'] ?? {}
      return lag === 0 && pending === 0
    })
    await slow.close()
    await appendAll(stream, upTo(1000))
    const { length, groups } = await stream.stats()
    t.ok(length >= 100 && length <= 300, `${length} are kept`)
    t.equal(groups['slow']?.lag, length)
    t.equal(groups['slow']?.lost, 1000 - length)
    const [gap, next] = await take(stream.read({ after: first }), 2)
    t.match([gap?.data, gap?.gap, next?.gap], [1000 - length, true, undefined])
    const [oldest] = await take(stream.read({ after: '0' }), 1)
    t.match([oldest?.data, oldest?.gap], [1000 - length, undefined], 'who asks for what there is misses nothing')
    const source = createHandler<number>()
    await stream.consume({ group: 'slow', handler: source.handler, concurrency: 50 })
    await until('it has the rest', () => new Set(source.handled.map(({ data }) => data)).size === length)
    t.match((await stream.stats()).groups['slow'], { lag: 0, lost: 1000 - length })
  })

  test('events older than maxAge go when one is appended', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { maxAge: 1000 })
    await Promise.all(upTo(200).map(value => stream.append(value)))
    await new Promise(resolve => setTimeout(resolve, 1100))
    await stream.append(200)
    t.ok((await stream.stats()).length <= 101, 'about')
  })
}
