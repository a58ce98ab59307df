import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions, type FactoryContext } from '../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { startCluster, startRedis, until } from '../helpers/index.js'

const server = await startRedis()
const cluster = await startCluster()
let prefixes = 0
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const INVALID = 'FST_REDIS_SUITE_CACHE_INVALID_OPTION'

async function build (t: Test, connection?: RedisPluginOptions, options: CachePluginOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  if (connection) await app.register(redis, connection)
  // A machine that stands still is no store that is away.
  await app.register(cache, { timeout: '2s', ...options })
  await app.ready()
  return app
}

/** A factory that counts how often it ran. */
function counting<T> (make: (run: number, context: FactoryContext<T>) => T | Promise<T>) {
  const factory = Object.assign((context: FactoryContext<T>) => make(++factory.runs, context), { runs: 0 })
  return factory
}

const nodes = cluster.nodes.map(({ host, port }) => ({ host, port }))
for (const store of ['memory', 'Redis', 'Cluster']) {
  const connection = () => store === 'memory' ? undefined : { prefix: `d${++prefixes}`, ...store === 'Redis' ? { url: server.url } : { cluster: { nodes } } } as RedisPluginOptions
  const promise = (name: string, test: (t: Test, connection: RedisPluginOptions | undefined) => Promise<unknown>) =>
    t.test(`${store}: ${name}`, t => test(t, connection()))

  promise('what was set is there until it is deleted, and delete says whether it was', async (t, connection) => {
    const { cache } = await build(t, connection)
    t.equal(await cache.has('a'), false)
    await cache.set('a', { x: 1 })
    t.same(await cache.get('a'), { x: 1 })
    t.equal(await cache.has('a'), true)
    t.equal(await cache.delete('a'), true)
    t.equal(await cache.delete('a'), false)
    t.equal(await cache.get('a'), undefined)
  })

  promise('many keys are read, stored and deleted together, each with its own options', async (t, connection) => {
    const { cache } = await build(t, connection)
    await cache.setMany([['a', 1, { tags: ['odd'] }], ['b', 2], ['c', 3, { ttl: 1, tags: ['odd'] }]], { ttl: '1m' })
    await wait(5)
    t.same(await cache.getMany(['a', 'b', 'c', 'd']), [1, 2, undefined, undefined])
    await cache.invalidateTags(['odd'])
    t.same(await cache.getMany(['a', 'b']), [undefined, 2])
    await cache.setMany([['a', 1], ['c', 3]])
    t.equal(await cache.deleteMany(['a', 'b', 'c', 'd']), 3)
    t.same(await cache.getMany(['a', 'b', 'c']), [undefined, undefined, undefined])
    await cache.setMany([])
    t.same([await cache.getMany([]), await cache.deleteMany([])], [[], 0])
  })

  promise('a set, and a removal, reach who set before, whatever was known of the tags', async (t, connection) => {
    const { cache } = await build(t, connection)
    for (let i = 0; i < 5; i++) {
      await cache.set('k', i, { tags: ['t', `u${i}`] })
      t.equal(await cache.get('k'), i)
      await cache.invalidateTags(['t'])
      t.equal(await cache.get('k'), undefined, 'and nobody has to know that the tag has a new version')
    }
  })

  promise('null and undefined are kept on request only, for a time of their own', async (t, connection) => {
    const { cache } = await build(t, connection)
    for (const nothing of [null, undefined]) {
      const find = counting(() => nothing)
      const name = String(nothing)
      t.equal(await cache.getOrSet(name, find), nothing)
      t.equal(await cache.getOrSet(name, find), nothing)
      t.equal(find.runs, 2)
      t.equal(await cache.getOrSet(`${name} kept`, find, { negativeTtl: '1m' }), nothing)
      t.equal(await cache.getOrSet(`${name} kept`, find, { negativeTtl: '1m' }), nothing)
      t.equal(find.runs, 3)
      // Nobody waits for that, and on a Cluster it takes a round trip more.
      if (store === 'Cluster') await until('it is stored', async () => await cache.has(`${name} kept`))
      t.equal(await cache.has(`${name} kept`), true)
      t.equal(await cache.getOrSet(`${name} short`, find, { negativeTtl: 20, staleWhileRevalidate: '1m', staleIfError: '1m' }), nothing)
      await wait(30)
      t.equal(await cache.getOrSet(`${name} short`, () => 'it is there now'), 'it is there now', 'no stale "not found"')
    }
    await cache.set('set', null)
    t.equal(await cache.get('set'), null)
    await t.rejects(cache.set('set', undefined), { code: INVALID })
  })

  promise('the ttl may hang on the value, or be a tier', async (t, connection) => {
    const { cache } = await build(t, connection, { tiers: { short: 200 } })
    const make = counting(run => ({ run, status: run % 2 === 1 ? 'open' : 'closed' }))
    const get = () => cache.getOrSet('order', make, { ttl: order => order.status === 'open' ? 'short' : '1h' })
    t.same([(await get()).run, (await get()).run], [1, 1])
    await wait(210)
    t.same([(await get()).run, (await get()).run], [2, 2])
    await wait(210)
    t.equal((await get()).run, 2)
    const none = counting(run => run)
    for (const ttl of [0, () => 0, () => 'no duration']) await cache.getOrSet('none', none, { ttl })
    t.equal(none.runs, 3, 'a ttl of 0 stores nothing')
    await cache.set('order', 1, { ttl: 0 })
    t.equal(await cache.has('order'), false, 'nor does it leave what was there')
  })

  promise('jitter spreads what is stored at once', async (t, connection) => {
    const { cache } = await build(t, connection)
    const names = Array.from({ length: 40 }, (_, i) => `k${i}`)
    await cache.setMany(names.map(name => [name, 1]), { ttl: 1000, jitter: 1 })
    const there = (await cache.getMany(names)).filter(Boolean).length
    await wait(400)
    const left = (await cache.getMany(names)).filter(Boolean).length
    t.ok(left > 3 && left < there && left < 37, `${there} of 40, then ${left}`)
  })

  promise('stale, it is given at once and made anew in the background', async (t, connection) => {
    const { cache } = await build(t, connection)
    const make = counting(async run => { await wait(run === 1 ? 0 : 30); return run })
    const get = () => cache.getOrSet('k', make, { ttl: run => run === 1 ? 20 : '1m', staleWhileRevalidate: '1m' })
    t.equal(await get(), 1)
    await wait(30)
    t.same(await Promise.all(Array.from({ length: 10 }, get)), Array.from({ length: 10 }, () => 1))
    await until('it is made anew', async () => await get() === 2)
    t.equal(make.runs, 2)
    t.ok(cache.stats().stale >= 10)
  })

  promise('where the factory fails, what is too old is given, and it is not asked again at once', async (t, connection) => {
    const { cache } = await build(t, connection)
    const errors: unknown[] = []
    cache.on('error', event => errors.push(event))
    const make = counting<number>(run => { if (run > 1) throw new Error('down'); return run })
    const get = () => cache.getOrSet('k', make, { ttl: 10, staleIfError: '1m' })
    t.equal(await get(), 1)
    await wait(20)
    t.same(await Promise.all(Array.from({ length: 10 }, get)), Array.from({ length: 10 }, () => 1))
    t.equal(await get(), 1)
    t.equal(make.runs, 2)
    t.match(errors[0], { key: 'k', error: { message: 'down' } })
    t.equal(await cache.get('k'), undefined, 'a plain look-up is not given it')
    await t.rejects(cache.getOrSet('other', make, { staleIfError: '1m' }), { message: 'down' })
  })

  promise('after the soft time-out what is stale is given, and the factory goes on', async (t, connection) => {
    const { cache } = await build(t, connection)
    let finish = (): void => {}
    const slow = new Promise<void>(resolve => { finish = resolve })
    const make = counting<unknown[]>(async (run, { stale }) => { if (run > 1) await slow; return [run, stale?.[0]] })
    const get = () => cache.getOrSet('k', make, { ttl: ([run]) => run === 1 ? 10 : '1m', staleIfError: '1m', softTimeout: 20, hardTimeout: '1m' })
    await get()
    await wait(20)
    t.same(await Promise.all([get(), get()]), [[1, null], [1, null]])
    finish()
    await until('it is stored', async () => (await get())[0] === 2)
    t.same(await get(), [2, 1])
    t.equal(make.runs, 2)
  })

  promise('after the hard time-out the factory is aborted, and the caller gets an error or what is stale', async (t, connection) => {
    const { cache } = await build(t, connection)
    const signals: AbortSignal[] = []
    const hang = counting<number>((_run, { signal }) => { signals.push(signal); return new Promise(() => {}) })
    await t.rejects(cache.getOrSet('k', hang, { hardTimeout: 20 }), { code: 'FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT', statusCode: 503, message: /"k".* 20 ms/ })
    t.equal(signals[0]?.aborted, true)
    await cache.set('k', 1, { ttl: 10, staleIfError: '1m' })
    await wait(20)
    t.equal(await cache.getOrSet('k', hang, { hardTimeout: 20, staleIfError: '1m' }), 1)
    t.same([hang.runs, signals[1]?.aborted], [2, true])
  })

  promise('who gives up does not take the value from those who wait', async (t, connection) => {
    const { cache } = await build(t, connection)
    const [leader, follower] = [new AbortController(), new AbortController()]
    const make = counting(async (run, { signal }) => { await wait(200); return `${run} ${signal.aborted}` })
    const first = cache.getOrSet('k', make, { signal: leader.signal })
    await until('it is being made', () => make.runs === 1)
    const second = cache.getOrSet('k', make, { signal: follower.signal })
    const third = cache.getOrSet('k', make)
    await until('they wait', () => cache.stats().coalesced === 2)
    leader.abort(new Error('gone'))
    follower.abort(new Error('gone too'))
    await t.rejects(first, { message: 'gone' })
    await t.rejects(second, { message: 'gone too' })
    t.equal(await third, '1 false')
    t.equal(make.runs, 1)
    await t.rejects(cache.getOrSet('k', make, { signal: AbortSignal.abort(new Error('before')) }).then(() => cache.getOrSet('l', make, { signal: AbortSignal.abort(new Error('before')) })), { message: 'before' })

    const alone = new AbortController()
    let [begun, aborted] = [false, false]
    const waiting = cache.getOrSet('alone', ({ signal }) => {
      begun = true
      return new Promise(() => signal.addEventListener('abort', () => { aborted = true }))
    }, { signal: alone.signal })
    await until('it is being made', () => begun)
    alone.abort(new Error('gone'))
    await t.rejects(waiting, { message: 'gone' })
    t.ok(aborted, 'nobody waits, so the factory is aborted')
    t.equal(await cache.getOrSet('alone', () => 'next'), 'next')
  })

  promise('a factory that fails fails for all who wait in this process, once', async (t, connection) => {
    const { cache } = await build(t, connection)
    const make = counting<number>(async () => { await wait(20); throw new Error('no') })
    const results = await Promise.allSettled(Array.from({ length: 50 }, () => cache.getOrSet('k', make)))
    t.ok(results.every(({ status }) => status === 'rejected'))
    t.equal(make.runs, 1)
  })

  promise('a value that is not kept is still made once for all who ask at the same time', async (t, connection) => {
    const { cache } = await build(t, connection)
    const make = counting(async run => { await wait(20); return run })
    t.same(new Set(await Promise.all(Array.from({ length: 50 }, () => cache.getOrSet('k', make, { ttl: 0 })))), new Set([1]))
    t.equal(make.runs, 1)
  })

  promise('who makes a value gets the same as who reads it', async (t, connection) => {
    const { cache } = await build(t, connection)
    const make = () => ({ when: new Date(0), hole: undefined }) as unknown
    t.same(await cache.getOrSet('k', make), { when: '1970-01-01T00:00:00.000Z' })
    t.same(await cache.getOrSet('k', make), { when: '1970-01-01T00:00:00.000Z' })
    const value = await cache.getOrSet<{ list: number[] }>('own', () => ({ list: [1] }))
    value.list.push(2)
    t.same(await cache.getOrSet('own', () => ({ list: [] })), { list: [1] }, 'and whoever changes it changes his own')
  })

  promise('a hot key is made anew before it expires, one that nobody asks for is not', async (t, connection) => {
    const { cache } = await build(t, connection)
    const make = counting(run => run)
    const get = (name: string) => cache.getOrSet(name, make, { ttl: 2000, refreshAhead: 0.95 })
    await get('hot')
    await get('cold')
    t.equal(make.runs, 2)
    await wait(150)
    const [before, hot] = [cache.stats().misses, await get('hot')]
    t.equal(hot, 1, 'what is there is given at once')
    await until('it is made anew', async () => await get('hot') === 3)
    t.equal(cache.stats().misses, before, 'nobody waited for it')
    t.equal(make.runs, 3)
  })

  promise('tags may hang on the value', async (t, connection) => {
    const { cache } = await build(t, connection)
    const make = counting(run => ({ run, author: 'ann' }))
    const get = async () => (await cache.getOrSet('post', make, { tags: ({ author }) => [`author:${author}`] })).run
    await get()
    await until('it is stored', async () => await cache.has('post'))
    t.equal(await get(), 1)
    await cache.invalidateTags(['author:bob'])
    t.equal(await get(), 1)
    await cache.invalidateTags(['author:ann'])
    t.equal(await get(), 2)
    await t.rejects(cache.getOrSet('bad', make, { tags: () => [''] }), { code: INVALID })
  })

  promise('what is invalidated while the factory runs is not served afterwards', async (t, connection) => {
    const { cache } = await build(t, connection)
    for (const invalidate of [() => cache.invalidateTags(['t']), () => cache.delete('k'), () => cache.clear(), () => cache.invalidatePattern('k*'), () => cache.set('k', 'set')]) {
      let finish: ((value: string) => void) | undefined
      const old = cache.getOrSet('k', () => new Promise<string>(resolve => { finish = resolve }), { tags: ['t'] })
      await until('it is being made', () => finish !== undefined)
      await invalidate()
      finish?.('old')
      t.equal(await old, 'old')
      await wait(10)
      t.not(await cache.get('k'), 'old')
      await cache.delete('k')
    }
  })

  promise('a wrapped function is asked once for the same arguments', async (t, connection) => {
    const { cache } = await build(t, connection)
    let runs = 0
    const add = cache.wrap(async (a: number, b: number) => { runs++; return a + b }, { key: 'add', ttl: '1m' })
    t.same([await add(1, 2), await add(1, 2), await add(2, 1)], [3, 3, 3])
    t.equal(runs, 2)
    const byId = cache.wrap(({ id }: { id: string }) => `user ${id} ${++runs}`, { key: ({ id }) => `user:${id}`, tags: ['users'] })
    t.same([await byId({ id: 'a' }), await byId({ id: 'a' })], ['user a 3', 'user a 3'])
    await cache.invalidateTags(['users'])
    t.equal(await byId({ id: 'a' }), 'user a 4')
    const any = cache.wrap((...args: unknown[]) => args.map(arg => Object.prototype.toString.call(arg)).join(), { key: 'any' })
    t.equal(new Set(await Promise.all([any(1), any('1'), any(new Map([[1, 2]])), any(new Date(5)), any({}), any(undefined), any(null), any(1n)])).size, 8, 'what JSON does not tell apart')
    const sizes = cache.wrap((map: Map<number, number>) => map.size, { key: 'size' })
    t.same([await sizes(new Map()), await sizes(new Map([[1, 1]]))], [0, 1])
    await t.rejects(any(() => {}), { code: INVALID, message: /a function of the arguments/ })
    t.throws(() => cache.wrap('no' as never, { key: 'k' }), { code: INVALID })
    t.throws(() => cache.wrap(() => 1, { key: '' }), { code: INVALID })
    t.throws(() => cache.wrap(() => 1, { key: 'k', ttl: 'soon' }), { code: INVALID })
  })

  promise('a view with a prefix has its own keys, defaults, counts and clear', async (t, connection) => {
    const { cache } = await build(t, connection)
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

  promise('the structured clone tells what JSON cannot; what another serializer wrote is made anew', async (t, connection) => {
    const plain = await build(t, connection)
    const app = await build(t, connection, { serializer: 'structured-clone' })
    const value = { date: new Date(5), map: new Map([['a', new Set([1])]]), big: 2n ** 70n, bytes: Buffer.from('ab'), typed: new Float32Array([1.5]), nan: NaN }
    await app.cache.set('k', value)
    const read = await app.cache.get<typeof value>('k')
    t.same(read, value)
    t.ok(Buffer.isBuffer(read?.bytes) && read?.date instanceof Date && read?.map.get('a') instanceof Set)
    t.equal(await plain.cache.get('k'), undefined)
    t.equal(await plain.cache.getOrSet('k', () => 'made'), 'made')
    const circle: Record<string, unknown> = {}
    circle['self'] = circle
    const UNSERIALIZABLE = { code: 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE', message: /"bad"/ }
    for (const bad of [circle, 1n, () => {}, Symbol('s')]) {
      await t.rejects(plain.cache.set('bad', bad), UNSERIALIZABLE)
      await t.rejects(plain.cache.getOrSet('bad', () => bad), UNSERIALIZABLE)
    }
    await app.cache.set('bad', circle)
    const own = await build(t, connection, { serializer: { name: 'upper', serialize: value => String(value).toUpperCase(), deserialize: bytes => bytes.toString() } })
    await own.cache.set('own', 'abc')
    t.equal(await own.cache.get('own'), 'ABC')
    await t.rejects(build(t, connection, { serializer: 'xml' as never }), { code: INVALID, message: /structured-clone/ })
  })

  promise('write-through writes the source, then the cache', async (t, connection) => {
    const { cache } = await build(t, connection)
    const source = new Map([['k', 'old']])
    const read = () => cache.getOrSet('k', () => source.get('k'))
    t.equal(await read(), 'old')
    await cache.set('page', 'shows k', { tags: ['page'] })
    const order: unknown[] = []
    const saved = await cache.writeThrough('k', 'new', async (value, { key, signal }) => {
      order.push(key, signal.aborted, await cache.get('k'), await cache.get('page'))
      source.set('k', value)
    }, { invalidates: ['page'] })
    t.same(order, ['k', false, undefined, 'shows k'], 'while the source is written nobody is given what was there')
    t.equal(saved, 'new')
    t.equal(await cache.get('k'), 'new')
    t.equal(await cache.get('page'), undefined)
    t.equal(await cache.writeThrough('k', 'given', value => { source.set('k', `${value}, completed`); return source.get('k') ?? '' }), 'given, completed')
    t.equal(await cache.get('k'), 'given, completed', 'what the source made of it')
    await cache.writeThrough<string | null>('k', 'gone', () => null)
    t.equal(await cache.has('k'), false, 'there is none')
  })

  promise('a source that fails leaves the cache as it was', async (t, connection) => {
    const { cache } = await build(t, connection)
    await cache.set('k', 'old', { tags: ['t'] })
    await t.rejects(cache.writeThrough('k', 'new', () => { throw new Error('down') }), { message: 'down' })
    t.equal(await cache.get('k'), 'old')
    await t.rejects(cache.writeThrough('none', 'new', async () => { throw new Error('down') }), { message: 'down' })
    t.equal(await cache.get('none'), undefined)
    t.equal(await cache.getOrSet('none', () => 'made'), 'made')
    await until('it is stored', () => cache.has('none'))
    await t.rejects(cache.writeThrough('k', 1n, () => { t.fail('not asked') }), { code: 'FST_REDIS_SUITE_CACHE_UNSERIALIZABLE' })
    await t.rejects(cache.writeThrough('k', 'v', 'no' as never), { code: INVALID })
    t.equal(await cache.get('k'), 'old')
    await cache.invalidateTags(['t'])
    t.equal(await cache.get('k'), undefined)
  })

  promise('while a source is being written, what is read of it is not stored; and of two writers none is cached', async (t, connection) => {
    const { cache } = await build(t, connection, { l1: 1024 ** 2 })
    let source = 'old'
    const begun: string[] = []
    const ends = new Map<string, () => void>()
    const write = (value: string) => cache.writeThrough('k', value, async () => {
      begun.push(value)
      await new Promise<void>(resolve => ends.set(value, resolve))
      source = value
    })
    const writing = write('new')
    await until('the source is being written', () => begun.length === 1)
    t.equal(await cache.getOrSet('k', () => source), 'old')
    t.equal(await cache.get('k'), undefined)
    ends.get('new')?.()
    await writing
    t.equal(await cache.get('k'), 'new')
    const both = [write('a'), write('b')]
    await until('both write', () => begun.length === 3)
    for (const value of ['a', 'b']) ends.get(value)?.()
    await Promise.all(both)
    t.equal(await cache.get('k'), undefined)
    t.equal(await cache.getOrSet('k', () => source), 'b')
  })

  promise('a writer that is given up leaves nothing that could be wrong', async (t, connection) => {
    const { cache } = await build(t, connection)
    let finish = (): void => {}
    await cache.set('k', 'old')
    const slow = () => new Promise<void>(resolve => { finish = resolve })
    await t.rejects(cache.writeThrough('k', 'new', slow, { hardTimeout: 20 }), { code: 'FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT' })
    t.equal(await cache.get('k'), undefined)
    t.equal(await cache.getOrSet('k', () => 'read'), 'read')
    await wait(10)
    t.equal(await cache.has('k'), false, 'as it may still be written')
    finish()
    await until('it is stored again', async () => { await cache.getOrSet('k', () => 'read'); await wait(5); return await cache.has('k') })
  })

  promise('write-behind is a part of the cache: values as it serializes them, one of each name, done when the app closes', async (t, connection) => {
    const app = await build(t, connection, { serializer: 'structured-clone' })
    const written: unknown[] = []
    const behind = app.cache.writeBehind<Map<string, number>>('scores', { write: batch => { written.push(...batch.map(({ key, value }) => [key, value])) }, flushEvery: '1h' })
    t.throws(() => app.cache.writeBehind('scores', { write: () => {} }), { code: INVALID })
    t.throws(() => app.cache.withPrefix('p').writeBehind('other', {} as never), { code: INVALID })
    await behind.add('a', new Map([['x', 1]]))
    await behind.flush()
    t.same(written, [['a', new Map([['x', 1]])]])
    await behind.add('a', new Map())
    await app.close()
    await t.rejects(behind.add('a', new Map()), { code: 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE' })
    if (connection === undefined) return t.equal(written.length, 2)
    const next = await build(t, connection, { serializer: 'structured-clone' })
    next.cache.writeBehind('scores', { write: batch => { written.push(...batch) }, flushEvery: 10 })
    await until('another instance writes it', () => written.length === 2)
  })

  promise('what happens is told by name and by tier, also as events', async (t, connection) => {
    const { cache } = await build(t, connection)
    const told: unknown[] = []
    for (const event of ['hit', 'miss', 'stale', 'store', 'invalidate', 'coalesce'] as const) cache.on(event, ({ ...what }) => told.push([event, what]))
    const off = cache.on('hit', () => { throw new Error('a listener of no use') })
    const make = async () => { await wait(20); return 'value' }
    await Promise.all([cache.getOrSet('k', make, { tags: ['t'] }), cache.getOrSet('k', make, { tags: ['t'] })])
    await until('it is stored', () => cache.stats().stored === 1)
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

  promise('the store tells what it holds', async (t, connection) => {
    const { cache } = await build(t, connection)
    await cache.set('k', 'v')
    await cache.get('k')
    const stats = await cache.storeStats()
    t.equal(stats.kind, connection === undefined ? 'memory' : 'redis')
    t.ok(stats.entries >= 1 && stats.usedMemory > 0 && stats.policy !== '' && stats.evicted === 0 && stats.maxMemory >= 0, JSON.stringify(stats))
  })
}

t.test('many keys take one round trip each way', async t => {
  const app = await build(t, { url: server.url, prefix: 'trips' }, { l1: false })
  const names = Array.from({ length: 200 }, (_, i) => `k${i}`)
  const monitor = server.client()
  await app.cache.set('first', 1, { tags: ['t'] })
  // Commands that come in one batch are read from the socket at once: the server counts how often it had to read.
  const reads = async () => Number(/total_reads_processed:(\d+)/.exec(await monitor.info('stats'))?.[1])
  const trips = async (work: () => Promise<unknown>) => {
    const before = await reads()
    await work()
    return await reads() - before - 1
  }
  const set = await trips(() => app.cache.setMany(names.map(name => [name, name]), { tags: ['t'] }))
  const get = await trips(() => app.cache.getMany(names))
  const removed = await trips(() => app.cache.deleteMany(names))
  // A batch larger than the server's buffer takes a few reads.
  t.ok(set <= 6 && get <= 6 && removed <= 6, `${set}, ${get}, ${removed} reads for 200 keys`)
  await monitor.quit()
})

t.test('instances hear what others invalidate, and `everywhere` waits until all have', async t => {
  const [a, b] = await Promise.all([build(t, { url: server.url, prefix: 'hear' }), build(t, { url: server.url, prefix: 'hear' })])
  const heard: unknown[] = []
  b.cache.on('invalidate', event => heard.push(event))
  await until('it hears', async () => {
    await a.cache.delete('x')
    await wait(20)
    return heard.length > 0
  })
  heard.length = 0
  await a.cache.set('k', 1, { tags: ['t'] })
  await until('it is in the other first tier', async () => { await b.cache.get('k'); return b.cache.stats().l1Hits > 0 })
  const began = performance.now()
  await a.cache.invalidateTags(['t'], { everywhere: true })
  t.equal(await b.cache.get('k'), undefined)
  t.ok(performance.now() - began >= 99)
  await a.cache.delete('k')
  await a.cache.clear()
  await until('all is heard', () => heard.length >= 3)
  t.match(heard.slice(0, 3), [{ tags: ['t'], origin: 'remote' }, { key: 'k', origin: 'remote' }, { tags: ['*'], origin: 'remote' }])
})

t.test('of four instances one runs the factory, also where it has to be made anew', async t => {
  const apps = await Promise.all(Array.from({ length: 4 }, () => build(t, { url: server.url, prefix: 'four' }, { timeout: '5s' })))
  const make = counting(async run => { await wait(50); return run })
  const get = (app: FastifyInstance) => app.cache.getOrSet('k', make, { ttl: run => run === 1 ? 30 : '1m', staleWhileRevalidate: '1m', tags: ['t'] })
  const all = () => Promise.all(Array.from({ length: 1000 }, (_, i) => get(apps[i % 4] as FastifyInstance)))
  t.same(new Set(await all()), new Set([1]))
  await wait(60)
  await all()
  await until('it is made anew', async () => await get(apps[0] as FastifyInstance) === 2)
  t.equal(make.runs, 2)
})

t.test('with `freeze` all who read a value get the same, which nobody can change', async t => {
  const { cache } = await build(t, { url: server.url, prefix: 'frozen' }, { freeze: true })
  const make = () => ({ list: [{ a: 1 }] })
  const made = await cache.getOrSet('k', make)
  t.throws(() => made.list.push({ a: 2 }), TypeError)
  t.throws(() => { (made.list[0] as { a: number }).a = 2 }, TypeError)
  await until('it is in the first tier', async () => { await cache.getOrSet('k', make); return cache.stats().l1Hits > 1 })
  t.equal(await cache.getOrSet('k', make), await cache.getOrSet('k', make))
  t.same(await cache.get('k'), make())
  await t.rejects(build(t, undefined, { freeze: true, serializer: 'structured-clone' }), { code: INVALID })
})

t.test('input that cannot be used is refused with a code', async t => {
  const { cache } = await build(t)
  const bad: Array<() => Promise<unknown>> = [
    () => cache.get(''), () => cache.get(1 as never), () => cache.getMany('k' as never), () => cache.getMany(['k', '']), () => cache.has(null as never),
    () => cache.set('k', 1, { ttl: -1 }), () => cache.set('k', 1, { tags: 't' as never }), () => cache.set('k', 1, { tgas: [] } as never),
    () => cache.setMany({} as never), () => cache.delete({} as never), () => cache.getOrSet('k', 5 as never), () => cache.getOrSet('k', () => 1, { ttl: 'headers' }),
    () => cache.getOrSet('k', () => 1, { softTimeout: 0 }), () => cache.getOrSet('k', () => 1, { hardTimeout: 2 ** 31 }), () => cache.getOrSet('k', () => 1, { refreshAhead: 2 }),
    () => cache.getOrSet('k', () => 1, { signal: {} as never }), () => cache.getOrSet('k', () => 1, { jitter: -1 }), () => cache.writeThrough('k', 1, () => {}, { invalidates: [''] }),
    () => cache.invalidateTags(['t'], { everywere: true } as never), () => cache.clear(null as never), () => cache.writeThrough('k', 1, () => {}, null as never),
    () => cache.getOrSet('k', () => 1, null as never), () => cache.invalidateTags('t' as never), () => cache.invalidatePattern('')
  ]
  for (const each of bad) await t.rejects(each(), { code: INVALID }, String(each))
  t.throws(() => cache.on('hit', 'no' as never), { code: INVALID })
  for (const options of [{ values: { ttl: 'soon' } }, { values: { tags: [] } }, { values: { refreshAhead: 7 } }, { serializer: {} }]) await t.rejects(build(t, undefined, options as never), { code: INVALID }, JSON.stringify(options))
})
