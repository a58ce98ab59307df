// Faults of real servers and connections; the deadlines, retries and back-offs of the plugin pass as the test advances its clock. How long they
// take in milliseconds is in test/timing/data-cache-recovery.test.ts, a kill in test/stress/data-cache-kill.test.ts.
import t, { type Test } from 'tap'
import type { CachePluginOptions, DataCache } from '../../plugins/cache/index.js'
import { sleep } from '../../plugins/shared/plugin/clock.js'
import { advanceUntil, advanceWhile, createTestApp, newPrefix, sharedRedis, startProxy, startRedis, until, type TestAppOptions } from '../helpers/index.js'
import { createGate, createStep, upTo } from '../helpers/cache/factories.js'

const server = await sharedRedis()
const UNAVAILABLE = 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE'
const TIMEOUT = 'FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT'
/** By the test's clock. */
const BOUND_MS = 1500
const never = () => new Promise<never>(() => {})

/** Starts two instances; the first one connects through `proxyPort` if it is given. */
async function pair (t: Test, store: TestAppOptions['store'] = 'redis', cache: CachePluginOptions = {}, proxyPort?: number) {
  // A deadline passes only if the store fails.
  const timeout = store === 'redis' ? '1h' : undefined
  const shared = { store, prefix: newPrefix(), connection: { required: false }, plugins: { cache: { ttl: '1h', timeout, ...cache } } } as const
  const opened = await createTestApp(t, { ...shared, instances: proxyPort === undefined ? 2 : 1 })
  const { clock, prefix } = opened
  const apps = proxyPort === undefined
    ? opened.apps
    : [(await createTestApp(t, { ...shared, clock, store: { url: `redis://127.0.0.1:${proxyPort}`, answers: false } })).app, opened.app]
  const [app, other] = apps
  if (app === undefined || other === undefined) throw new Error('two apps')
  const soon = async <T>(promise: Promise<T>): Promise<T> => (await advanceWhile(clock, promise)).value
  /** For events that take real time as well, such as a reconnection. */
  const eventually = (what: string, check: () => Promise<unknown>) => until(what, async () => {
    await clock.advance(50)
    return await soon(check()) === true
  })
  return { a: app.cache, b: other.cache, app, other, clock, prefix, soon, eventually }
}

const all = async (check: Promise<unknown[]>, value: unknown) => (await check).every(each => each === value)
const storedIn = (cache: DataCache, count: number) => until(`${count} values are stored`, () => cache.stats().stored === count)

t.test('an instance that ends between writing the source and the cache leaves a key that reads as missing, and the next writer repairs it', async t => {
  const { a, other, soon } = await pair(t)
  await a.set('k', 'old')
  const writer = createStep()
  other.cache.writeThrough('k', 'new', writer.run).catch(() => {})
  await writer.begun
  // As if its process had been killed.
  other.redis.disconnect()
  t.equal(await a.get('k'), undefined)
  t.equal(await soon(a.getOrSet('k', () => 'new')), 'new')
  t.equal(await a.get('k'), undefined, 'a value that is read meanwhile is not stored')
  t.equal(await a.writeThrough('k', 'newer', () => {}), 'newer')
  t.equal(await a.get('k'), 'newer')
})

t.test('the lock of a write-through lasts for 10 minutes, and a writer that failed leaves the ttl as it was', async t => {
  const { a, prefix } = await pair(t)
  await a.set('k', 'old', { ttl: '1d' })
  const ends = createGate()
  const began = createGate()
  const writing = a.writeThrough('k', 'new', async () => { began.open(); await ends.opened; throw new Error('no') })
  await began.opened
  const [key = ''] = (await server.client().keys(`${prefix}:cache:entry:*`))
  const marked = await server.client().pttl(key)
  t.ok(marked > 500_000 && marked <= 600_000, `${marked} ms`)
  ends.open()
  await t.rejects(writing, { message: 'no' })
  t.equal(await a.get('k'), 'old')
  t.ok(await server.client().pttl(key) > 80_000_000)
})

