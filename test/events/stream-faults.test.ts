import t, { type Test } from 'tap'
import { createTestClock, type TestClock } from '../../plugins/testing/index.js'
import { createProcessClock } from '../helpers/events/process-clock.js'
import { judge } from '../helpers/events/stream-children.js'
import { advanceUntilDone, appendAll, createGate, createHandler, createTestStreams, dataOf, follow, LEASE_MS, startConsumer, take, upTo } from '../helpers/events/streams.js'
import { advanceUntil, advanceWhile, newPrefix, sharedRedis, startProxy, startRedis, until } from '../helpers/index.js'

const DEADLINE_MS = 200
const RECONNECT = { retryStrategy: () => 20, maxRetriesPerRequest: null }
const logOf = (prefix: string) => `${prefix}:events:stream:{orders.0}:log`
const idIn = (id: string) => id.split('.')[0] ?? ''

t.test('while Redis is unavailable append is refused in time; then consumer and reader continue without loss, with one log line a change', async t => {
  const server = await startRedis({ appendonly: true })
  const { app: { redis }, streams, lines, clock } = await createTestStreams(t, { store: server, timeout: DEADLINE_MS, connection: RECONNECT })
  const stream = streams.stream<number>('orders')
  const source = createHandler<number>()
  await startConsumer(clock, stream, { group: 'mail', handler: source.handler })
  const read = follow(t, stream.read({ after: '0' }))
  await appendAll(stream, upTo(50), 'a')
  await until('all are handled and read', () => source.handled.length === 50 && read.length === 50)
  await server.kill()
  const { passed } = await advanceWhile(clock, t.rejects(stream.append(50), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE', statusCode: 503 }))
  t.ok(passed <= DEADLINE_MS + 10, `refused after ${passed} ms`)
  await advanceWhile(clock, t.rejects(stream.stats(), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE' }))
  const counts = () => ['the store of a stream is unavailable, its events wait', 'a stream cannot be read, its readers wait',
    'the store of a stream is available again', 'a stream is read again'].map(text => lines.filter(({ msg }) => msg === `events: ${text}`).length)
  await advanceUntil(clock, 'both have logged it', () => counts().slice(0, 2).every(count => count > 0))
  await clock.advance('2s')
  t.same(counts(), [1, 1, 0, 0])
  await server.restart()
  await redis.ping()
  await advanceUntil(clock, 'an event is appended', () => stream.append(100, { key: 'a' }).then(() => true, () => false))
  await advanceUntil(clock, 'both continue', () => source.handled.at(-1)?.data === 100 && read.at(-1)?.data === 100)
  await advanceUntil(clock, 'both have logged it', () => counts().slice(2).every(count => count > 0))
  t.same(counts(), [1, 1, 1, 1])
  // 50 was refused, but the client may have sent it when it was connected again.
  t.same(dataOf(source.handled).filter(value => value !== 50), [...upTo(50), 100])
  t.same(dataOf(read).filter(value => value !== 50), [...upTo(50), 100])
})

t.test('a consumer that waits for an acknowledgement while Redis is unavailable does not log that the store is available again', async t => {
  const server = await startRedis({ appendonly: true })
  const { streams, lines, clock } = await createTestStreams(t, { store: server, timeout: DEADLINE_MS, connection: RECONNECT })
  const stream = streams.stream<number>('orders')
  const { gate, open } = createGate()
  const source = createHandler<number>({ gate })
  await startConsumer(clock, stream, { group: 'mail', concurrency: 1, handler: source.handler })
  await appendAll(stream, upTo(2), 'a')
  await until('the handler runs', () => source.given.length === 1)
  await server.kill()
  open()
  const count = (text: string) => lines.filter(({ msg }) => msg === `events: the store of a stream ${text}`).length
  await advanceUntil(clock, 'the failed acknowledgement is logged', () => count('is unavailable, its events wait') > 0)
  await clock.advance('5s')
  t.same([count('is unavailable, its events wait'), count('is available again')], [1, 0])
  await server.restart()
  await advanceUntil(clock, 'the next event is handled', () => source.handled.length === 2)
  t.same([count('is unavailable, its events wait'), count('is available again')], [1, 1])
})

t.test('on a Redis that cannot trim by age, as before 6.2, append resolves, no event is delivered twice, and old events are deleted', async t => {
  const server = await startRedis()
  await server.client().call('ACL', 'SETUSER', 'default', '-xtrim')
  const monitor = await server.client().monitor()
  t.teardown(() => monitor.disconnect())
  const sent: string[] = []
  monitor.on('monitor', (_time: string, args: string[]) => { sent.push(...args) })
  const { streams, clock } = await createTestStreams(t, { store: server })
  const stream = streams.stream<number>('orders', { maxAge: '10m' })
  const source = createHandler<number>({ fail: ({ data }) => data === 1 })
  await startConsumer(clock, stream, { group: 'mail', retries: 0, handler: source.handler })
  const [first] = await appendAll(stream, upTo(3), 'a')
  await advanceUntilDone(clock, stream, 'mail')
  t.same(dataOf(source.given).sort(), [0, 1, 2])
  t.same(dataOf(await take(stream.read({ after: first }), 2)), [1, 2])
  const letters = stream.deadLetters('mail')
  const [letter] = await letters.list()
  t.same(await letters.list({ after: letter?.id ?? '' }), [])
  await clock.advance('6m')
  await stream.append(3)
  await clock.advance('6m')
  await stream.append(4)
  t.equal((await stream.stats()).length, 2)
  await until('all commands are seen', () => sent.includes('4'))
  t.same(sent.filter(arg => /^\(\d/.test(arg)), [], 'no range that only Redis 6.2 and later know')
})

t.test('a reader whose connections break again and again gets each event once', async t => {
  const { port } = await sharedRedis()
  const proxy = await startProxy(port)
  t.teardown(() => proxy.stop())
  const { streams, clock, prefix } = await createTestStreams(t, { store: { url: `redis://${proxy.host}:${proxy.port}`, answers: false }, connection: RECONNECT })
  const { streams: direct } = await createTestStreams(t, { store: 'redis', prefix })
  const read = follow(t, streams.stream<number>('orders').read({ after: '0' }))
  const stream = direct.stream<number>('orders')
  for (const turn of upTo(10)) {
    await appendAll(stream, upTo(30).map(i => turn * 30 + i))
    await advanceUntil(clock, `some of turn ${turn} are read`, () => read.length > turn * 30)
    proxy.sever()
  }
  await advanceUntil(clock, 'all are read', () => read.length >= 300)
  t.same(dataOf(read), upTo(300))
  t.same(read.filter(({ gap }) => gap), [])
})

t.test('an event that is not JSON becomes a dead letter at once, and is a gap for a reader', async t => {
  const { app: { redis }, streams, clock, prefix } = await createTestStreams(t, { store: 'redis' })
  const stream = streams.stream<number>('orders')
  const source = createHandler<number>()
  await startConsumer(clock, stream, { group: 'mail', handler: source.handler })
  await stream.append(1)
  await redis.hincrby(logOf(prefix).replace(/log$/, 'meta'), 'n', 1)
  await redis.xadd(logOf(prefix), `${clock.now()}-1`, 'n', '2', 'v', Buffer.from([0x22, 0xff, 0xfe, 0x22]), 'k', 'a')
  await redis.xadd(logOf(prefix), `${clock.now()}-2`, 'what', 'ever')
  await stream.append(3)
  t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { deadLetters: 2 } })
  t.same(dataOf(source.handled), [1, 3])
  const [letter] = await stream.deadLetters('mail').list()
  t.match(letter, { key: 'a', data: undefined, reason: /^cannot be decoded/, attempts: 0 })
  t.match(await take(stream.read({ after: '0' }), 2), [{ data: 1 }, { data: 3, gap: true }])
  t.equal(await stream.deadLetters('mail').replay(), 2)
  await advanceUntil(clock, 'both are dead letters again', async () => (await stream.stats()).groups['mail']?.deadLetters === 2)
  t.match(await stream.deadLetters('mail').list(), [{ attempts: 0 }, { attempts: 0 }])
})

t.test('consumer and reader recover from lost scripts, a lost group, and a server that lost everything', async t => {
  const server = await startRedis()
  const { streams, clock, prefix } = await createTestStreams(t, { store: server })
  const stream = streams.stream<number>('orders')
  const source = createHandler<number>()
  await startConsumer(clock, stream, { group: 'mail', handler: source.handler })
  const read = follow(t, stream.read())
  const append = async (value: number) => {
    // An id that is made after all was lost is greater than those before, as it is of a later time.
    await clock.advance('1s')
    await stream.append(value)
    await advanceUntil(clock, `${value} is handled and read`, () => dataOf(source.handled).includes(value) && dataOf(read).includes(value), { step: 100 })
  }
  await append(1)
  await server.client().script('FLUSH')
  await append(2)
  await server.client().xgroup('DESTROY', logOf(prefix), 'mail')
  await append(3)
  await server.client().flushall()
  await append(4)
  t.same(dataOf(read), [1, 2, 3, 4])
  // A group that was lost begins at the oldest event.
  t.same([...new Set(dataOf(source.handled))], [1, 2, 3, 4])
})

t.test('a full server refuses new events, and those it has are handled, dead-lettered and taken over', async t => {
  const server = await startRedis()
  const { streams, clock } = await createTestStreams(t, { store: server })
  const stream = streams.stream<number>('orders')
  await appendAll(stream, upTo(100), 'a')
  await server.client().config('SET', 'maxmemory', '1')
  await t.rejects(stream.append(1), { code: 'FST_REDIS_SUITE_EVENTS_STORE_UNAVAILABLE' })
  const source = createHandler<number>({ fail: ({ data }) => data === 50 })
  await startConsumer(clock, stream, { group: 'mail', handler: source.handler, retries: 0 })
  t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { deadLetters: 1, lost: 0 } })
  t.same(dataOf(source.handled), upTo(100).filter(value => value !== 50))
})

t.test('a hundred readers of a stream send the server no more queries than one does, over one more connection', async t => {
  const server = await startRedis()
  const client = server.client()
  const { streams, clock } = await createTestStreams(t, { store: server })
  const stream = streams.stream<number>('orders')
  const connections = async () => Number(/connected_clients:(\d+)/.exec(await client.info('clients'))?.[1])
  const ranges = async () => Number(/cmdstat_xrange:calls=(\d+)/.exec(await client.info('commandstats'))?.[1] ?? 0)
  // The clock has a connection of its own from its first step on.
  await clock.advance(1)
  const before = await connections()
  await stream.append(-1)
  const all = upTo(100).map(() => follow(t, stream.read()))
  const other = follow(t, streams.stream<number>('other').read())
  await until('every reader reads', async () => {
    await stream.append(0)
    await streams.stream<number>('other').append(0)
    return all.every(read => read.length > 0) && other.length > 0
  })
  t.equal(await connections(), before + 1)
  await stream.append(-2)
  await until('every reader is at the end', () => all.every(read => read.at(-1)?.data === -2))
  const asked = await ranges()
  const lengths = all.map(read => read.length)
  await appendAll(stream, upTo(50))
  await until('every reader has all', () => all.every(read => read.at(-1)?.data === 49))
  t.same(all.map((read, i) => dataOf(read.slice(lengths[i]))), all.map(() => upTo(50)))
  // One query an event at most: the clock stands still, so no reader polls.
  t.ok(await ranges() - asked <= 51, `${await ranges() - asked} queries`)
})

t.test('a slow reader delays no other reader, and misses nothing', async t => {
  const { streams } = await createTestStreams(t, { store: 'redis' })
  const stream = streams.stream<number>('orders')
  const slow = stream.read({ after: '0' })[Symbol.asyncIterator]()
  await stream.append(0)
  t.equal((await slow.next()).value?.data, 0)
  const quick = follow(t, stream.read({ after: '0' }))
  for (const turn of upTo(15)) await Promise.all(upTo(100).map(i => stream.append(1 + turn * 100 + i)))
  await until('the quick one has all', () => quick.length === 1501)
  t.same(dataOf(quick), upTo(1501))
  const values: unknown[] = []
  while (values.length < 1500) values.push((await slow.next()).value?.data)
  t.same(values, upTo(1501).slice(1))
  await slow.return?.()
})

t.test('every key has a TTL', async t => {
  const { app: { redis }, streams, clock, prefix } = await createTestStreams(t, { store: 'redis' })
  const stream = streams.stream<number>('orders', { partitions: 2 })
  const source = createHandler<number>({ fail: ({ data }) => data < 3 })
  await startConsumer(clock, stream, { group: 'mail', handler: source.handler, retries: 0 })
  await startConsumer(clock, stream, { group: 'new', handler: () => {}, from: '$' })
  await appendAll(stream, upTo(6))
  t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { deadLetters: 3 } })
  await stream.deadLetters('mail').replay([(await stream.deadLetters('mail').list())[0]?.id ?? ''])
  const keys = await redis.keys(`${prefix}:*`)
  t.ok(keys.length > 10, keys.join(', '))
  const ttls = await Promise.all(keys.map(async key => ({ key, ttl: await redis.pttl(key) })))
  t.same(ttls.filter(({ ttl }) => ttl === -1), [])
})

