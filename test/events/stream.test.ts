import { Cluster, type Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { ConsumeOptions, StreamEvent } from '../../plugins/events/stream/types.js'
import { startCluster, startRedis, until } from '../helpers/index.js'
import { appendAll, createHandler, startStreams, take, upTo } from '../helpers/streams.js'

const server = await startRedis()
const cluster = await startCluster()
const ofCluster = new Cluster(cluster.startupNodes)
t.teardown(() => ofCluster.disconnect())
let made = 0

const stores: Record<string, () => Redis | Cluster | undefined> = {
  memory: () => undefined,
  Redis: () => server.client(),
  Cluster: () => ofCluster
}

const dataOf = <T>(events: ReadonlyArray<StreamEvent<T>>) => events.map(({ data }) => data)
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
    t.ok(events.every(({ key, at, gap }) => key === 'a' && at >= before - 1000 && at <= Date.now() + 1000 && gap === undefined))
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
    const asked = performance.now()
    await stream.append('two')
    t.same(dataOf(await reading), ['one', 'two'])
    t.ok(performance.now() - asked < 500, 'without waiting for the next look')
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

  test('each group gets every event, each key in order and never two at a time, while some fail', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 3 })
    const groups = ['mail', 'index'].map(group => ({ group, ...createHandler<number>({ fail: () => Math.random() < 0.1, ms: 1 }) }))
    for (const { group, handler } of groups) await stream.consume({ group, handler, concurrency: 8, retries: 50, backoff: 5 })
    for (const value of upTo(10)) await Promise.all(keys.map(key => stream.append(value, { key })))
    await until('all is done', async () => Object.values((await stream.stats()).groups).every(({ lag, pending }) => lag === 0 && pending === 0))
    for (const { handled, valuesOf } of groups) {
      t.equal(handled.length, 200)
      for (const key of keys) t.same(valuesOf(key), upTo(10))
    }
    t.same(groups.map(({ overlaps }) => overlaps), [0, 0])
  })

  test('as many events of different keys are handled at a time as concurrency says', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 2 })
    for (const key of keys) await stream.append(1, { key })
    const source = createHandler<number>({ ms: 10 })
    const warnings: string[] = []
    const onWarning = ({ message }: Error) => { warnings.push(message) }
    process.on('warning', onWarning)
    await stream.consume({ group: 'mail', handler: source.handler, concurrency: 15 })
    await until('all is done', () => source.handled.length === 20)
    process.off('warning', onWarning)
    t.equal(source.mostInside, 15)
    t.same(warnings, [])
  })

  test('a poison event becomes a dead letter after its retries, its key waits for that, and other keys do not', async t => {
    const { streams, lines } = await start(t)
    const stream = streams.stream<string>('orders')
    const source = createHandler<string>({ fail: ({ data }) => data === 'poison' })
    await stream.consume({ group: 'mail', handler: source.handler, concurrency: 4, retries: 3, backoff: 100 })
    await appendAll(stream, ['first', 'poison', 'third'], 'bad')
    await appendAll(stream, upTo(50).map(String), 'good')
    await until('the other key is done', () => source.valuesOf('good').length === 50)
    t.same(source.valuesOf('bad'), ['first'])
    await until('its key goes on', () => source.valuesOf('bad').length === 2)
    t.same(source.valuesOf('bad'), ['first', 'third'])
    t.same(source.given.filter(({ data }) => data === 'poison').map(({ attempt }) => attempt), [1, 2, 3, 4])
    t.match((await stream.stats()).groups, { mail: { dead: 1, lost: 0 } })
    const [letter] = await stream.deadLetters('mail').list()
    const poison = source.given.find(({ data }) => data === 'poison')
    t.match(letter, { key: 'bad', data: 'poison', reason: 'no: "poison"', attempts: 4, eventId: poison?.id })
    t.equal(lines.filter(({ msg }) => msg === 'events: an event became a dead letter').length, 1)
  })

  test('a dead letter is replayed to its own group alone, paged, and removed', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 2 })
    let isFixed = false
    const mail = createHandler<number>({ fail: () => !isFixed })
    const index = createHandler<number>()
    await stream.consume({ group: 'mail', handler: mail.handler, retries: 0, concurrency: 8 })
    await stream.consume({ group: 'index', handler: index.handler, concurrency: 8 })
    const ids = await Promise.all(keys.map((key, value) => stream.append(value, { key })))
    const letters = stream.deadLetters('mail')
    await until('all are dead', async () => (await stream.stats()).groups['mail']?.dead === 20)
    const page = await letters.list({ count: 15 })
    const rest = await letters.list({ after: page.at(-1)?.id ?? '' })
    t.same([...page, ...rest].map(({ eventId }) => eventId).sort(), [...ids].sort())
    await t.rejects(letters.replay(['x']), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' })
    t.equal(await letters.remove([page[0]?.id ?? '']), 1)
    isFixed = true
    t.equal(await letters.replay([page[1]?.id ?? '', page[0]?.id ?? '']), 1)
    await until('it is handled', () => mail.handled.length === 1)
    t.match(mail.handled[0], { id: page[1]?.eventId, key: page[1]?.key, data: page[1]?.data, at: Number })
    t.equal(await letters.replay(), 18)
    await until('all are handled', () => mail.handled.length === 19)
    await until('they are done', async () => (await stream.stats()).groups['mail']?.pending === 0)
    t.same(await letters.list(), [])
    t.equal(await letters.remove(), 0)
    t.equal(index.given.length, 20, 'the other group had them once')
  })

  test('a replayed event that fails again becomes a dead letter again', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders')
    const source = createHandler<number>({ fail: () => true })
    await stream.consume({ group: 'mail', handler: source.handler, retries: 1, backoff: 1 })
    const id = await stream.append(1, { key: 'a' })
    const letters = stream.deadLetters('mail')
    await until('it is dead', async () => (await letters.list()).length === 1)
    await letters.replay()
    await until('it was given twice more', () => source.given.length === 4)
    await until('it is dead again', async () => (await letters.list()).length === 1)
    t.match((await letters.list())[0], { eventId: id, attempts: 2, data: 1 })
  })

  test('without dead letters what is given up is only logged', async t => {
    const { streams, lines } = await start(t)
    const stream = streams.stream<number>('orders')
    const source = createHandler<number>({ fail: ({ data }) => data === 1 })
    await stream.consume({ group: 'mail', handler: source.handler, retries: 0, deadLetter: false })
    await appendAll(stream, [1, 2], 'a')
    await until('the next one is handled', () => source.handled.length === 1)
    await until('both are done', async () => (await stream.stats()).groups['mail']?.pending === 0)
    t.match(await stream.stats(), { groups: { mail: { lag: 0, dead: 0 } } })
    t.equal(lines.filter(({ msg }) => msg === 'events: an event was given up').length, 1)
  })

  test('a new group begins at the oldest event, or after the newest', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders')
    await appendAll(stream, [1, 2])
    const all = createHandler<number>()
    const later = createHandler<number>()
    await stream.consume({ group: 'all', handler: all.handler })
    await stream.consume({ group: 'later', handler: later.handler, from: '$' })
    await appendAll(stream, [3, 4])
    await until('all are handled', () => all.handled.length === 4 && later.handled.length === 2)
    t.same(dataOf(all.handled), [1, 2, 3, 4])
    t.same(dataOf(later.handled), [3, 4])
  })

  test('a group goes on where it was, in another app', async t => {
    const { app, streams } = await start(t)
    if (store === 'memory') return t.comment('it ends with its process')
    const stream = streams.stream<number>('orders')
    const first = createHandler<number>()
    await stream.consume({ group: 'mail', handler: first.handler, from: '$' })
    await appendAll(stream, [1, 2])
    await until('they are done', async () => first.handled.length === 2 && (await stream.stats()).groups['mail']?.pending === 0)
    await app.close()
    const { streams: others } = await startStreams(t, clientOf(), `s${made}`)
    const again = others.stream<number>('orders')
    await again.append(3)
    const second = createHandler<number>()
    await again.consume({ group: 'mail', handler: second.handler, from: '$' })
    await until('the new one is handled', () => second.handled.length === 1)
    t.same(second.given.map(({ data, attempt }) => [data, attempt]), [[3, 1]])
  })

  test('two consumers of a group share its events, each one is given once, and one takes over at once when the other is closed', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 4 })
    const [first, second] = [createHandler<number>({ ms: 2 }), createHandler<number>({ ms: 2 })]
    const one = await stream.consume({ group: 'mail', handler: first.handler, concurrency: 4 })
    const two = await stream.consume({ group: 'mail', handler: second.handler, concurrency: 4 })
    await until('each has its part', () => one.owned === 2 && two.owned === 2)
    for (const value of upTo(5)) await Promise.all(keys.map(key => stream.append(value, { key })))
    await until('all are handled', () => first.handled.length + second.handled.length === 100)
    t.ok(first.handled.length > 0 && second.handled.length > 0)
    await one.close()
    await until('the other has all', () => two.owned === 4)
    await Promise.all(keys.map(key => stream.append(5, { key })))
    await until('it handles all', () => first.handled.length + second.handled.length === 120)
    for (const key of keys) t.same([...first.valuesOf(key), ...second.valuesOf(key)].sort(), upTo(6))
    t.equal(first.given.length + second.given.length, 120)
  })

  test('closing waits for the handlers at hand, and leaves the rest', async t => {
    const { app, streams } = await start(t)
    const stream = streams.stream<number>('orders')
    await appendAll(stream, upTo(10), 'a')
    const source = createHandler<number>({ ms: 100 })
    await stream.consume({ group: 'mail', handler: source.handler })
    await until('one is at hand', () => source.given.length === 1)
    await app.close()
    t.equal(source.handled.length, 1)
    await t.rejects(stream.append(1), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 })
    t.equal(source.given.length, 1)
  })

  test('what is trimmed shows: to a reader as a gap, to a group that is slow as lost', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { maxLength: 100 })
    const [first] = await appendAll(stream, upTo(10))
    const slow = await stream.consume({ group: 'slow', handler: () => new Promise(resolve => setTimeout(resolve, 1)) })
    await until('it has them', async () => (await stream.stats()).groups['slow']?.lag === 0)
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
    await until('it has the rest', () => source.handled.length === length)
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
