import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { CachePluginOptions, DataCache } from '../../plugins/cache/index.js'
import { advanceUntil, advanceWhile, closeApp, createTestApp, forEachStore, newPrefix, until, type StoreName, type TestApp, type TestAppOptions } from '../helpers/index.js'
import { counting, createGate, createStep, upTo } from '../helpers/cache/factories.js'

/** Reads after background writes: more round trips than those take. */
const LOOKS = 5
/** A deadline that does not pass while the test advances the clock. */
const PATIENT = '1h'
const INVALID = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'

interface Opened extends TestApp {
  /** The cache of the first app. */
  cache: DataCache
  /** Resolves when this many values have been stored in the background. */
  stored (count: number): Promise<void>
  /** Advances the clock until the promise settles: a call may find that the lease of an earlier one is not released yet. */
  soon<T> (promise: Promise<T>): Promise<T>
}

async function open (t: Test, store: StoreName, options: CachePluginOptions = {}, more: TestAppOptions = {}): Promise<Opened> {
  const opened = await createTestApp(t, { store, plugins: { cache: { timeout: PATIENT, ...options } }, ...more })
  const { cache } = opened.app
  return {
    ...opened,
    cache,
    soon: async promise => (await advanceWhile(opened.clock, promise, { step: 1 })).value,
    stored: count => until(`${count} values are stored`, () => cache.stats().stored === count)
  }
}

