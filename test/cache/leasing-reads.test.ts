// While most keys are missing, a lookup acquires the lease of the fill as well.
import type { FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import type { Entry } from '../../plugins/cache/store/entry.js'
import { RedisCacheStore } from '../../plugins/cache/store/redis-store.js'
import { finishFillsScript, readOrAcquireScript, releaseFillScript } from '../../plugins/cache/store/scripts.js'
import { ALL_TAG, PATTERN_TAG, type LeaseRequest } from '../../plugins/cache/store/store.js'
import { hashId } from '../../plugins/shared/plugin/keys.js'
import { portOf } from '../../plugins/shared/redis/client.js'
import { advanceWhile, createTestApp, openStore, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { counting, createGate, upTo } from '../helpers/cache/factories.js'
import { interceptCommands } from '../helpers/redis/intercept-commands.js'

const open = async (t: Test) => {
  const { client, port, prefix, clock } = await openStore(t, 'redis')
  if (!(client instanceof Redis) || port === undefined) throw new Error('a client was expected')
  return { store: new RedisCacheStore(port, prefix, 'self', clock), client, prefix, clock }
}

const wanted = (fillId: string, token = 'me'): LeaseRequest => ({ fillId, token, ttl: 60_000 })
const entryOf = (label: string, tags: Record<string, string>): Entry =>
  ({ kind: 'value', label, meta: {}, body: Buffer.from(label), storedAt: 0, deleteAt: 60_000, tags })

t.test('the read of a missing entry acquires the lease, with what a fill needs', async t => {
  const { store, clock } = await open(t)
  const id = hashId('a')
  const found = await store.read(id, ['x', 'y'], wanted('w'))
  t.same([found.entry, found.token, found.acquired?.now], [undefined, '', clock.now()])
  const versions = found.acquired?.versions ?? {}
  t.same(Object.keys(versions).sort(), [ALL_TAG, PATTERN_TAG, 'x', 'y'].sort())
  t.ok(Object.values(versions).every(version => version.startsWith('0-')), 'tags without a version have got one')
  t.same(found.versions, Object.fromEntries([ALL_TAG, 'x', 'y'].map(tag => [tag, versions[tag]])))
  t.match(await store.lease('w', 'another').acquire([], 1000), { kind: 'held', holder: 'me' })
  const finished = await store.lease('w', 'me').finish(id, entryOf('a', versions), found.token, versions[PATTERN_TAG] ?? '')
  t.same(finished, { isStored: true, isReleased: true })
  t.equal((await store.lease('w', 'another').acquire([], 1000)).kind, 'acquired')
  t.equal((await store.read(id, ['x'])).entry?.label, 'a')
})

t.test('a read acquires nothing where there is an entry, a tombstone or another holder, or a tag was invalidated', async t => {
  const { store } = await open(t)
  const filled = await store.read(hashId('filled'), ['x'], wanted('filled'))
  const versions = filled.acquired?.versions ?? {}
  await store.lease('filled', 'me').finish(hashId('filled'), entryOf('filled', versions), '', versions[PATTERN_TAG] ?? '')
  await store.remove(hashId('removed'))
  await store.lease('held', 'another').acquire([], 60_000)
  const isFree = async (fillId: string) => (await store.lease(fillId, 'test').acquire([], 1000)).kind === 'acquired'
  const hit = await store.read(hashId('filled'), ['x'], wanted('filled', 'again'))
  t.same([hit.entry?.label, hit.acquired, await isFree('filled')], ['filled', undefined, true])
  const removed = await store.read(hashId('removed'), ['x'], wanted('removed'))
  t.same([removed.entry, removed.token.length, removed.acquired, await isFree('removed')], [undefined, 12, undefined, true])
  t.same((await store.read(hashId('held'), ['x'], wanted('held'))).acquired, undefined)
  // In one batch, each read heeds its own tags.
  await store.invalidate(['old'])
  const [old, fresh] = await Promise.all([store.read(hashId('1'), ['old'], wanted('1')), store.read(hashId('2'), ['x'], wanted('2'))])
  t.same([old.acquired, await isFree('1'), fresh.acquired !== undefined, await isFree('2')], [undefined, true, true, false])
  t.equal((await store.read(hashId('filled'), ['old', 'x'], wanted('3'))).entry?.label, 'filled')
})

t.test('a server without memory, or one that only reads, is read all the same', async t => {
  const server = await startRedis()
  const client = new Redis(server.url)
  t.teardown(() => client.disconnect())
  const store = new RedisCacheStore(portOf(client), 'p', 'self')
  const versions = (await store.read(hashId('a'), [], wanted('a'))).acquired?.versions ?? {}
  await store.lease('a', 'me').finish(hashId('a'), entryOf('a', versions), '', versions[PATTERN_TAG] ?? '')
  const readBoth = async () => {
    const found = await Promise.all(['a', 'b'].map(name => store.read(hashId(name), ['new'], wanted(`${name} again`))))
    return found.map(({ entry, acquired, versions }) => [entry?.label, acquired, versions['new']])
  }
  const expected = [['a', undefined, undefined], [undefined, undefined, undefined]]
  await client.config('SET', 'maxmemory', '1')
  t.same(await readBoth(), expected)
  await client.config('SET', 'maxmemory', '0')
  await client.replicaof('127.0.0.1', '1')
  t.same(await readBoth(), expected)
})

const OPTIONS: TestAppOptions = { store: 'redis', plugins: { cache: { ttl: '1m', timeout: '1h' } } }
const SCRIPTS: Record<string, string> = { [readOrAcquireScript.sha1]: 'read or acquire', [finishFillsScript.sha1]: 'finish', [releaseFillScript.sha1]: 'release' }

/** Misses so many keys that lookups acquire leases. */
async function missMany ({ cache }: FastifyInstance): Promise<void> {
  for (const i of upTo(20)) await cache.getOrSet(`other ${i}`, () => i)
  await until('the last one is stored', async () => await cache.get('other 19') === 19)
  await turns(2)
}

/** Resolves after some turns of the event loop. */
const turns = async (count: number) => { for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve)) }

