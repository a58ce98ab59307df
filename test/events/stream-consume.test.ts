import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { until } from '../helpers/index.js'
import { appendAll, createHandler, dataOf, startStores, startStreams, upTo } from '../helpers/events/streams.js'

const stores = await startStores()
let made = 0
const keys = upTo(20).map(i => `key ${i}`)

for (const [store, clientOf] of Object.entries(stores)) {
  const start = (t: Test) => startStreams(t, clientOf(), `s${++made}`)
  const test = (name: string, run: (t: Test) => Promise<void>) => t.test(`${store}: ${name}`, run)

  test('each group gets every event, each key in order and never two at a time, while some fail', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 3 })
    const groups = ['mail', 'index'].map(group => ({ group, ...createHandler<number>({ fail: () => Math.random() < 0.1, ms: 1 }) }))
    for (const { group, handler } of groups) await stream.consume({ group, handler, concurrency: 8, retries: 50, backoff: { min: 5 } })
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
    let open = (): void => {}
    const source = createHandler<number>({ gate: new Promise(resolve => { open = resolve }) })
    const warnings: string[] = []
    const onWarning = ({ message }: Error) => { warnings.push(message) }
    process.on('warning', onWarning)
    await stream.consume({ group: 'mail', handler: source.handler, concurrency: 15 })
    await until('as many are at hand', () => source.mostInside === 15)
    // One more would have come by then.
    await sleep(50)
    open()
    await until('all is done', () => source.handled.length === 20)
    process.off('warning', onWarning)
    t.equal(source.mostInside, 15)
    t.same(warnings, [])
  })

  test('a handler that blocks its process for longer than the lease holds up nothing after that', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders')
    for (const key of keys) await stream.append(1, { key })
    const source = createHandler<number>()
    let isBlocked = false
    await stream.consume({
      group: 'mail',
      concurrency: 2,
      async handler (event, context) {
        const end = isBlocked ? 0 : performance.now() + 700
        isBlocked = true
        while (performance.now() < end) { /* as a long computation does */ }
        await source.handler(event, context)
      }
    })
    await until('all are handled', async () => {
      const { lag, pending } = (await stream.stats()).groups['mail'] ?? {}
      return lag === 0 && pending === 0
    })
    t.equal(new Set(source.handled.map(({ key }) => key)).size, 20)
    t.ok(source.handled.length <= 22, 'what was at hand then may come twice')
  })

  test('a poison event becomes a dead letter after its retries, its key waits for that, and other keys do not', async t => {
    const { streams, lines } = await start(t)
    const stream = streams.stream<string>('orders')
    const source = createHandler<string>({ fail: ({ data }) => data === 'poison' })
    await stream.consume({ group: 'mail', handler: source.handler, concurrency: 4, retries: 3, backoff: { min: 100 } })
    await appendAll(stream, ['first', 'poison', 'third'], 'bad')
    await appendAll(stream, upTo(50).map(String), 'good')
    await until('the other key is done, and its own goes on', () => source.valuesOf('good').length === 50 && source.valuesOf('bad').length === 2)
    t.same(source.valuesOf('bad'), ['first', 'third'])
    t.same(source.given.filter(({ data }) => data === 'poison').map(({ attempt }) => attempt), [1, 2, 3, 4])
    const order = source.given.map(({ key, data }) => key === 'good' ? key : data)
    t.ok(order.indexOf('third') > order.lastIndexOf('poison') && order.indexOf('good') < order.lastIndexOf('poison'))
    t.match((await stream.stats()).groups, { mail: { deadLetters: 1, lost: 0 } })
    const [letter] = await stream.deadLetters('mail').list()
    const poison = source.given.find(({ data }) => data === 'poison')
    t.match(letter, { key: 'bad', data: 'poison', reason: 'no: "poison"', attempts: 4, eventId: poison?.id })
    t.equal(lines.filter(({ msg }) => msg === 'events: an event became a dead letter').length, 1)
  })

  test('a dead letter is replayed to its own group alone, paged, and discarded', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders', { partitions: 2 })
    let isFixed = false
    const mail = createHandler<number>({ fail: () => !isFixed })
    const index = createHandler<number>()
    await stream.consume({ group: 'mail', handler: mail.handler, retries: 0, concurrency: 8 })
    await stream.consume({ group: 'index', handler: index.handler, concurrency: 8 })
    const ids = await Promise.all(keys.map((key, value) => stream.append(value, { key })))
    const letters = stream.deadLetters('mail')
    await until('all are dead', async () => (await stream.stats()).groups['mail']?.deadLetters === 20)
    const page = await letters.list({ count: 15 })
    const rest = await letters.list({ after: page.at(-1)?.id ?? '' })
    t.same([...page, ...rest].map(({ eventId }) => eventId).sort(), [...ids].sort())
    await t.rejects(letters.replay(['x']), { code: 'FST_REDIS_SUITE_EVENTS_INVALID_OPTION' })
    t.equal(await letters.discard([page[0]?.id ?? '']), 1)
    isFixed = true
    t.equal(await letters.replay([page[1]?.id ?? '', page[0]?.id ?? '']), 1)
    await until('it is handled', () => mail.handled.length === 1)
    t.match(mail.handled[0], { id: page[1]?.eventId, key: page[1]?.key, data: page[1]?.data, appendedAt: Number })
    t.equal(await letters.replay(), 18)
    await until('all are handled', () => mail.handled.length === 19)
    await until('they are done', async () => (await stream.stats()).groups['mail']?.pending === 0)
    t.same(await letters.list(), [])
    t.equal(await letters.discard(), 0)
    t.equal(index.given.length, 20, 'the other group had them once')
  })

  test('a replayed event that fails again becomes a dead letter again', async t => {
    const { streams } = await start(t)
    const stream = streams.stream<number>('orders')
    const source = createHandler<number>({ fail: () => true })
    await stream.consume({ group: 'mail', handler: source.handler, retries: 1, backoff: { min: 1 } })
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
    t.match(await stream.stats(), { groups: { mail: { lag: 0, deadLetters: 0 } } })
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
}