t.test('a write-through that fails leaves the old value, and concurrent ones that fail leave none until one succeeds', async t => {
  const { a, b } = await pair(t, 'redis', { l1: false })
  await a.set('k', 'old')
  await t.rejects(a.writeThrough('k', 'new', () => { throw new Error('no') }), { message: 'no' })
  t.equal(await b.get('k'), 'old')
  const gate = createGate()
  let begun = 0
  const fail = async () => { begun++; await gate.opened; throw new Error('no') }
  const failing = Promise.allSettled([a.writeThrough('k', 1, fail), b.writeThrough('k', 2, fail), a.writeThrough('k', 3, fail)])
  await until('all three write', () => begun === 3)
  gate.open()
  t.same((await failing).map(({ status }) => status), Array(3).fill('rejected'))
  t.equal(await b.get('k'), undefined, 'no writer knows whether the others failed')
  t.equal(await b.writeThrough('k', 'new', () => {}), 'new')
  t.equal(await a.get('k'), 'new')
})

t.test('a written value that cannot be serialized, or has a bad ttl or tags, is not cached, and the old value is removed', async t => {
  const { a, b, soon } = await pair(t, 'redis', { l1: false })
  await a.set('k', 'old')
  t.equal(await a.writeThrough<unknown>('k', 'new', () => 1n), 1n)
  t.equal(await b.get('k'), undefined)
  let stored = 0
  for (const options of [{ ttl: () => { throw new Error('ttl') } }, { tags: () => { throw new Error('tags') } }, { tags: () => [''] }]) {
    await soon(b.getOrSet('k', () => 'made'))
    await storedIn(b, ++stored)
    t.equal(await a.get('k'), 'made')
    await a.writeThrough('k', 'new', () => {}, options).catch(() => {})
    t.equal(await b.get('k'), undefined)
  }
})

for (const fault of ['paused', 'severed', 'unreachable'] as const) {
  t.test(`calls end within their deadlines while the store is ${fault}, and nothing obsolete is served once it is back`, async t => {
    const own = await startRedis()
    const proxy = await startProxy(own.port)
    // The second instance keeps its connection, except to a paused server.
    const { a, b, clock, soon, eventually } = await pair(t, own, {}, proxy.port)
    const breakIt = () => fault === 'paused' ? own.pause() : fault === 'severed' ? proxy.sever() : proxy.blackhole(true)
    const mend = () => fault === 'paused' ? own.resume() : proxy.blackhole(false)
    const keys = ['deleted', 'tagged', 'written', 'failed', 'set']
    const changed = ['deleted', 'tagged', 'written']
    const source: Record<string, string> = Object.fromEntries(keys.map(key => [key, 'old']))
    for (const key of keys) await a.set(key, 'old', { tags: [`tag:${key}`] })
    t.same(await b.getMany(keys), keys.map(() => 'old'))

    breakIt()
    for (const key of ['deleted', 'tagged', 'set']) source[key] = 'new'
    const { value: [deleted, tagged, written, failed, set], passed } = await advanceWhile(clock, Promise.allSettled([
      a.delete('deleted'), a.invalidateTags(['tag:tagged']),
      a.writeThrough('written', 'new', () => { source['written'] = 'new' }),
      a.writeThrough('failed', 'new', () => { throw new Error('no') }),
      a.set('set', 'new')
    ]))
    t.ok(passed <= BOUND_MS, `${passed} ms of the test's clock`)
    t.equal(written.status, 'fulfilled', 'a cache that is unavailable is no reason for a write-through to fail')
    t.match(failed, { reason: { message: 'no' } })
    if (set.status === 'rejected') t.match(set, { reason: { code: UNAVAILABLE } })
    if (fault !== 'severed') t.same([deleted.status, tagged.status, set.status], Array(3).fill('rejected'))
    for (const key of changed) t.equal(await soon(a.getOrSet(key, () => source[key])), 'new', `${key}: in this process it is gone at once`)
    mend()
    const read = (cache: DataCache, names: string[]) => Promise.all(names.map(async key => await cache.getOrSet(key, () => source[key])))
    await eventually('the other instance sees the changes', async () => await all(read(b, changed), 'new'))
    for (const cache of [a, b]) t.same(await soon(read(cache, [...changed, 'failed'])), ['new', 'new', 'new', 'old'])
    await eventually('all keys are cached again', async () => {
      await read(a, keys)
      return (await b.getMany(keys)).every(value => value !== undefined)
    })
    t.same(await soon(read(b, [...changed, 'failed'])), ['new', 'new', 'new', 'old'])
    await soon(a.set('set', 'newer'))
    await eventually('the other instance sees a set', async () => await b.get('set') === 'newer')
    t.equal(await soon(b.get('set')), 'newer')
  })
}

