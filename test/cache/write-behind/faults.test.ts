import t, { type Test } from 'tap'
import type { WriteBehindOptions } from '../../../plugins/cache/data/write-behind/options.js'
import { portOf } from '../../../plugins/shared/redis/client.js'
import { createTestClock } from '../../../plugins/testing/index.js'
import { advanceUntil, advanceWhile, newPrefix, sharedRedis, startRedis, until } from '../../helpers/index.js'
import { clockOf, connectInstance, createSource, LEASE_MS, openBehind, type Source } from '../../helpers/cache/write-behind.js'
import { createGate, upTo } from '../../helpers/cache/factories.js'

const DEADLINE_MS = 150
const KEYS = upTo(20).map(i => `k${i}`)
const server = await sharedRedis()

type Server = Parameters<typeof clockOf>[1]
type Options = Partial<WriteBehindOptions<number>>

/** Opens instances on one source, each with its own connection, on a shared clock or on its own. */
function setUp (t: Test, at: Server = server, deadline?: number) {
  const prefix = newPrefix()
  const clock = clockOf(t, at, prefix)
  const source = createSource<number>()
  const instance = (options: Options = {}) => openBehind(t, { port: portOf(connectInstance(t, at.url)), prefix, clock, deadline }, { write: source.write, ...options })
  /** An instance whose clock stands still while that of the others advances, as in a paused or killed process. */
  const isolated = (options: Options = {}) => {
    const client = connectInstance(t, at.url)
    return { ...openBehind(t, { port: portOf(client), prefix, clock: createTestClock({ now: clock.now() }), deadline }, { write: source.write, ...options }), die: () => client.disconnect() }
  }
  return { prefix, clock, source, instance, isolated }
}

type Instance = ReturnType<typeof openBehind>

const share = (clock: Instance['clock'], instances: Instance[], most: number) => advanceUntil(clock, `each instance owns ${most} partitions at most, and all are owned`, async () => {
  const counts = await Promise.all(instances.map(async ({ behind }) => (await behind.stats()).owned))
  return counts.every(count => count <= most) && counts.reduce((sum, count) => sum + count, 0) === 4
}, { step: 1000, atMost: 10 * LEASE_MS })
const addAll = async ({ behind }: Instance, values: number[]) => { for (const value of values) await Promise.all(KEYS.map(async key => await behind.add(key, value))) }
const incomplete = (source: Source, values: number[]) => KEYS.filter(key => [...new Set(source.valuesOf(key))].join() !== values.join())
const streamOf = (prefix: string, partition = 0) => `${prefix}:cache:behind:{orders.${partition}}:stream`

t.test('three instances share the partitions, keep the order of each key while every third call fails, and write no write twice', async t => {
  const { clock, source, instance } = setUp(t)
  let calls = 0
  source.refuse = () => ++calls % 3 === 0 ? new Error('every third') : undefined
  const options = { retries: 100, batch: 20, flushEvery: '5s' }
  const all = [instance(options), instance(options), instance(options)]
  await share(clock, all, 2)
  for (const value of upTo(15)) await Promise.all(KEYS.map(async (key, i) => await all[i % 3]?.behind.add(key, value)))
  // It waits for the writes of the other instances as well, which do not flush early.
  await all[0]?.soon(all[0].behind.flush(), 100)
  t.same(KEYS.filter(key => source.valuesOf(key).join() !== upTo(15).join()), [])
  t.ok(calls > 30, `${calls} calls`)
})

t.test('an instance that closes hands its partitions over at once, and a later instance gets its share', async t => {
  const { clock, source, instance } = setUp(t)
  const first = instance()
  await first.owns(4)
  const second = instance()
  await share(clock, [first, second], 2)
  await first.close()
  const passed = await second.owns(4)
  t.ok(passed < LEASE_MS / 2, `${passed} ms: at the next tick, and not when the lease has expired`)
  await addAll(second, [0])
  await second.flush()
  t.same(incomplete(source, [0]), [])
})