/** Records the commands of an app, by name. */
function recordCommands (app: FastifyInstance): string[] {
  const sent: string[] = []
  interceptCommands(app, async (name, args, send) => {
    sent.push(name === 'evalsha' ? SCRIPTS[String(args[0])] ?? 'another script' : name)
    return await send()
  })
  return sent
}

t.test('while most keys are missing, a miss takes two commands; while most are hits, three', async t => {
  const { app } = await createTestApp(t, { store: 'redis', plugins: { cache: { ttl: '1m', timeout: '1h', l1: false } } })
  await missMany(app)
  const sent = recordCommands(app)
  t.equal(await app.cache.getOrSet('a', () => 1, { tags: ['x'] }), 1)
  await until('it is stored', async () => await app.cache.get('a') === 1)
  t.same(sent.filter(name => name !== 'mget'), ['read or acquire', 'finish'])
  for (let i = 0; i < 20; i++) await app.cache.getOrSet('a', () => 1, { tags: ['x'] })
  sent.length = 0
  t.equal(await app.cache.getOrSet('b', () => 2, { tags: ['x'] }), 2)
  await until('it is stored', async () => await app.cache.get('b') === 2)
  t.same(sent.slice(0, 3), ['mget', 'another script', 'finish'])
})

t.test('all instances run a factory once, for callers of one turn and of several', async t => {
  const { apps, clock } = await createTestApp(t, { ...OPTIONS, instances: 4 })
  for (const app of apps) await missMany(app)
  for (const round of upTo(10)) {
    const factory = counting(async run => {
      await turns(5)
      return run
    })
    const calls = upTo(200).map(async i => {
      await turns(i % 7)
      return await apps[i % 4]!.cache.getOrSet(`k${round}`, factory)
    })
    const { value: results } = await advanceWhile(clock, Promise.all(calls))
    t.same([factory.runs, ...new Set(results)], [1, 1])
  }
})

t.test('a lease that was acquired with a lookup of a request that makes its response alone is released', async t => {
  const { app, clock } = await createTestApp(t, {
    ...OPTIONS,
    routes: app => {
      app.get('/', { config: { cache: true } }, request => request.headers['x-user'] ?? 'nobody')
    }
  })
  await missMany(app)
  const ask = async () => (await app.inject({ url: '/', headers: { 'x-user': 'ann' } })).body
  // The first response shows that the route reads a header that is not in its key.
  t.equal(await ask(), 'ann')
  // In the store hit-for-pass lasts a second, and in this process ten.
  await clock.advance('2s')
  const sent = recordCommands(app)
  t.equal(await ask(), 'ann')
  await until('it is released', () => sent.includes('release'))
  t.equal(sent[0], 'read or acquire')
})

t.test('where the reply to such a lookup is lost, its lease is released as soon as Redis is there', async t => {
  const { apps: [app, other], clock } = await createTestApp(t, { ...OPTIONS, instances: 2 })
  await missMany(app!)
  let lost = 0
  interceptCommands(app!, async (_name, args, send) => {
    const reply = await send()
    if (args[0] === readOrAcquireScript.sha1 && lost++ === 0) throw new Error('Connection is closed.')
    return reply
  })
  t.equal(await app!.cache.getOrSet('k', () => 1), 1)
  t.equal(lost, 1)
  const { value, passed } = await advanceWhile(clock, other!.cache.getOrSet('k', () => 2))
  t.equal(value, 2)
  t.ok(passed <= 300, `after ${passed} ms of the clock, and not after 1500`)
})

t.test('an invalidation that becomes pending after such a lookup makes it look up again', async t => {
  const { app, clock } = await createTestApp(t, OPTIONS)
  await missMany(app)
  const replied = createGate()
  const held = createGate()
  let isDown = false
  let reads = 0
  interceptCommands(app, async (_name, args, send) => {
    if (isDown) throw new Error('Connection is closed.')
    const reply = await send()
    if (args[0] === readOrAcquireScript.sha1 && reads++ === 0) {
      replied.open()
      await held.opened
    }
    return reply
  })
  const asked = app.cache.getOrSet('k', () => reads)
  await replied.opened
  isDown = true
  await t.rejects(app.cache.delete('k'), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  isDown = false
  held.open()
  const { value } = await advanceWhile(clock, asked)
  t.equal(value, 1, 'the factory ran once')
  await until('the removal is written', () => app.cache.stats().invalidations > 0)
})