t.test('a stream that expired before its group had read it reports its events as lost, and the group continues', async t => {
  const { app, streams, clock, prefix } = await createTestStreams(t, { store: 'redis' })
  const options = { maxAge: '1h', retention: '30 days' }
  await startConsumer(clock, streams.stream<number>('orders', options), { group: 'mail', handler: () => {}, from: '$' })
  await advanceWhile(clock, app.close())
  const { app: { redis }, streams: others } = await createTestStreams(t, { store: 'redis', prefix, clock })
  const again = others.stream<number>('orders', options)
  await appendAll(again, [1, 2, 3])
  await clock.advance('1h')
  t.equal(await redis.exists(logOf(prefix)), 0)
  t.match((await again.stats()).groups, { mail: { lag: 0, lost: 3 } })
  await again.append(4)
  const source = createHandler<number>()
  await startConsumer(clock, again, { group: 'mail', handler: source.handler, from: '$' })
  t.match(await advanceUntilDone(clock, again, 'mail'), { mail: { lag: 0, lost: 3 } })
  t.same(dataOf(source.handled), [4])
})

t.test('a consumer and a reader that were opened while Redis was unavailable start when it is back', async t => {
  const server = await startRedis()
  const { app: { redis }, streams, clock } = await createTestStreams(t, { store: server, timeout: DEADLINE_MS, connection: RECONNECT })
  await redis.ping()
  await server.kill()
  const stream = streams.stream<number>('orders')
  const source = createHandler<number>()
  const { value: consumer } = await advanceWhile(clock, stream.consume({ group: 'mail', handler: source.handler }))
  const read = follow(t, stream.read())
  await clock.advance('1s')
  t.equal(consumer.owned, 0)
  await server.restart()
  await advanceUntil(clock, 'the consumer starts', () => consumer.owned === 1, { step: 100 })
  await advanceUntil(clock, 'an event is handled and read', () => stream.append(1).then(() => source.handled.length > 0 && read.length > 0, () => false))
  t.same([source.handled[0]?.data, read[0]?.data], [1, 1])
})

