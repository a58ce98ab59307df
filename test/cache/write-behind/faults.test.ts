import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { createWriteBehinds, type WriteBehind } from '../../../plugins/cache/write-behind/write-behind.js'
import type { WriteBehindOptions } from '../../../plugins/cache/write-behind/options.js'
import { guardRedis } from '../../../plugins/shared/guard.js'
import { startRedis, until, type RedisServer } from '../../helpers/index.js'
import { collectLog } from '../../helpers/app/log-lines.js'

const LEASE_MS = 500
const DEADLINE_MS = 150
const KEYS = Array.from({ length: 20 }, (_, i) => `k${i}`)
const server = await startRedis()
let made = 0
const newPrefix = () => `f${++made}`

/** An instance with a connection of its own; all with one prefix write to one source. */
function instance (t: Test, prefix: string, options: WriteBehindOptions<number>, at: RedisServer = server) {
  const client = new Redis(at.url, { retryStrategy: () => 20 })
  client.on('error', () => {})
  const { logger, lines } = collectLog()
  const { run } = guardRedis(client, logger, DEADLINE_MS)
  const behinds = createWriteBehinds({ client, prefix, run, log: logger, lease: LEASE_MS })
  t.teardown(async () => {
    await behinds.close()
    client.disconnect()
  })
  const behind = behinds.writeBehind<number>('orders', { flushEvery: 20, backoff: { min: 5, max: 20 }, ...options })
  return { behind, behinds, client, warnings: () => lines.filter(({ level }) => Number(level) >= 40).map(({ msg }) => msg) }
}

function createSource () {
  const written: Array<{ key: string, value: number, fence: number }> = []
  const write: WriteBehindOptions<number>['write'] = async (batch, { fence }) => {
    await new Promise(resolve => setTimeout(resolve, 1))
    written.push(...batch.map(({ key, value }) => ({ key, value, fence })))
  }
  const valuesOf = (key: string) => written.filter(each => each.key === key).map(({ value }) => value)
  return { written, write, valuesOf }
}

const upTo = (count: number) => Array.from({ length: count }, (_, i) => i)
const isWhole = (source: ReturnType<typeof createSource>, count: number) => KEYS.every(key => new Set(source.valuesOf(key)).size === count)
const owned = async (behind: WriteBehind<number>) => (await behind.stats()).owned
const streamOf = (prefix: string, partition = 0) => `${prefix}:cache:behind:{orders.${partition}}:stream`

t.test('three instances share the partitions, keep the order of each key while writes fail at random, and write none twice', async t => {
  const prefix = newPrefix()
  const source = createSource()
  let failures = 0
  const write: WriteBehindOptions<number>['write'] = async (batch, context) => {
    if (Math.random() < 0.3) {
      failures++
      throw new Error('at random')
    }
    await source.write(batch, context)
  }
  const options = { write, retries: 100, batch: 20 }
  const all = [instance(t, prefix, options), instance(t, prefix, options), instance(t, prefix, options)]
  await until('none has more than its share, and each partition is written', async () => {
    const counts = await Promise.all(all.map(({ behind }) => owned(behind)))
    return counts.every(count => count <= 2) && counts.reduce((sum, count) => sum + count, 0) === 4
  })
  for (const value of upTo(50)) await Promise.all(KEYS.map((key, i) => all[i % 3]?.behind.add(key, value)))
  await all[0]?.behind.flush()
  for (const key of KEYS) t.same(source.valuesOf(key), upTo(50), key)
  t.ok(failures > 10, `${failures} failures`)
})

t.test('an instance that closes is succeeded at once, one that comes later gets its part', async t => {
  const prefix = newPrefix()
  const source = createSource()
  const first = instance(t, prefix, { write: source.write })
  await until('it has all', async () => await owned(first.behind) === 4)
  const second = instance(t, prefix, { write: source.write })
  await until('each has its part', async () => await owned(first.behind) === 2 && await owned(second.behind) === 2)
  await first.behinds.close()
  await until('the other one has all', async () => await owned(second.behind) === 4)
  for (const key of KEYS) await second.behind.add(key, 0)
  await second.behind.flush()
  t.ok(isWhole(source, 1))
})

t.test('a writer that lost its lease is told to stop, cannot acknowledge, and its successor has a greater fence', async t => {
  const prefix = newPrefix()
  const fences: number[] = []
  const told: boolean[] = []
  const { behind } = instance(t, prefix, {
    partitions: 1,
    async write (_batch, { signal, fence }) {
      fences.push(fence)
      if (fences.length > 1) return
      await server.client().set(`${prefix}:cache:behind:{orders.0}:owner`, 'another', 'PX', 300)
      await until('it is told', () => signal.aborted)
      told.push(signal.aborted)
    }
  })
  await behind.add('a', 1)
  await behind.flush()
  t.same(told, [true])
  t.equal(fences.length, 2, 'what was not acknowledged is given again')
  t.ok(Number(fences[1]) > Number(fences[0]), fences.join())
  t.match(await behind.stats(), { redelivered: 1, written: 2 })
})