t.test('a caller after an invalidation that could not be written does not get a value whose factory began before it', async t => {
  const own = await startRedis()
  const { a, clock, soon, eventually } = await pair(t, own)
  for (const options of [{ tags: ['t'] }, {}]) {
    const source = { value: 'old' }
    const ends = createGate()
    let runs = 0
    const factory = async () => { const { value } = source; if (++runs === 1) await ends.opened; return value }
    own.pause()
    const old = a.getOrSet('k', factory, options)
    await advanceUntil(clock, 'the factory runs', () => runs === 1)
    source.value = 'new'
    await t.rejects(soon<unknown>(options.tags ? a.invalidateTags(['t']) : a.delete('k')), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
    const after = a.getOrSet('k', factory, options)
    await advanceUntil(clock, 'it runs again', () => runs === 2)
    ends.open()
    t.same(await soon(Promise.all([old, after])), ['old', 'new'])
    own.resume()
    await eventually('a set succeeds, and is read', async () => await a.set('k', 'x', options).then(async () => await a.get('k') === 'x', () => false))
    t.equal(await soon(a.delete('k')), true)
  }
})

t.test('removals that could not be written are written in batches when the store is back', async t => {
  const own = await startRedis()
  const { a, b, soon, eventually } = await pair(t, own, { l1: false })
  const keys = upTo(1200).map(i => `k${i}`)
  await a.setMany(keys.map(key => [key, 'old']))
  own.pause()
  await t.rejects(soon(a.deleteMany(keys)), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  own.resume()
  await eventually('they are written', async () => await all(b.getMany(['k0', 'k600', 'k1199']), undefined))
  t.same((await soon(b.getMany(keys))).filter(Boolean), [])
})

t.test('a server without memory refuses to store, with a coded error, and still invalidates', async t => {
  const own = await startRedis()
  const { a, b, soon } = await pair(t, own, { l1: false })
  for (const key of ['deleted', 'tagged', 'written']) await a.set(key, 'old', { tags: [key] })
  await own.client().config('SET', 'maxmemory', '1')
  await t.rejects(a.set('new', 1), { code: UNAVAILABLE })
  await t.rejects(a.setMany([['new', 1]]), { code: UNAVAILABLE })
  await a.delete('deleted')
  await a.invalidateTags(['tagged'])
  t.equal(await a.writeThrough('written', 'new', () => {}), 'new')
  t.same(await b.getMany(['deleted', 'tagged', 'written']), [undefined, undefined, undefined])
  t.equal(await soon(a.getOrSet('made', () => 1)), 1)
  await t.rejects(a.writeThrough('tagged', 'new', () => { throw new Error('no') }), { message: 'no' })
  await own.client().config('SET', 'maxmemory', '0')
  t.same(await b.getMany(['deleted', 'tagged', 'written']), [undefined, undefined, undefined])
  await a.set('new', 1)
  t.equal(await b.get('new'), 1)
})

t.test('a server that became a replica refuses to store, with a coded error, and is used again when it is a master', async t => {
  const own = await startRedis()
  // Keys age with the clock only if they can be written.
  const store = { url: own.url, answers: true }
  const { a, b, soon, eventually } = await pair(t, store)
  await a.set('k', 'old', { tags: ['t'] })
  await a.set('w', 'old')
  // A replica of a server that does not exist keeps its data.
  store.answers = false
  await own.client().replicaof('127.0.0.1', 1)
  await t.rejects(soon(a.set('k', 'new')), { code: UNAVAILABLE })
  await t.rejects(soon(a.invalidateTags(['t'])), { code: 'FST_REDIS_SUITE_CACHE_INVALIDATION_PENDING' })
  t.equal(await soon(a.writeThrough('w', 'new', () => {})), 'new')
  for (const key of ['k', 'w']) t.equal(await soon(a.getOrSet(key, () => 'new')), 'new')
  await own.client().replicaof('NO', 'ONE')
  store.answers = true
  const read = () => Promise.all(['k', 'w'].map(async key => await b.getOrSet(key, () => 'new')))
  await eventually('the other instance sees the changes', async () => await all(read(), 'new'))
  t.same(await soon(read()), ['new', 'new'])
})

t.test('a server that lost its scripts gets them again', async t => {
  // Other tests share the scripts of the shared server.
  const own = await startRedis()
  const { a, b } = await pair(t, own, { l1: false })
  for (const i of upTo(5)) {
    await own.client().script('FLUSH')
    await Promise.all([a.writeThrough(`w${i}`, i, async () => { await own.client().script('FLUSH') }), a.set(`s${i}`, i)])
    t.same(await b.getMany([`w${i}`, `s${i}`]), [i, i])
    await own.client().script('FLUSH')
    t.same(await Promise.all([b.delete(`w${i}`), b.delete(`s${i}`)]), [true, true])
    t.same(await a.getMany([`w${i}`, `s${i}`]), [undefined, undefined])
  }
})

t.test('an app closes within 4 seconds while factories and writers run that never end, and those that end are waited for', async t => {
  const unhandled: unknown[] = []
  const note = (error: unknown) => unhandled.push(error)
  process.on('unhandledRejection', note)
  t.teardown(() => process.off('unhandledRejection', note))
  const { a, app, clock } = await pair(t)
  await a.set('stale', 1, { ttl: '1m', staleWhileRevalidate: '1h' })
  await clock.advance('90s')
  let begun = 0
  const slowly = <T>(end: () => T) => async () => { begun++; await sleep(clock, 300); return end() }
  a.getOrSet('never', async () => { begun++; return await never() }).catch(() => {})
  a.writeThrough('never written', 1, async () => { begun++; return await never() }).catch(() => {})
  t.equal(await a.getOrSet('stale', async () => { begun++; return await never() }), 1)
  const slow = a.getOrSet('slow', slowly(() => 'made'))
  const slowWrite = a.writeThrough('slowly', 'written', slowly(() => {}))
  const failing = a.getOrSet('failing', slowly(() => { throw new Error('no') }))
  failing.catch(() => {})
  await until('all of them run', () => begun === 6)
  const { passed } = await advanceWhile(clock, app.close())
  t.ok(passed >= 300 && passed < 4000, `${passed} ms of the test's clock`)
  t.equal(await slow, 'made')
  t.equal(await slowWrite, 'written')
  await t.rejects(failing, { message: 'no' })
  await clock.advance('1m')
  t.same(unhandled, [])
})

t.test('a factory that never ends is aborted after its hardTimeout, for all callers, and the next call runs it again', async t => {
  const { a, clock, soon } = await pair(t)
  const signals: AbortSignal[] = []
  const hang = ({ signal }: { signal: AbortSignal }) => { signals.push(signal); return never() }
  const calls = Promise.allSettled(upTo(3).map(() => a.getOrSet('k', hang, { hardTimeout: '1m' })))
  await until('two callers wait for the third', () => a.stats().coalesced === 2 && signals.length === 1)
  await clock.advance(59_999)
  t.equal(signals[0]?.aborted, false)
  await clock.advance(1)
  t.match(await calls, Array(3).fill({ status: 'rejected', reason: { code: TIMEOUT } }))
  t.equal(signals.length, 1)
  t.equal(signals[0]?.aborted, true)
  t.equal(await soon(a.getOrSet('k', () => 1)), 1)
})

t.test('a caller that aborts ends its own wait, and the factory only if no other caller waits', async t => {
  const { a, clock, soon } = await pair(t)
  let names = 0
  const run = (t: Test) => {
    const key = `k${++names}`
    const ends = createGate()
    const state: { runs: number, signal?: AbortSignal } = { runs: 0 }
    const factory = async ({ signal }: { signal: AbortSignal }) => {
      state.runs++
      state.signal = signal
      await ends.opened
      return 'made'
    }
    const before = a.stats().coalesced
    const joined = () => until('a second caller waits', () => a.stats().coalesced === before + 1)
    const call = () => {
      const controller = new AbortController()
      const result = a.getOrSet(key, factory, { signal: controller.signal })
      result.catch(() => {})
      return { result, leave: () => controller.abort(new Error('left')) }
    }
    const rejects = async (result: Promise<string>) => await t.rejects(result, { message: 'left' })
    return { key, ends, state, call, joined, rejects, begun: () => until('the factory runs', () => state.runs > 0) }
  }

  await t.test('the leader, alone', async t => {
    const { state, call, rejects, begun } = run(t)
    const leader = call()
    await begun()
    leader.leave()
    await rejects(leader.result)
    t.equal(state.signal?.aborted, true)
  })
  await t.test('the leader, with a follower', async t => {
    const { state, call, joined, rejects, begun, ends, key } = run(t)
    const leader = call()
    await begun()
    const follower = call()
    await joined()
    leader.leave()
    await rejects(leader.result)
    t.equal(state.signal?.aborted, false)
    ends.open()
    t.equal(await follower.result, 'made')
    t.equal(state.runs, 1)
    await until('it is stored', async () => await a.has(key))
    t.equal(await a.get(key), 'made')
  })
  await t.test('a follower', async t => {
    const { state, call, joined, rejects, begun, ends } = run(t)
    const leader = call()
    await begun()
    const follower = call()
    await joined()
    follower.leave()
    await rejects(follower.result)
    t.equal(state.signal?.aborted, false)
    ends.open()
    t.equal(await leader.result, 'made')
  })
  for (const order of [[0, 1], [1, 0]] as const) {
    await t.test(`all of them, ${order[0] === 0 ? 'the leader first' : 'the follower first'}`, async t => {
      const { state, call, joined, rejects, begun } = run(t)
      const calls = [call()]
      await begun()
      calls.push(call())
      await joined()
      for (const i of order) {
        calls[i]!.leave()
        await rejects(calls[i]!.result)
      }
      t.equal(state.signal?.aborted, true, 'no caller waits')
    })
  }
  await t.test('before it began', async t => {
    const { state, key } = run(t)
    const factory = () => { state.runs++; return 1 }
    await t.rejects(a.getOrSet(key, factory, { signal: AbortSignal.abort(new Error('left')) }), { message: 'left' })
    const during = new AbortController()
    const result = a.getOrSet(key, factory, { signal: during.signal })
    during.abort(new Error('left'))
    await t.rejects(result, { message: 'left' })
    // More round trips than starting takes.
    for (const i of upTo(5)) await a.get(`other ${i}`)
    await clock.advance('1s')
    t.equal(state.runs, 0, 'it is not run without a caller')
    t.equal(await soon(a.getOrSet(key, factory)), 1)
  })
  await t.test('with its own signal in the factory, as for fetch, while another one waits', async t => {
    const key = `k${++names}`
    const controller = new AbortController()
    let runs = 0
    const factory = (own?: AbortSignal) => async () => {
      if (++runs > 1) return 'made'
      return await new Promise<string>((_resolve, reject) => own?.addEventListener('abort', () => reject(Object.assign(new Error('left'), { cause: own.reason }))))
    }
    const leader = a.getOrSet(key, factory(controller.signal), { signal: controller.signal })
    leader.catch(() => {})
    await until('the factory runs', () => runs > 0)
    const before = a.stats().coalesced
    const follower = a.getOrSet(key, factory())
    await until('a second caller waits', () => a.stats().coalesced === before + 1)
    controller.abort(new Error('left'))
    await t.rejects(leader, { message: 'left' })
    t.equal(await soon(follower), 'made', 'the other caller does not get its error')
  })
})

t.test('a caller that aborts does not count as a failure of the factory', async t => {
  const { a, clock, soon } = await pair(t, 'redis', { l1: false })
  await a.set('k', 'old', { ttl: '1m', staleIfError: '1h' })
  await clock.advance('2m')
  const errors: unknown[] = []
  a.on('error', ({ error }) => errors.push(error))
  const controller = new AbortController()
  const begun = createGate()
  const left = a.getOrSet('k', async () => { begun.open(); return await never() }, { signal: controller.signal, staleIfError: '1h' })
  await begun.opened
  controller.abort(new Error('left'))
  await t.rejects(left, { message: 'left' })
  t.equal(await soon(a.getOrSet('k', () => 'new', { staleIfError: '1h' })), 'new', 'the next caller runs the factory')
  t.same(errors, [])
})