t.test('a writer that lost its lease is aborted, cannot acknowledge, and its successor has a greater fence', async t => {
  const { prefix, source, instance } = setUp(t)
  const fences: number[] = []
  const aborted: boolean[] = []
  const { behind, soon } = instance({
    partitions: 1,
    async write (batch, { signal, fence }) {
      fences.push(fence)
      if (fences.length > 1) return await source.write(batch, { fence })
      await server.client().set(`${prefix}:cache:behind:{orders.0}:owner`, 'another', 'PX', 60_000)
      await until('its signal is aborted', () => signal.aborted)
      aborted.push(signal.aborted)
    },
    hardTimeout: '1d'
  })
  await behind.add('a', 1)
  await soon(behind.flush({ timeout: '1h' }), 1000)
  t.same(aborted, [true])
  t.equal(fences.length, 2, 'the write that was not acknowledged is delivered again')
  t.ok(Number(fences[1]) > Number(fences[0]), fences.join())
  t.same(source.valuesOf('a'), [1])
  t.match(await behind.stats(), { redelivered: 1, written: 2 })
})

t.test('an instance that dies between writing and acknowledging loses no write: its successor writes the batch again, and the others once', async t => {
  const { source, instance, isolated } = setUp(t)
  const first = isolated({
    partitions: 1,
    batch: 3,
    async write (batch, context) {
      await source.write(batch, context)
      first.die()
      await new Promise(() => {})
    }
  })
  await first.isIdle(1)
  const second = instance({ partitions: 1 })
  for (const value of upTo(10)) await second.behind.add('a', value)
  first.behind.flush().catch(() => {})
  await advanceUntil(first.clock, 'it wrote its batch', () => source.batches.length === 1)
  t.same(source.valuesOf('a'), [0, 1, 2])
  // The lease of the first instance expires.
  await second.clock.advance(LEASE_MS)
  await second.owns(1)
  await second.flush()
  t.same(source.valuesOf('a'), [0, 1, 2, ...upTo(10)])
  t.match(await second.behind.stats(), { backlog: 0, redelivered: 3, written: 10 })
})

t.test('a source that refuses a fence older than the newest one is safe from a writer that was paused while it wrote', async t => {
  const { clock, source, instance, isolated } = setUp(t)
  const [begun, goesOn] = [createGate(), createGate()]
  const kept: number[] = []
  let newest = 0
  const write: WriteBehindOptions<number>['write'] = (batch, { fence }) => {
    if (fence < newest) throw new Error('an older fence')
    newest = fence
    kept.push(...batch.map(({ value }) => value))
  }
  const paused = isolated({
    partitions: 1,
    async write (batch, context) {
      begun.open()
      await goesOn.opened
      await write(batch, context)
    }
  })
  await paused.isIdle(1)
  await paused.behind.add('a', 1)
  const flushing = paused.flush()
  flushing.catch(() => {})
  await begun.opened
  await clock.advance(LEASE_MS)
  const successor = instance({ partitions: 1, write })
  await successor.owns(1)
  await successor.flush()
  await successor.behind.add('a', 2)
  await successor.flush()
  t.same(kept, [1, 2])
  goesOn.open()
  await flushing
  t.same(kept, [1, 2])
  t.match(await paused.behind.stats(), { written: 0, failed: 1, backlog: 0, deadLetters: 0 })
  t.same(source.written, [])
})