t.test('an event that is trimmed while it waits for a retry still becomes a dead letter with its data; taken over, it is counted as lost', async t => {
  const { app: { redis }, streams, clock, prefix } = await createTestStreams(t, { store: 'redis' })
  const stream = streams.stream<string>('orders', { maxLength: 1 })
  const groups = ['mail', 'stuck'].map(group => ({ group, ...createHandler<string>({ fail: ({ data }) => data === 'poison' }) }))
  const [mail, stuck] = await Promise.all(groups.map(({ group, handler }) =>
    startConsumer(clock, stream, { group, handler, retries: group === 'mail' ? 1 : 10, backoff: { min: '30s' }, concurrency: 10 })))
  const id = await stream.append('poison', { key: 'a' })
  await until('each group has failed once', () => groups.every(({ given }) => given.length === 1))
  // Redis trims whole nodes of 100 entries with the first entry of the next node. By then both groups have handled them: with the
  // poison event, the first two rounds fill a node.
  for (const round of upTo(6)) {
    await appendAll(stream, upTo(round === 0 ? 49 : 50).map(i => `${round} ${i}`), 'b')
    await until('each group has handled them', () => groups.every(({ handled }) => handled.length === (round + 1) * 50 - 1))
  }
  t.same(await redis.xrange(logOf(prefix), idIn(id), idIn(id)), [], 'the event is trimmed')
  await until('both groups wait for the retry alone', async () => Object.values((await stream.stats()).groups).every(({ lag, pending }) => lag === 0 && pending === 1))
  t.match((await stream.stats()).groups, { mail: { deadLetters: 0, lost: 0 }, stuck: { deadLetters: 0, lost: 0 } })

  await advanceWhile(clock, stuck?.close() ?? Promise.reject(new Error('no consumer')))
  await advanceUntil(clock, 'it is a dead letter', async () => (await stream.stats()).groups['mail']?.deadLetters === 1, { step: 1000 })
  t.match(await stream.deadLetters('mail').list(), [{ data: 'poison', key: 'a', attempts: 2, eventId: id }])
  await advanceWhile(clock, mail?.close() ?? Promise.reject(new Error('no consumer')))
  t.match((await stream.stats()).groups, { mail: { lag: 0, pending: 0, lost: 0 }, stuck: { lag: 0, pending: 1, lost: 0, deadLetters: 0 } })

  await startConsumer(clock, stream, { group: 'stuck', handler: groups[1]?.handler ?? (() => {}) })
  t.match(await advanceUntilDone(clock, stream, 'stuck'), { stuck: { lag: 0, pending: 0, lost: 1, deadLetters: 0 } })
  t.equal(groups[1]?.given.filter(({ data }) => data === 'poison').length, 1, 'it was not delivered again')
})