t.test('while Redis hangs an add is refused in time, and all that was accepted is written when it is back', async t => {
  const own = await startRedis()
  const source = createSource()
  const { behind, warnings } = instance(t, 'hang', { write: source.write }, own)
  for (const value of upTo(5)) await Promise.all(KEYS.map(key => behind.add(key, value)))
  own.pause()
  const started = performance.now()
  const codes = await Promise.all(upTo(20).map(i => behind.add('x', i).then(() => 'accepted', error => error.code)))
  t.ok(performance.now() - started < DEADLINE_MS + 500)
  t.same(new Set(codes), new Set(['FST_REDIS_SUITE_CACHE_UNCERTAIN']))
  await t.rejects(behind.add('x', 1), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' }, 'when it is known to hang')
  await new Promise(resolve => setTimeout(resolve, LEASE_MS * 2))
  own.resume()
  await until('it is back', async () => await behind.add('y', 1) !== '')
  await behind.flush()
  t.ok(isWhole(source, 5))
  for (const key of KEYS) t.same([...new Set(source.valuesOf(key))], upTo(5))
  t.ok(warnings().length <= 6, warnings().join('\n'))
})

t.test('a server that lost everything, its scripts or the group is worked with again', async t => {
  const own = await startRedis()
  const source = createSource()
  const { behind } = instance(t, 'lost', { write: source.write, partitions: 1 }, own)
  const faults = {
    everything: () => own.client().flushall(),
    scripts: () => own.client().script('FLUSH'),
    group: () => own.client().xgroup('DESTROY', streamOf('lost'), 'writers'),
    'all when it died': () => own.restart()
  }
  let value = 0
  for (const [what, fault] of Object.entries(faults)) {
    await behind.add('a', ++value)
    await behind.flush()
    await fault()
    value++
    await until(`accepted after the loss of ${what}`, async () => await behind.add('a', value) !== '')
    await behind.flush()
    t.ok(source.valuesOf('a').includes(value), what)
  }
})

t.test('on a full server what waits is still written and buried, also by a successor, and new writes are refused', async t => {
  const own = await startRedis()
  const source = createSource()
  let isDown = true
  const write: WriteBehindOptions<number>['write'] = async (batch, context) => {
    if (isDown) throw Object.assign(new Error('down'), { code: 'ECONNREFUSED' })
    if (batch.some(({ value }) => value === 3)) throw new Error('not 3')
    await source.write(batch, context)
  }
  const first = instance(t, 'full', { write, retries: 0 }, own)
  for (const value of upTo(5)) await Promise.all(KEYS.map(key => first.behind.add(key, value)))
  await own.client().config('SET', 'maxmemory', '1')
  await t.rejects(first.behind.add('a', 1), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' })
  await first.behinds.close()
  isDown = false
  const second = instance(t, 'full', { write, retries: 0 }, own)
  await second.behind.flush()
  for (const key of KEYS) t.same([...new Set(source.valuesOf(key))], [0, 1, 2, 4], key)
  t.match(await second.behind.stats(), { backlog: 0, deadLetters: KEYS.length })
  await own.client().config('SET', 'maxmemory', '0')
})

t.test('on a server that has become a replica writes are refused, and it goes on when that is over', async t => {
  const own = await startRedis()
  const source = createSource()
  const { behind } = instance(t, 'replica', { write: source.write }, own)
  await behind.add('a', 1)
  await behind.flush()
  await own.client().replicaof('127.0.0.1', 1)
  await t.rejects(behind.add('a', 2), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' })
  await new Promise(resolve => setTimeout(resolve, LEASE_MS * 2))
  await own.client().replicaof('NO', 'ONE')
  await until('accepted', async () => await behind.add('a', 3) !== '')
  await behind.flush()
  t.same(source.valuesOf('a'), [1, 3])
})

t.test('what holds something never expires, and all that is empty does', async t => {
  const prefix = newPrefix()
  const source = createSource()
  let isGood = true
  const { behind } = instance(t, prefix, {
    retries: 0,
    write: (batch, context) => { if (isGood) return source.write(batch, context); throw new Error('bad') }
  })
  const ttls = async () => {
    const keys = (await server.client().keys(`${prefix}:*`)).sort()
    return Object.fromEntries(await Promise.all(keys.map(async key => [key.slice(`${prefix}:cache:behind:`.length), await server.client().pttl(key) > 0])))
  }
  await until('it writes all', async () => await owned(behind) === 4)
  await behind.add('a', 1)
  await behind.flush()
  await until('the streams are there', async () => (await server.client().keys(`${prefix}:*stream`)).length === 4)
  const idle = await ttls()
  t.same(Object.values(idle), Array(13).fill(true), Object.keys(idle).join())
  isGood = false
  await behind.add('a', 2)
  await behind.flush()
  const [dead] = await server.client().keys(`${prefix}:*dead`)
  t.equal(await server.client().pttl(dead ?? ''), -1)
  await behind.deadLetters.discard()
  t.equal(await server.client().exists(dead ?? ''), 0)

  const waiting = newPrefix()
  const stuck = instance(t, waiting, { partitions: 1, write: source.write, flushEvery: '1h' })
  await until('it has looked', async () => await server.client().pttl(streamOf(waiting)) > 0)
  await stuck.behind.add('a', 1)
  t.equal(await server.client().pttl(streamOf(waiting)), -1)
  await stuck.behind.flush()
  t.ok(await server.client().pttl(streamOf(waiting)) > 0)
})

t.test('a server that may evict accepted writes is named in the log, once', async t => {
  const own = await startRedis({ maxmemoryPolicy: 'allkeys-lru' })
  const { behinds, warnings } = instance(t, 'evict', { write () {} }, own)
  behinds.writeBehind('more', { write () {} })
  await until('it is said', () => warnings().length > 0)
  t.match(warnings(), [/may evict accepted writes/])
})