t.test('a write that ends its process each time becomes a dead letter after 3 times, and all others are written', async t => {
  const { prefix, source, instance, isolated, clock } = setUp(t)
  const keys = [...'abcdefgh']
  const adder = instance({ partitions: 1, write: () => { throw new Error('not here') }, isOutage: () => true, flushEvery: '1h' })
  for (const value of upTo(10)) for (const key of keys) await adder.behind.add(key, value)
  await adder.close()

  let deaths = 0
  const start = () => {
    const state = { isDead: false }
    const started = isolated({
      partitions: 1,
      batch: 20,
      retries: 2,
      async write (batch, context) {
        if (batch.some(({ key, value }) => key === 'c' && value === 5)) {
          deaths++
          state.isDead = true
          started.die()
          await new Promise(() => {})
        }
        await source.write(batch, context)
      }
    })
    return { ...started, state }
  }
  const backlog = async () => Number(await server.client().xlen(streamOf(prefix)))
  for (let process = start(); await backlog() > 0;) {
    await advanceUntil(process.clock, 'it has written all, or is dead', async () => process.state.isDead || await backlog() === 0, { step: 1000, atMost: LEASE_MS })
    if (!process.state.isDead) break
    // Its lease expires.
    await clock.advance(LEASE_MS)
    process = start()
  }
  t.equal(deaths, 3)
  t.same(keys.filter(key => [...new Set(source.valuesOf(key))].join() !== upTo(10).filter(value => key !== 'c' || value !== 5).join()), [])
  t.match(await adder.behind.deadLetters.list(), [{ key: 'c', value: 5, reason: 'delivered 3 times without an outcome', attempts: 3 }])
})