t.test('the format in Redis is stable: pending, new, replayed and dead events of an earlier version are read', async t => {
  const { app: { redis }, streams, clock, prefix } = await createTestStreams(t, { store: 'redis' })
  const key = (what: string) => logOf(prefix).replace(/log$/, what)
  await redis.hset(key('meta'), 'n', 2, 'read:mail', 1)
  await redis.xadd(key('log'), '1-1', 'n', 1, 'v', '1', 'k', 'a')
  await redis.xgroup('CREATE', key('log'), 'mail', '0')
  await redis.xreadgroup('GROUP', 'mail', 'holder', 'COUNT', 1, 'STREAMS', key('log'), '>')
  await redis.xadd(key('log'), '2-1', 'n', 2, 'v', '2', 'k', 'a')
  await redis.xadd(key('again:mail'), '5-1', 'n', 3, 'v', '3', 'id', '3-1')
  await redis.xadd(key('dead:mail'), '6-1', 'n', 4, 'v', '4', 'id', '4-1', 'reason', 'no', 'given', 6, 'k', 'a')
  const stream = streams.stream<number>('orders')
  const source = createHandler<number>()
  await startConsumer(clock, stream, { group: 'mail', handler: source.handler })
  t.match(await advanceUntilDone(clock, stream, 'mail'), { mail: { pending: 0, deadLetters: 1 } })
  await until('the replayed event is handled', () => source.handled.length === 3)
  t.same(source.given.map(({ id, data, attempt }) => [id, data, attempt]).sort(), [['1-1.1', 1, 2], ['2-1.2', 2, 1], ['3-1.3', 3, 1]])
  t.match(await stream.deadLetters('mail').list(), [{ id: '6-1.0', eventId: '4-1.4', key: 'a', data: 4, reason: 'no', attempts: 6, diedAt: 6 }])
})

interface Instance {
  /** Acts as SIGKILL: no timer fires, no command is sent, and no handler continues. */
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
      // It was handled, and the acknowledgement is never sent.
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
  t.ok(handled.some(([, , attempt]) => attempt === '2'), 'events in flight are delivered again as their second attempt')
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
  t.match(await stream.deadLetters('mail').list(), [{ data: 'poison', attempts: 3, reason: 'delivered 3 times without an outcome' }])
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