t.test('a value that JSON would lose is a coded error that names its place and what to do, and nothing is stored or written', async t => {
  const { cache, soon } = await open(t, 'memory')
  class Failure extends Error {}
  const lossy = [new Map(), new Set([1]), /x/, new Error('e'), new Failure('f'), Object.assign(new Error('e'), { code: 'E' }), new Response('r'), new Headers(), new URLSearchParams('a=1'), new Blob([]),
    Promise.resolve(1), new WeakMap(), new Uint8Array(2), new ArrayBuffer(2), new Date(NaN), NaN, Infinity, () => 1, Symbol('s'), new (class extends Map {})()]
  for (const bad of lossy.flatMap(value => [value, { deep: [{ value }] }])) {
    const error = { code: 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE' }
    await t.rejects(cache.set('bad', bad), error, String(bad))
    // A factory may return a promise.
    if (!(bad instanceof Promise)) await t.rejects(soon(cache.getOrSet('bad', () => bad)), error, String(bad))
    await t.rejects(cache.writeThrough('bad', bad, () => { t.fail('the source is written') }), error)
  }
  t.equal(await cache.has('bad'), false)
  await t.rejects(cache.set('bad', { users: [{ roles: new Map() }] }), { message: /"bad" .*"users\.0\.roles" is a Map, .*structured-clone/ })
  class Point { x = 1; move (): void {} }
  const kept = [{ date: new Date(5), none: undefined, list: [undefined, null] }, Buffer.from('ab'), new URL('http://a/'), new Point(), Object.create(null), Object('boxed'), { toJSON: () => 1 }, -0, '', [[]]]
  for (const good of kept) {
    await cache.set('good', good)
    t.same(await cache.get('good'), JSON.parse(JSON.stringify(good)), 'plain data, and what toJSON says')
  }
})

forEachStore(['memory', 'redis', 'cluster'], store => {
  const promise = (name: string, test: (t: Test) => Promise<unknown>) => t.test(`${store}: ${name}`, test)

  promise('a value is there from set to delete, and delete returns whether there was one', async t => {
    const { cache } = await open(t, store)
    t.equal(await cache.has('a'), false)
    await cache.set('a', { x: 1 })
    t.same(await cache.get('a'), { x: 1 })
    t.equal(await cache.has('a'), true)
    t.equal(await cache.delete('a'), true)
    t.equal(await cache.delete('a'), false)
    t.equal(await cache.get('a'), undefined)
  })

  promise('many keys are read, stored and deleted together, each with its own options', async t => {
    const { cache, clock } = await open(t, store)
    await cache.setMany([['a', 1, { tags: ['odd'] }], ['b', 2], ['c', 3, { ttl: '1s', tags: ['odd'] }]], { ttl: '1m' })
    await clock.advance('1s')
    t.same(await cache.getMany(['a', 'b', 'c', 'd']), [1, 2, undefined, undefined])
    await cache.invalidateTags(['odd'])
    t.same(await cache.getMany(['a', 'b']), [undefined, 2])
    await cache.setMany([['a', 1], ['c', 3]])
    t.equal(await cache.deleteMany(['a', 'b', 'c', 'd']), 3)
    t.same(await cache.getMany(['a', 'b', 'c']), [undefined, undefined, undefined])
    await cache.setMany([])
    t.same([await cache.getMany([]), await cache.deleteMany([])], [[], 0])
  })

  promise('a set and an invalidation of tags take effect at once, also where the process does not know the newest version of a tag', async t => {
    const { cache } = await open(t, store)
    for (let i = 0; i < 5; i++) {
      await cache.set('k', i, { tags: ['t', `u${i}`] })
      t.equal(await cache.get('k'), i)
      await cache.invalidateTags(['t'])
      t.equal(await cache.get('k'), undefined, 'also where the process has not seen the new version of the tag')
    }
  })

  promise('null and undefined are cached for negativeTtl, and not without it', async t => {
    const { cache, clock, stored, soon } = await open(t, store)
    let count = 0
    for (const nothing of [null, undefined]) {
      const find = counting(() => nothing)
      const name = String(nothing)
      t.equal(await soon(cache.getOrSet(name, find)), nothing)
      t.equal(await soon(cache.getOrSet(name, find)), nothing)
      t.equal(find.runs, 2)
      t.equal(await cache.getOrSet(`${name} cached`, find, { negativeTtl: '1m' }), nothing)
      t.equal(await cache.getOrSet(`${name} cached`, find, { negativeTtl: '1m' }), nothing)
      t.equal(find.runs, 3)
      await stored(++count)
      t.equal(await cache.has(`${name} cached`), true)
      t.equal(await cache.getOrSet(`${name} short`, find, { negativeTtl: '1m', staleWhileRevalidate: '10m', staleIfError: '10m' }), nothing)
      await stored(++count)
      await clock.advance('1m')
      t.equal(await cache.getOrSet(`${name} short`, () => 'it is there now'), 'it is there now', 'a stale "not found" is not served')
      await stored(++count)
    }
    await cache.set('set', null)
    t.equal(await cache.get('set'), null)
    await t.rejects(cache.set('set', undefined), { code: INVALID })
  })

  promise('the ttl may depend on the value, or be a tier', async t => {
    const { cache, clock, stored, soon } = await open(t, store, { tiers: { short: '1m' } })
    const make = counting(run => ({ run, status: run % 2 === 1 ? 'open' : 'closed' }))
    const get = () => cache.getOrSet('order', make, { ttl: order => order.status === 'open' ? 'short' : '1h' })
    for (const run of [1, 2]) {
      t.equal((await get()).run, run)
      await stored(run)
      t.equal((await get()).run, run)
      await clock.advance('1m')
    }
    t.equal((await get()).run, 2, 'the second one has a ttl of an hour')
    const none = counting(run => run)
    for (const ttl of [0, () => 0, async () => -1000]) await soon(cache.getOrSet('none', none, { ttl }))
    t.equal(none.runs, 3, 'a ttl of 0 stores nothing')
    await cache.set('order', 1, { ttl: 0 })
    t.equal(await cache.has('order'), false, 'and removes the value that was there')
  })

  promise('jitter spreads the expiry of values stored together', async t => {
    const { cache, clock } = await open(t, store)
    const names = upTo(40).map(i => `k${i}`)
    await cache.setMany(names.map(name => [name, 1]), { ttl: '10m', jitter: 0.5 })
    const left = async () => (await cache.getMany(names)).filter(Boolean).length
    await clock.advance('290s')
    t.equal(await left(), 40, 'each has at least half of its ttl')
    await clock.advance('160s')
    const half = await left()
    t.ok(half > 3 && half < 37, `${half} of 40 after three quarters of the ttl`)
    await clock.advance('150s')
    t.equal(await left(), 0, 'and at most all of it')
  })

  promise('a stale value is served at once and revalidated in the background', async t => {
    const { cache, clock, stored } = await open(t, store)
    const slow = createGate()
    const make = counting(async run => { if (run > 1) await slow.opened; return run })
    const get = () => cache.getOrSet('k', make, { ttl: '1m', staleWhileRevalidate: '10m' })
    t.equal(await get(), 1)
    await stored(1)
    await clock.advance('90s')
    t.same(await Promise.all(upTo(10).map(get)), Array(10).fill(1))
    await advanceUntil(clock, 'it is revalidated', () => make.runs === 2)
    t.equal(await get(), 1, 'and served meanwhile')
    slow.open()
    await stored(2)
    t.equal(await get(), 2)
    t.equal(make.runs, 2)
    t.equal(cache.stats().stale, 11)
  })

  promise('with staleIfError a value that is too old is served where the factory fails, which then rests for a second', async t => {
    const { cache, clock, stored, soon } = await open(t, store)
    const errors: unknown[] = []
    cache.on('error', event => errors.push(event))
    const make = counting<number>(run => { if (run > 1) throw new Error('down'); return run })
    const get = () => cache.getOrSet('k', make, { ttl: '1m', staleIfError: '10m' })
    t.equal(await get(), 1)
    await stored(1)
    await clock.advance('90s')
    t.same(await Promise.all(upTo(10).map(get)), Array(10).fill(1))
    t.equal(await get(), 1)
    t.equal(make.runs, 2)
    t.match(errors[0], { key: 'k', error: { message: 'down' } })
    t.equal(await cache.get('k'), undefined, 'get() does not return it')
    await clock.advance(1001)
    t.equal(await soon(get()), 1)
    t.equal(make.runs, 3, 'it has rested')
    await t.rejects(cache.getOrSet('other', make, { staleIfError: '1m' }), { message: 'down' })
  })

  promise('after softTimeout a stale value is served, and the factory goes on', async t => {
    const { cache, clock, stored } = await open(t, store)
    const slow = createGate()
    const make = counting<unknown[]>(async (run, { stale }) => { if (run > 1) await slow.opened; return [run, stale?.[0]] })
    const get = () => cache.getOrSet('k', make, { ttl: '1m', staleIfError: '1h', softTimeout: '10s', hardTimeout: '1m' })
    await get()
    await stored(1)
    await clock.advance('2m')
    const { value, passed } = await advanceWhile(clock, Promise.all([get(), get()]), { step: 1000 })
    t.same(value, [[1, null], [1, null]])
    t.ok(passed >= 10_000 && passed < 60_000, `after ${passed} ms`)
    slow.open()
    await stored(2)
    t.same(await get(), [2, 1])
    t.equal(make.runs, 2)
  })

  promise('after hardTimeout the factory is aborted, and the caller gets an error or a stale value', async t => {
    const { cache, clock } = await open(t, store)
    const signals: AbortSignal[] = []
    const hang = counting<number>((_run, { signal }) => { signals.push(signal); return new Promise(() => {}) })
    const refused = cache.getOrSet('k', hang, { hardTimeout: '1m' })
    refused.catch(() => {})
    await advanceUntil(clock, 'the factory runs', () => hang.runs === 1)
    await clock.advance('50s')
    t.equal(signals[0]?.aborted, false)
    await clock.advance('10s')
    await t.rejects(refused, { code: 'FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT', statusCode: 503, message: /"k".* 60000 ms/ })
    t.equal(signals[0]?.aborted, true)
    await cache.set('k', 1, { ttl: '1m', staleIfError: '1h' })
    await clock.advance('2m')
    const { value } = await advanceWhile(clock, cache.getOrSet('k', hang, { hardTimeout: '1m', staleIfError: '1h' }), { step: 1000 })
    t.equal(value, 1)
    t.same([hang.runs, signals[1]?.aborted], [2, true])
  })

  promise('a caller that aborts does not affect the callers that wait for the same value', async t => {
    const { cache, clock, soon } = await open(t, store)
    const gate = createGate()
    const [leader, follower] = [new AbortController(), new AbortController()]
    const make = counting(async (run, { signal }) => { await gate.opened; return `${run} ${signal.aborted}` })
    const first = cache.getOrSet('k', make, { signal: leader.signal })
    await advanceUntil(clock, 'the factory runs', () => make.runs === 1)
    const second = cache.getOrSet('k', make, { signal: follower.signal })
    const third = cache.getOrSet('k', make)
    await advanceUntil(clock, 'two callers wait', () => cache.stats().coalesced === 2)
    leader.abort(new Error('gone'))
    follower.abort(new Error('gone too'))
    await t.rejects(first, { message: 'gone' })
    await t.rejects(second, { message: 'gone too' })
    gate.open()
    t.equal(await third, '1 false')
    t.equal(make.runs, 1)
    await t.rejects(cache.getOrSet('k', make, { signal: AbortSignal.abort(new Error('before')) }).then(() => cache.getOrSet('l', make, { signal: AbortSignal.abort(new Error('before')) })), { message: 'before' })

    const alone = new AbortController()
    let [begun, aborted] = [false, false]
    const waiting = cache.getOrSet('alone', ({ signal }) => {
      begun = true
      return new Promise(() => signal.addEventListener('abort', () => { aborted = true }))
    }, { signal: alone.signal })
    await advanceUntil(clock, 'the factory runs', () => begun)
    alone.abort(new Error('gone'))
    await t.rejects(waiting, { message: 'gone' })
    t.ok(aborted, 'no caller waits, so the factory is aborted')
    t.equal(await soon(cache.getOrSet('alone', () => 'next')), 'next')
  })

  promise('a factory that fails runs once for all callers of this process, and each gets the error', async t => {
    const { cache, clock } = await open(t, store)
    const gate = createGate()
    const make = counting<number>(async () => { await gate.opened; throw new Error('no') })
    const calls = Promise.allSettled(upTo(50).map(() => cache.getOrSet('k', make)))
    await advanceUntil(clock, 'all callers wait', () => cache.stats().coalesced === 49)
    gate.open()
    t.same((await calls).map(result => result.status === 'rejected' && result.reason.message), Array(50).fill('no'))
    t.equal(make.runs, 1)
  })

  promise('a value with a ttl of 0 is made once for all callers of the same time', async t => {
    const { cache, clock } = await open(t, store)
    const gate = createGate()
    const make = counting(async run => { await gate.opened; return run })
    const calls = Promise.all(upTo(50).map(() => cache.getOrSet('k', make, { ttl: 0 })))
    await advanceUntil(clock, 'all callers wait', () => cache.stats().coalesced === 49)
    gate.open()
    t.same(await calls, Array(50).fill(1))
    t.equal(make.runs, 1)
  })

  promise('every caller, also the one that ran the factory, gets its own deserialized copy', async t => {
    const { cache } = await open(t, store)
    const make = () => ({ when: new Date(0), hole: undefined }) as unknown
    t.same(await cache.getOrSet('k', make), { when: '1970-01-01T00:00:00.000Z' })
    t.same(await cache.getOrSet('k', make), { when: '1970-01-01T00:00:00.000Z' })
    const value = await cache.getOrSet<{ list: number[] }>('own', () => ({ list: [1] }))
    value.list.push(2)
    t.same(await cache.getOrSet('own', () => ({ list: [] })), { list: [1] }, 'a change of one copy is not seen in another')
  })

  promise('with refreshAhead a key that is read is refreshed before it expires, and one that is not read is not', async t => {
    const { cache, clock, stored } = await open(t, store)
    const make = counting(run => run)
    const get = (name: string) => cache.getOrSet(name, make, { ttl: '20m', refreshAhead: 0.5 })
    await get('hot')
    await get('cold')
    await stored(2)
    await clock.advance('9m')
    t.equal(await get('hot'), 1)
    t.equal(make.runs, 2, 'more than half of its ttl is left')
    await clock.advance('2m')
    const { misses } = cache.stats()
    t.equal(await get('hot'), 1, 'the cached value is served at once')
    await stored(3)
    t.equal(await get('hot'), 3)
    t.equal(cache.stats().misses, misses, 'no caller waited for it')
    t.equal(make.runs, 3)
  })

  promise('tags may depend on the value', async t => {
    const { cache, clock, stored } = await open(t, store)
    const make = counting(run => ({ run, author: 'ann' }))
    const get = async () => (await cache.getOrSet('post', make, { tags: ({ author }) => [`author:${author}`] })).run
    await get()
    await stored(1)
    t.equal(await get(), 1)
    await cache.invalidateTags(['author:bob'])
    t.equal(await get(), 1)
    await cache.invalidateTags(['author:ann'])
    await clock.advance(1)
    t.equal(await get(), 2)
    await t.rejects(cache.getOrSet('bad', make, { tags: () => [''] }), { code: INVALID })
  })

  promise('a value that is invalidated while its factory runs is not served afterwards', async t => {
    const { cache } = await open(t, store)
    const invalidations = {
      tags: () => cache.invalidateTags(['t']),
      key: () => cache.delete('k'),
      clear: () => cache.clear(),
      pattern: () => cache.invalidatePattern('k*'),
      set: () => cache.set('k', 'set')
    }
    for (const [by, invalidate] of Object.entries(invalidations)) {
      const factory = createStep()
      const old = cache.getOrSet('k', factory.run, { tags: ['t'] })
      await factory.begun
      await invalidate()
      factory.end('old')
      t.equal(await old, 'old')
      // The value would be stored in the background.
      for (let look = 0; look < LOOKS; look++) t.equal(await cache.get('k'), by === 'set' ? 'set' : undefined, by)
      await cache.delete('k')
    }
  })

  promise('a wrapped function is called once for the same arguments', async t => {
    const { cache } = await open(t, store)
    let runs = 0
    const add = cache.wrap(async (a: number, b: number) => { runs++; return a + b }, { key: 'add', ttl: '1m' })
    t.same([await add(1, 2), await add(1, 2), await add(2, 1)], [3, 3, 3])
    t.equal(runs, 2)
    const byId = cache.wrap(({ id }: { id: string }) => `user ${id} ${++runs}`, { key: ({ id }) => `user:${id}`, tags: ['users'] })
    t.same([await byId({ id: 'a' }), await byId({ id: 'a' })], ['user a 3', 'user a 3'])
    await cache.invalidateTags(['users'])
    t.equal(await byId({ id: 'a' }), 'user a 4')
    const any = cache.wrap((...args: unknown[]) => args.map(arg => Object.prototype.toString.call(arg)).join(), { key: 'any' })
    t.equal(new Set(await Promise.all([any(1), any('1'), any(new Map([[1, 2]])), any(new Date(5)), any({}), any(undefined), any(null), any(1n)])).size, 8, 'arguments that JSON does not distinguish')
    const sizes = cache.wrap((map: Map<number, number>) => map.size, { key: 'size' })
    t.same([await sizes(new Map()), await sizes(new Map([[1, 1]]))], [0, 1])
    await t.rejects(any(() => {}), { code: INVALID, message: /a function of the arguments/ })
    t.throws(() => cache.wrap('no' as never, { key: 'k' }), { code: INVALID })
    t.throws(() => cache.wrap(() => 1, { key: '' }), { code: INVALID })
    t.throws(() => cache.wrap(() => 1, { key: 'k', ttl: 'soon' }), { code: INVALID })
  })

  promise('a view with a prefix has its own keys, defaults, counts and clear', async t => {
    const { cache } = await open(t, store)
    const users = cache.withPrefix('users', { ttl: '1h', negativeTtl: '1m' })
    const admins = users.withPrefix('admins')
    await cache.set('1', 'root')
    await users.set('1', 'user')
    await admins.set('1', 'admin')
    await cache.set('users:1', 'read the same')
    t.same(await Promise.all([cache, users, admins].map(view => view.get('1'))), ['root', 'user', 'admin'])
    await users.set('2', 'two')
    t.equal(await users.invalidatePattern('2'), 1)
    t.equal(await users.get('2'), undefined)
    await admins.clear()
    t.same(await Promise.all([cache, users, admins].map(view => view.get('1'))), ['root', 'user', undefined])
    await admins.set('1', 'admin')
    await users.clear()
    t.same(await Promise.all([cache, users, admins].map(view => view.get('1'))), ['root', undefined, undefined])
    t.equal(await cache.get('users:1'), 'read the same')
    await users.set('3', 3, { tags: ['t'] })
    await cache.invalidateTags(['t'])
    t.equal(await users.get('3'), undefined, 'tags are those of the whole cache')
    const find = counting(() => null)
    await users.getOrSet('none', find)
    await users.getOrSet('none', find)
    t.equal(find.runs, 1)
    const { names } = cache.stats()
    t.same(Object.keys(names).sort(), ['data', 'users', 'users:admins'])
    t.match(names['users:admins'], { stored: 2, hits: 1, misses: 2 })
    t.throws(() => cache.withPrefix(''), { code: INVALID })
    t.throws(() => cache.withPrefix('x', { ttl: 'soon' }), { code: INVALID })
    t.throws(() => cache.withPrefix('x', { tags: [] } as never), { code: INVALID })
  })

  promise('structured-clone keeps types that JSON does not have, and a value of another serializer is a miss', async t => {
    const same = { prefix: newPrefix() }
    const plain = await open(t, store, {}, same)
    const app = await open(t, store, { serializer: 'structured-clone' }, same)
    const value = { date: new Date(5), map: new Map([['a', new Set([1])]]), big: 2n ** 70n, bytes: Buffer.from('ab'), typed: new Float32Array([1.5]), nan: NaN }
    await app.cache.set('k', value)
    const read = await app.cache.get('k') as typeof value | undefined
    t.same(read, value)
    t.ok(Buffer.isBuffer(read?.bytes) && read?.date instanceof Date && read?.map.get('a') instanceof Set)
    t.equal(await plain.cache.get('k'), undefined)
    t.equal(await plain.cache.getOrSet('k', () => 'made'), 'made')
    const circle: Record<string, unknown> = {}
    circle['self'] = circle
    const UNSERIALIZABLE = { code: 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE', message: /"bad"/ }
    for (const bad of [circle, 1n, () => {}, Symbol('s')]) {
      await t.rejects(plain.cache.set('bad', bad), UNSERIALIZABLE)
      await t.rejects(plain.soon(plain.cache.getOrSet('bad', () => bad)), UNSERIALIZABLE)
    }
    await app.cache.set('bad', circle)
    const own = await open(t, store, { serializer: { name: 'upper', serialize: value => String(value).toUpperCase(), deserialize: bytes => bytes.toString() } }, same)
    await own.cache.set('own', 'abc')
    t.equal(await own.cache.get('own'), 'ABC')
    await t.rejects(open(t, store, { serializer: 'xml' as never }), { code: INVALID, message: /structured-clone/ })
  })

  promise('write-through writes the source, then the cache', async t => {
    const { cache } = await open(t, store)
    const source = new Map([['k', 'old']])
    const read = () => cache.getOrSet('k', () => source.get('k'))
    t.equal(await read(), 'old')
    await cache.set('page', 'shows k', { tags: ['page'] })
    const order: unknown[] = []
    const saved = await cache.writeThrough('k', 'new', async (value, { key, signal }) => {
      order.push(key, signal.aborted, await cache.get('k'), await cache.get('page'))
      source.set('k', value)
    }, { invalidates: ['page'] })
    t.same(order, ['k', false, undefined, 'shows k'], 'while the source is written the old value is not served')
    t.equal(saved, 'new')
    t.equal(await cache.get('k'), 'new')
    t.equal(await cache.get('page'), undefined)
    t.equal(await cache.writeThrough('k', 'given', value => { source.set('k', `${value}, completed`); return source.get('k') ?? '' }), 'given, completed')
    t.equal(await cache.get('k'), 'given, completed', 'the value that the source returned')
    await cache.writeThrough<string | null>('k', 'gone', () => null)
    t.equal(await cache.has('k'), false, 'null removes it')
  })

  promise('a write-through whose source fails leaves the cache as it was', async t => {
    const { cache, stored } = await open(t, store)
    await cache.set('k', 'old', { tags: ['t'] })
    await t.rejects(cache.writeThrough('k', 'new', () => { throw new Error('down') }), { message: 'down' })
    t.equal(await cache.get('k'), 'old')
    await t.rejects(cache.writeThrough('none', 'new', async () => { throw new Error('down') }), { message: 'down' })
    t.equal(await cache.get('none'), undefined)
    t.equal(await cache.getOrSet('none', () => 'made'), 'made')
    await stored(2)
    t.equal(await cache.get('none'), 'made')
    await t.rejects(cache.writeThrough('k', 1n, () => { t.fail('not called') }), { code: 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE' })
    await t.rejects(cache.writeThrough('k', 'v', 'no' as never), { code: INVALID })
    t.equal(await cache.get('k'), 'old')
    await cache.invalidateTags(['t'])
    t.equal(await cache.get('k'), undefined)
  })

  promise('a value that is read while its source is written is not cached, nor is that of two writers at once', async t => {
    const { cache, clock } = await open(t, store, { l1: 1024 ** 2 })
    let source = 'old'
    const begun: string[] = []
    const ends = new Map<string, () => void>()
    const write = (value: string) => cache.writeThrough('k', value, async () => {
      begun.push(value)
      await new Promise<void>(resolve => ends.set(value, resolve))
      source = value
    })
    const writing = write('new')
    await advanceUntil(clock, 'the source is being written', () => begun.length === 1)
    t.equal(await cache.getOrSet('k', () => source), 'old')
    t.equal(await cache.get('k'), undefined)
    ends.get('new')?.()
    await writing
    t.equal(await cache.get('k'), 'new')
    const both = [write('a'), write('b')]
    await advanceUntil(clock, 'both write', () => begun.length === 3)
    for (const value of ['a', 'b']) ends.get(value)?.()
    await Promise.all(both)
    t.equal(await cache.get('k'), undefined)
    t.equal(await cache.getOrSet('k', () => source), 'b')
  })

  promise('after a write-through timed out nothing is cached for its key until the writer has ended', async t => {
    const { cache, clock, soon } = await open(t, store)
    const writer = createStep()
    await cache.set('k', 'old')
    const writing = cache.writeThrough('k', 'new', async () => { await writer.run() }, { hardTimeout: '1m' })
    writing.catch(() => {})
    await writer.begun
    await clock.advance('1m')
    await t.rejects(writing, { code: 'FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT' })
    t.equal(await cache.get('k'), undefined)
    t.equal(await cache.getOrSet('k', () => 'read'), 'read')
    for (let look = 0; look < LOOKS; look++) t.equal(await cache.has('k'), false, 'as it may still be written')
    writer.end('')
    await advanceUntil(clock, 'a value is stored again', async () => { await soon(cache.getOrSet('k', () => 'read')); return await cache.has('k') })
    t.equal(await cache.get('k'), 'read')
  })

  promise('write-behind uses the serializer of the cache, has one of each name, and hands its backlog to the next instance when the app closes', async t => {
    const same = { prefix: newPrefix() }
    const { app, cache, clock } = await open(t, store, { serializer: 'structured-clone' }, same)
    const written: unknown[] = []
    const behind = cache.writeBehind<Map<string, number>>('scores', { write: batch => { written.push(...batch.map(({ key, value }) => [key, value])) }, flushEvery: '1h' })
    t.throws(() => cache.writeBehind('scores', { write: () => {} }), { code: INVALID })
    t.throws(() => cache.withPrefix('p').writeBehind('other', {} as never), { code: INVALID })
    await behind.add('a', new Map([['x', 1]]))
    await advanceWhile(clock, behind.flush())
    t.same(written, [['a', new Map([['x', 1]])]])
    await behind.add('a', new Map())
    await closeApp(app, clock)
    await t.rejects(behind.add('a', new Map()), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' })
    if (store !== 'memory') {
      const next = await open(t, store, { serializer: 'structured-clone' }, same)
      next.cache.writeBehind('scores', { write: batch => { written.push(...batch.map(({ key, value }) => [key, value])) }, flushEvery: 10 })
      await advanceUntil(next.clock, 'the next instance writes it', () => written.length === 2)
    }
    t.same(written, [['a', new Map([['x', 1]])], ['a', new Map()]])
  })

  promise('events and stats report what happens by key, name and tier', async t => {
    const { cache, clock, stored } = await open(t, store)
    const gate = createGate()
    const told: unknown[] = []
    for (const event of ['hit', 'miss', 'stale', 'store', 'invalidate', 'coalesce'] as const) cache.on(event, ({ ...what }) => told.push([event, what]))
    const off = cache.on('hit', () => { throw new Error('a listener that throws') })
    const make = async () => { await gate.opened; return 'value' }
    const both = Promise.all([cache.getOrSet('k', make, { tags: ['t'] }), cache.getOrSet('k', make, { tags: ['t'] })])
    await advanceUntil(clock, 'the second one waits', () => cache.stats().coalesced === 1)
    gate.open()
    await both
    await stored(1)
    await cache.getOrSet('k', () => 'not made')
    off()
    await cache.delete('k')
    await cache.invalidateTags(['t'])
    await cache.invalidatePattern('k*')
    const names = told.map(each => (each as [string])[0])
    t.same(names.slice(0, 6).sort(), ['coalesce', 'hit', 'invalidate', 'miss', 'miss', 'store'])
    t.match(told, [['miss', { key: 'k' }], ['miss', { key: 'k' }], ['coalesce', { key: 'k' }], ['store', { key: 'k', bytes: 7 }], ['hit', { key: 'k', tier: /^l[12]$/ }],
      ['invalidate', { key: 'k', origin: 'local' }], ['invalidate', { tags: ['t'], origin: 'local' }], ['invalidate', { pattern: 'k*', origin: 'local' }]])
    t.match(cache.stats(), { hits: 1, misses: 2, coalesced: 1, stored: 1, storedBytes: 7, invalidations: 3, names: { data: { hits: 1 } } })
  })

  promise('storeStats() reports what the store holds', async t => {
    const { cache } = await open(t, store)
    await cache.set('k', 'v')
    await cache.get('k')
    const stats = await cache.storeStats()
    t.equal(stats.kind, store === 'memory' ? 'memory' : 'redis')
    t.ok(stats.entries >= 1 && stats.usedMemory > 0 && stats.policy !== '' && stats.evicted === 0 && stats.maxMemory >= 0, JSON.stringify(stats))
  })
})

t.test('the commands for many keys are written together, so that they take one round trip', async t => {
  const { app } = await createTestApp(t, { store: 'redis', plugins: { cache: { l1: false } } })
  const names = upTo(200).map(i => `k${i}`)
  // Loads the scripts, whose text would be sent for each of the keys.
  await app.cache.set('first', 1)
  await app.cache.delete('first')
  const { stream } = app.redis
  const { write } = stream
  let isCounted = true
  let turns = 0
  stream.write = (...args: [never]) => {
    if (!isCounted) {
      turns++
      isCounted = true
      setImmediate(() => { isCounted = false })
    }
    return write.apply(stream, args)
  }
  const turnsOf = async (work: () => Promise<unknown>) => {
    // The background work of the last call is over.
    for (let i = 0; i < 5; i++) await app.redis.ping()
    turns = 0
    isCounted = false
    await work()
    return turns
  }
  const turnsOfAll = [
    await turnsOf(() => app.cache.setMany(names.map(name => [name, name]))),
    await turnsOf(() => app.cache.getMany(names)),
    await turnsOf(() => app.cache.deleteMany(names))
  ]
  // A command of many keys is sent when it is full, and the rest when the turn ends.
  t.ok(turnsOfAll.every(turns => turns <= 2), turnsOfAll.join())
})

t.test('an instance drops from L1 what another one invalidates', async t => {
  const { apps, clock } = await createTestApp(t, { store: 'redis', instances: 2, plugins: { cache: { timeout: PATIENT } } })
  const [a, b] = apps as [FastifyInstance, FastifyInstance]
  const heard: unknown[] = []
  b.cache.on('invalidate', event => heard.push(event))
  await advanceUntil(clock, 'it hears', async () => {
    await a.cache.delete('x')
    return heard.length > 0
  })
  await a.cache.set('k', 1, { tags: ['t'] })
  await advanceUntil(clock, 'the other instance has it in L1', async () => { await b.cache.get('k'); return b.cache.stats().l1Hits > 0 })
  heard.length = 0
  await a.cache.invalidateTags(['t'])
  await until('the other instance heard it', () => heard.length === 1)
  t.equal(await b.cache.get('k'), undefined)
  await a.cache.delete('k')
  await a.cache.clear()
  await advanceUntil(clock, 'the other instance heard all', () => heard.length >= 3)
  t.match(heard, [{ tags: ['t'], origin: 'remote' }, { key: 'k', origin: 'remote' }, { tags: ['*'], origin: 'remote' }])
})

t.test('one of four instances runs the factory for 1,000 callers, also to revalidate a stale value', async t => {
  const { apps, clock } = await createTestApp(t, { store: 'redis', instances: 4, plugins: { cache: { timeout: PATIENT, l1: false } } })
  const gate = createGate()
  const make = counting(async run => { await gate.opened; return run })
  const all = () => Promise.all(upTo(1000).map(async i => await apps[i % 4]!.cache.getOrSet('k', make, { ttl: '1m', staleWhileRevalidate: '1h', tags: ['t'] })))
  const sum = (name: 'coalesced' | 'stored' | 'stale') => apps.reduce((total, { cache }) => total + cache.stats()[name], 0)
  const first = all()
  await advanceUntil(clock, 'all wait', () => sum('coalesced') === 996, { step: 1 })
  gate.open()
  t.same(new Set((await advanceWhile(clock, first)).value), new Set([1]))
  await clock.advance('90s')
  t.same(new Set(await all()), new Set([1]))
  t.equal(sum('stale'), 1000)
  await advanceUntil(clock, 'it is revalidated', () => sum('stored') === 2)
  t.same(new Set(await all()), new Set([2]))
  t.equal(make.runs, 2)
})

t.test('with `freeze` all readers get the same object, which is frozen', async t => {
  const { cache, clock } = await open(t, 'redis', { freeze: true })
  const make = () => ({ list: [{ a: 1 }] })
  const made = await cache.getOrSet('k', make)
  t.throws(() => made.list.push({ a: 2 }), TypeError)
  t.throws(() => { (made.list[0] as { a: number }).a = 2 }, TypeError)
  await advanceUntil(clock, 'it is in L1', async () => { await cache.getOrSet('k', make); return cache.stats().l1Hits > 1 })
  t.equal(await cache.getOrSet('k', make), await cache.getOrSet('k', make))
  t.same(await cache.get('k'), make())
  await t.rejects(open(t, 'memory', { freeze: true, serializer: 'structured-clone' }), { code: INVALID })
})

t.test('arguments and options that cannot be used are refused with a coded error', async t => {
  const { cache } = await open(t, 'memory')
  const bad: Array<() => Promise<unknown>> = [
    () => cache.get(''), () => cache.get(1 as never), () => cache.getMany('k' as never), () => cache.getMany(['k', '']), () => cache.has(null as never),
    () => cache.set('k', 1, { ttl: -1 }), () => cache.set('k', 1, { tags: 't' as never }), () => cache.set('k', 1, { tgas: [] } as never),
    () => cache.setMany({} as never), () => cache.delete({} as never), () => cache.getOrSet('k', 5 as never), () => cache.getOrSet('k', () => 1, { ttl: 'headers' }),
    () => cache.getOrSet('k', () => 1, { softTimeout: 0 }), () => cache.getOrSet('k', () => 1, { hardTimeout: 2 ** 31 }), () => cache.getOrSet('k', () => 1, { refreshAhead: 2 }),
    () => cache.getOrSet('k', () => 1, { signal: {} as never }), () => cache.getOrSet('k', () => 1, { jitter: -1 }), () => cache.writeThrough('k', 1, () => {}, { invalidates: [''] }),
    () => cache.writeThrough('k', 1, () => {}, null as never),
    () => cache.getOrSet('k', () => 1, null as never), () => cache.invalidateTags('t' as never), () => cache.invalidatePattern('')
  ]
  for (const each of bad) await t.rejects(each(), { code: INVALID }, String(each))
  t.throws(() => cache.on('hit', 'no' as never), { code: INVALID })
  for (const options of [{ values: { ttl: 'soon' } }, { values: { tags: [] } }, { values: { refreshAhead: 7 } }, { serializer: {} }]) await t.rejects(open(t, 'memory', options as never), { code: INVALID }, JSON.stringify(options))
})