t.test('while Redis hangs add() is refused within its deadline, and all accepted writes are written when it is back', async t => {
  const own = await startRedis()
  const { clock, source, instance } = setUp(t, own, DEADLINE_MS)
  const first = instance({ flushEvery: 20 })
  const { behind, flush, warnings } = first
  await addAll(first, upTo(5))
  own.pause()
  const { value: codes, passed } = await advanceWhile(clock, Promise.all(upTo(20).map(i => behind.add('x', i).then(() => 'accepted', error => error.code))))
  t.ok(passed <= DEADLINE_MS + 20, `${passed} ms of the test's clock`)
  t.same(codes, Array(20).fill('FST_REDIS_SUITE_CACHE_UNCERTAIN'))
  await t.rejects(behind.add('x', 1), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' }, 'at once, when it is known to hang')
  // The leases expire meanwhile.
  await clock.advance(LEASE_MS)
  own.resume()
  await advanceUntil(clock, 'a write is accepted', () => behind.add('y', 1).then(() => true, () => false), { atMost: LEASE_MS })
  await flush()
  t.same(incomplete(source, upTo(5)), [])
  t.ok(warnings().length <= 6, warnings().join('\n'))
})

t.test('write-behind recovers from a server that lost its data, its scripts or the consumer group', async t => {
  const own = await startRedis()
  const { prefix, clock, source, instance } = setUp(t, own)
  const { behind, soon } = instance({ partitions: 1 })
  const faults = {
    data: () => own.client().flushall(),
    scripts: () => own.client().script('FLUSH'),
    group: () => own.client().xgroup('DESTROY', streamOf(prefix), 'writers'),
    'data, when it was killed': () => own.restart()
  }
  let value = 0
  const flush = () => soon(behind.flush({ timeout: '1h' }), 1000)
  for (const [what, fault] of Object.entries(faults)) {
    await behind.add('a', ++value)
    await flush()
    await fault()
    value++
    await until(`a write is accepted after the loss of ${what}`, async () => {
      await clock.advance(250)
      return await soon(behind.add('a', value)) !== ''
    })
    await flush()
    t.ok(source.valuesOf('a').includes(value), what)
  }
})

t.test('on a full server waiting writes are written or become dead letters, also by a successor, and new writes are refused', async t => {
  const own = await startRedis()
  const { source, instance } = setUp(t, own)
  let isDown = true
  source.refuse = batch => {
    if (isDown) return Object.assign(new Error('down'), { code: 'ECONNREFUSED' })
    return batch.some(({ value }) => value === 3) ? new Error('not 3') : undefined
  }
  const first = instance({ retries: 0 })
  await addAll(first, upTo(5))
  await own.client().config('SET', 'maxmemory', '1')
  await t.rejects(first.behind.add('a', 1), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' })
  await first.close()
  isDown = false
  const second = instance({ retries: 0 })
  await second.owns(4)
  await second.flush()
  t.same(incomplete(source, [0, 1, 2, 4]), [])
  t.match(await second.behind.stats(), { backlog: 0, deadLetters: KEYS.length })
  await own.client().config('SET', 'maxmemory', '0')
})

t.test('on a server that has become a replica writes are refused, and when it is a master again they are accepted', async t => {
  const own = await startRedis()
  // Keys age with the clock only where they can be written.
  const at = { url: own.url, answers: true }
  const { clock, source, instance } = setUp(t, at)
  const { behind, soon, flush } = instance()
  await behind.add('a', 1)
  await flush()
  at.answers = false
  await own.client().replicaof('127.0.0.1', 1)
  await t.rejects(behind.add('a', 2), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' })
  await clock.advance(LEASE_MS)
  await own.client().replicaof('NO', 'ONE')
  at.answers = true
  await advanceUntil(clock, 'a write is accepted', () => behind.add('a', 3).then(() => true, () => false))
  await soon(behind.flush({ timeout: '1h' }), 1000)
  t.same(source.valuesOf('a'), [1, 3])
})

t.test('a key that holds a write or a dead letter never expires, and each empty one does', async t => {
  const { prefix, source, instance } = setUp(t)
  const { behind, owns, flush } = instance({ retries: 0 })
  const ttls = async () => {
    const keys = (await server.client().keys(`${prefix}:*`)).sort()
    return Object.fromEntries(await Promise.all(keys.map(async key => [key.slice(`${prefix}:cache:behind:`.length), await server.client().pttl(key) > 0])))
  }
  await owns(4)
  await behind.add('a', 1)
  await flush()
  await until('the streams exist', async () => (await server.client().keys(`${prefix}:*stream`)).length === 4)
  const idle = await ttls()
  t.same(Object.values(idle), Array(13).fill(true), Object.keys(idle).join())
  source.refuse = () => new Error('bad')
  await behind.add('a', 2)
  await flush()
  const [dead] = await server.client().keys(`${prefix}:*dead`)
  t.equal(await server.client().pttl(dead ?? ''), -1)
  await behind.deadLetters.discard()
  t.equal(await server.client().exists(dead ?? ''), 0)

  const waiting = setUp(t)
  const stuck = waiting.instance({ partitions: 1 })
  await stuck.isIdle(1)
  t.ok(await server.client().pttl(streamOf(waiting.prefix)) > 0)
  await stuck.behind.add('a', 1)
  t.equal(await server.client().pttl(streamOf(waiting.prefix)), -1)
  await stuck.flush()
  t.ok(await server.client().pttl(streamOf(waiting.prefix)) > 0)
})

t.test('the format in Redis is stable: pending writes, a backlog and dead letters of an earlier version are read', async t => {
  const { prefix, source, instance } = setUp(t)
  const client = server.client()
  const stream = streamOf(prefix)
  await client.xadd(stream, '1-1', 'k', 'a', 'v', '1')
  await client.xgroup('CREATE', stream, 'writers', '0')
  await client.xreadgroup('GROUP', 'writers', 'writer', 'COUNT', 1, 'STREAMS', stream, '>')
  await client.xadd(stream, '2-1', 'k', 'a', 'v', '2')
  await client.xadd(stream.replace(/stream$/, 'dead'), '3-1', 'k', 'b', 'v', '3', 'id', '0-1', 'reason', 'no', 'given', '6')
  const { behind, flush } = instance({ partitions: 1 })
  t.same(await behind.deadLetters.list(), [{ id: '3-1.0', writeId: '0-1.0', key: 'b', value: 3, reason: 'no', attempts: 6, diedAt: 3 }])
  t.equal(await behind.deadLetters.replay(), 1)
  await flush()
  t.same(source.written.map(({ key, value, attempt }) => [key, value, attempt]), [['a', 1, 2], ['a', 2, 1], ['b', 3, 1]])
})

t.test('the log names a server that may evict accepted writes, once', async t => {
  const own = await startRedis({ maxmemoryPolicy: 'allkeys-lru' })
  const { behinds, warnings } = setUp(t, own).instance()
  behinds.writeBehind('more', { write () {} })
  await until('a warning', () => warnings().length > 0)
  t.match(warnings(), [/may evict accepted writes/])
  t.equal(warnings().length, 1)
})
