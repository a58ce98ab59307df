import { fork } from 'node:child_process'
import { once } from 'node:events'
import { resolve } from 'node:path'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions } from '../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { startProxy, startRedis, until } from '../helpers/index.js'
import { stopwatch } from '../helpers/timing/stopwatch.js'

const server = await startRedis()
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const UNAVAILABLE = 'FST_REDIS_SUITE_CACHE_STORE_UNAVAILABLE'
const TIMEOUT = 'FST_REDIS_SUITE_CACHE_FACTORY_TIMEOUT'
const BACK_MS = 3000
let prefixes = 0

async function build (t: Test, connection: RedisPluginOptions, options: CachePluginOptions = {}): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { required: false, ...connection })
  await app.register(cache, { ttl: '1h', ...options })
  await app.ready()
  return app
}

/** Two instances; only one of them is behind what fails. */
async function pair (t: Test, url: string, otherUrl = url, options: CachePluginOptions = {}) {
  const prefix = `f${++prefixes}`
  const [a, b] = await Promise.all([build(t, { url, prefix }, options), build(t, { url: otherUrl, prefix }, options)])
  return { a: a.cache, b: b.cache, app: a, prefix }
}

function gate () {
  let open = (): void => {}
  const opened = new Promise<void>(resolve => { open = resolve })
  return { open, opened }
}

t.test('an instance that is killed between writing the source and the cache leaves nothing that could be read', async t => {
  const { a, prefix } = await pair(t, server.url)
  const child = fork(resolve(import.meta.dirname, '../helpers/fixtures/write-through.ts'), {
    env: { ...process.env, REDIS_URL: server.url, REDIS_PREFIX: prefix },
    execArgv: ['--import', 'tsx']
  })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child, 'message')
  await a.set('k', 'old')
  t.equal(await a.get('k'), 'old')
  child.send('k')
  await once(child, 'message')
  child.kill('SIGKILL')
  await once(child, 'exit')
  await wait(110)
  t.equal(await a.get('k'), undefined)
  t.equal(await a.getOrSet('k', () => 'new'), 'new')
  t.equal(await a.writeThrough('k', 'newer', () => {}), 'newer')
  t.equal(await a.get('k'), 'newer', 'and the next writer heals it')
})

t.test('a mark that nobody takes away stands for minutes and not as long as what was there', async t => {
  const { a, prefix } = await pair(t, server.url)
  await a.set('k', 'old', { ttl: '1d' })
  const ends = gate()
  const began = gate()
  const writing = a.writeThrough('k', 'new', async () => { began.open(); await ends.opened; throw new Error('no') })
  await began.opened
  const [key = ''] = (await server.client().keys(`${prefix}:cache:entry:*`))
  t.ok(await server.client().pttl(key) <= 600_000, `${await server.client().pttl(key)} ms`)
  ends.open()
  await t.rejects(writing, { message: 'no' })
  t.equal(await a.get('k'), 'old')
  t.ok(await server.client().pttl(key) > 80_000_000, 'a writer that failed leaves its life as it was')
})

t.test('a writer that failed leaves what was there, and several at once nothing, until one succeeds', async t => {
  const { a, b } = await pair(t, server.url)
  await a.set('k', 'old')
  await t.rejects(a.writeThrough('k', 'new', () => { throw new Error('no') }), { message: 'no' })
  t.equal(await b.get('k'), 'old')
  const fail = async () => { await wait(20); throw new Error('no') }
  await Promise.allSettled([a.writeThrough('k', 1, fail), b.writeThrough('k', 2, fail), a.writeThrough('k', 3, fail)])
  t.equal(await b.get('k'), undefined, 'none of them knows of the others whether they failed')
  t.equal(await b.writeThrough('k', 'new', () => {}), 'new')
  t.equal(await a.get('k'), 'new')
})

t.test('what a writer returned and nobody can serialize is not cached, and what was there is gone', async t => {
  const { a, b } = await pair(t, server.url, server.url, { l1: false })
  await a.set('k', 'old')
  const written = await a.writeThrough<unknown>('k', 'new', () => 1n)
  t.equal(written, 1n)
  t.equal(await b.get('k'), undefined)
  await b.getOrSet('k', () => 'made')
  await until('it is cached', async () => await a.get('k') === 'made', 2000)
  for (const options of [{ ttl: () => { throw new Error('ttl') } }, { tags: () => { throw new Error('tags') } }, { tags: () => [''] }]) {
    await a.writeThrough('k', 'new', () => {}, options).catch(() => {})
    t.equal(await b.get('k'), undefined)
    await b.getOrSet('k', () => 'made')
    await until('it is cached', async () => await a.get('k') === 'made', 2000)
  }
})

for (const fault of ['paused', 'severed', 'unreachable'] as const) {
  t.test(`a store that is ${fault} while it is changed gives nothing obsolete after it is back`, async t => {
    const own = await startRedis()
    const proxy = await startProxy(own.port)
    // The other one has its connection all the time.
    const { a, b } = await pair(t, `redis://127.0.0.1:${proxy.port}`, own.url)
    const breakIt = () => fault === 'paused' ? own.pause() : fault === 'severed' ? proxy.sever() : proxy.blackhole(true)
    const mend = () => fault === 'paused' ? own.resume() : proxy.blackhole(false)
    const keys = ['deleted', 'tagged', 'written', 'failed', 'set']
    const source: Record<string, string> = Object.fromEntries(keys.map(key => [key, 'old']))
    for (const key of keys) await a.set(key, 'old', { tags: [`tag:${key}`] })
    t.same(await b.getMany(keys), keys.map(() => 'old'))

    breakIt()
    for (const key of ['deleted', 'tagged', 'set']) source[key] = 'new'
    const sinceStart = stopwatch()
    const [deleted, tagged, written, failed, set] = await Promise.allSettled([
      a.delete('deleted'), a.invalidateTags(['tag:tagged']),
      a.writeThrough('written', 'new', () => { source['written'] = 'new' }),
      a.writeThrough('failed', 'new', () => { throw new Error('no') }),
      a.set('set', 'new')
    ])
    t.ok(sinceStart() < 1500, `${Math.round(sinceStart())} ms`)
    t.equal(written.status, 'fulfilled', 'the cache is no reason to fail')
    t.match(failed, { reason: { message: 'no' } })
    if (set.status === 'rejected') t.match(set, { reason: { code: UNAVAILABLE } })
    t.comment(`delete ${deleted.status}, invalidateTags ${tagged.status}, set ${set.status}`)
    for (const key of ['deleted', 'tagged', 'written']) t.equal(await a.getOrSet(key, () => source[key]), 'new', `${key}: in this process it is gone at once`)
    mend()
    await until('all instances see it', async () => (await Promise.all(['deleted', 'tagged', 'written'].map(async key => await b.getOrSet(key, () => source[key])))).every(value => value === 'new'), BACK_MS)
    await wait(120)
    for (const cache of [a, b]) for (const key of ['deleted', 'tagged', 'written', 'failed']) t.equal(await cache.getOrSet(key, () => source[key]), source[key], key)
    await until('and it is cached again', async () => {
      for (const key of keys) await a.getOrSet(key, () => source[key])
      return (await b.getMany(keys)).every(value => value !== undefined)
    }, BACK_MS)
    await a.set('set', 'newer')
    await until('a set is seen', async () => await b.get('set') === 'newer', 500)
  })
}

t.test('who asks after an invalidation that could not be written is not given what was begun before it', async t => {
  const own = await startRedis()
  const { a } = await pair(t, own.url)
  for (const options of [{ tags: ['t'] }, {}]) {
    const source = { value: 'old' }
    const ends = gate()
    let runs = 0
    const factory = async () => { const { value } = source; if (++runs === 1) await ends.opened; return value }
    own.pause()
    const old = a.getOrSet('k', factory, options)
    await until('it runs', () => runs === 1)
    source.value = 'new'
    await t.rejects(async () => { await (options.tags ? a.invalidateTags(['t']) : a.delete('k')) })
    const after = a.getOrSet('k', factory, options)
    await wait(300)
    ends.open()
    t.same([await old, await after], ['old', 'new'])
    own.resume()
    await until('it is back', async () => await a.set('other', 1).then(() => true), BACK_MS)
    await until('nothing is owed', async () => { await a.set('k', 'x', options); return await a.get('k') === 'x' }, BACK_MS)
    await a.delete('k')
  }
})

t.test('thousands of removals that are owed are done within seconds when the store is back', async t => {
  const own = await startRedis()
  const { a, b } = await pair(t, own.url, own.url, { l1: false })
  const keys = Array.from({ length: 5000 }, (_, i) => `k${i}`)
  for (let i = 0; i < keys.length; i += 500) await a.setMany(keys.slice(i, i + 500).map(key => [key, 'old']))
  own.pause()
  for (let i = 0; i < keys.length; i += 500) await t.rejects(a.deleteMany(keys.slice(i, i + 500)))
  own.resume()
  await until('they are done', async () => (await b.getMany(['k0', 'k2500', 'k4999'])).every(value => value === undefined), BACK_MS)
  let left = 0
  for (let i = 0; i < keys.length; i += 500) left += (await b.getMany(keys.slice(i, i + 500))).filter(Boolean).length
  t.equal(left, 0)
})

t.test('a server without memory refuses to store, with a coded error, and invalidates all the same', async t => {
  const own = await startRedis()
  const { a, b } = await pair(t, own.url, own.url, { l1: false })
  for (const key of ['deleted', 'tagged', 'written']) await a.set(key, 'old', { tags: [key] })
  await own.client().config('SET', 'maxmemory', '1')
  await t.rejects(a.set('new', 1), { code: UNAVAILABLE })
  await t.rejects(a.setMany([['new', 1]]), { code: UNAVAILABLE })
  await a.delete('deleted')
  await a.invalidateTags(['tagged'])
  t.equal(await a.writeThrough('written', 'new', () => {}), 'new')
  t.same(await b.getMany(['deleted', 'tagged', 'written']), [undefined, undefined, undefined])
  t.equal(await a.getOrSet('made', () => 1), 1)
  await t.rejects(a.writeThrough('tagged', 'new', () => { throw new Error('no') }), { message: 'no' })
  await own.client().config('SET', 'maxmemory', '0')
  t.same(await b.getMany(['deleted', 'tagged', 'written']), [undefined, undefined, undefined])
  await a.set('new', 1)
  t.equal(await b.get('new'), 1)
})

t.test('a server that became a replica refuses to store, with a coded error, and is used again when it is none', async t => {
  const own = await startRedis()
  const { a, b } = await pair(t, own.url)
  await a.set('k', 'old', { tags: ['t'] })
  await a.set('w', 'old')
  // Of nobody: it keeps what it has.
  await own.client().replicaof('127.0.0.1', 1)
  await t.rejects(a.set('k', 'new'), { code: UNAVAILABLE })
  await t.rejects(a.invalidateTags(['t']))
  t.equal(await a.writeThrough('w', 'new', () => {}), 'new')
  t.equal(await a.getOrSet('k', () => 'new'), 'new')
  t.equal(await a.getOrSet('w', () => 'new'), 'new')
  await own.client().replicaof('NO', 'ONE')
  await until('all instances see it', async () => await b.getOrSet('k', () => 'new') === 'new' && await b.getOrSet('w', () => 'new') === 'new', BACK_MS)
})

t.test('a server that lost its scripts does as before', async t => {
  const { a, b } = await pair(t, server.url, server.url, { l1: false })
  for (let i = 0; i < 20; i++) {
    await server.client().script('FLUSH')
    await Promise.all([a.writeThrough(`w${i}`, i, async () => { await server.client().script('FLUSH') }), a.set(`s${i}`, i)])
    t.same(await b.getMany([`w${i}`, `s${i}`]), [i, i])
    await server.client().script('FLUSH')
    t.same(await Promise.all([b.delete(`w${i}`), b.delete(`s${i}`)]), [true, true])
    t.same(await a.getMany([`w${i}`, `s${i}`]), [undefined, undefined])
  }
})

t.test('an app closes while factories and writers run, in bounded time, also where they never end', async t => {
  const own = await startRedis()
  const unhandled: unknown[] = []
  const note = (error: unknown) => unhandled.push(error)
  process.on('unhandledRejection', note)
  t.teardown(() => process.off('unhandledRejection', note))
  const { a, app } = await pair(t, own.url)
  await a.set('stale', 1, { ttl: 1, staleWhileRevalidate: '1h' })
  await wait(5)
  const never = () => new Promise<never>(() => {})
  a.getOrSet('never', never).catch(() => {})
  a.writeThrough('never written', 1, never).catch(() => {})
  t.equal(await a.getOrSet('stale', never), 1)
  const slow = a.getOrSet('slow', async () => { await wait(300); return 'made' })
  const slowly = a.writeThrough('slowly', 'written', async () => { await wait(300) })
  const failing = a.getOrSet('failing', async () => { await wait(300); throw new Error('no') })
  failing.catch(() => {})
  await wait(30)
  const started = performance.now()
  const closed = await Promise.race([app.close().then(() => true), wait(4000)])
  t.ok(closed, `${Math.round(performance.now() - started)} ms`)
  t.equal(await slow, 'made')
  t.equal(await slowly, 'written')
  await t.rejects(failing, { message: 'no' })
  await wait(50)
  t.same(unhandled, [])
})

t.test('a factory that never ends is given up after its hardTimeout, by all who wait, and is begun again', async t => {
  const { a } = await pair(t, server.url)
  const signals: AbortSignal[] = []
  const never = ({ signal }: { signal: AbortSignal }) => { signals.push(signal); return new Promise<number>(() => {}) }
  const results = await Promise.allSettled([1, 2, 3].map(() => a.getOrSet('k', never, { hardTimeout: 50 })))
  for (const result of results) t.match(result, { status: 'rejected', reason: { code: TIMEOUT } })
  t.equal(signals.length, 1)
  t.equal(signals[0]?.aborted, true)
  t.equal(await a.getOrSet('k', () => 1), 1)
})

t.test('who gives up ends his own waiting, and the factory only where nobody else waits', async t => {
  const { a } = await pair(t, server.url)
  let names = 0
  const run = (t: Test) => {
    const key = `k${++names}`
    const ends = gate()
    const state: { runs: number, signal?: AbortSignal } = { runs: 0 }
    const factory = async ({ signal }: { signal: AbortSignal }) => {
      state.runs++
      state.signal = signal
      await ends.opened
      return 'made'
    }
    const call = () => {
      const controller = new AbortController()
      const result = a.getOrSet(key, factory, { signal: controller.signal })
      result.catch(() => {})
      return { result, leave: () => controller.abort(new Error('left')) }
    }
    const rejects = async (result: Promise<string>) => await t.rejects(result, { message: 'left' })
    return { key, ends, state, call, rejects, begun: () => until('it runs', () => state.runs > 0) }
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
    const { state, call, rejects, begun, ends, key } = run(t)
    const leader = call()
    await begun()
    const follower = call()
    await wait(20)
    leader.leave()
    await rejects(leader.result)
    t.equal(state.signal?.aborted, false)
    ends.open()
    t.equal(await follower.result, 'made')
    t.equal(state.runs, 1)
    await until('it is stored', async () => await a.get(key) === 'made')
  })
  await t.test('a follower', async t => {
    const { state, call, rejects, begun, ends } = run(t)
    const leader = call()
    await begun()
    const follower = call()
    await wait(20)
    follower.leave()
    await rejects(follower.result)
    t.equal(state.signal?.aborted, false)
    ends.open()
    t.equal(await leader.result, 'made')
  })
  for (const order of [[0, 1], [1, 0]] as const) {
    await t.test(`all of them, ${order[0] === 0 ? 'the leader first' : 'the follower first'}`, async t => {
      const { state, call, rejects, begun } = run(t)
      const calls = [call()]
      await begun()
      calls.push(call())
      await wait(20)
      for (const i of order) {
        calls[i]!.leave()
        await rejects(calls[i]!.result)
      }
      t.equal(state.signal?.aborted, true, 'nobody waits')
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
    await wait(50)
    t.equal(state.runs, 0, 'nor is it run for nobody')
    t.equal(await a.getOrSet(key, factory), 1)
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
    await until('it runs', () => runs > 0)
    const follower = a.getOrSet(key, factory())
    await wait(20)
    controller.abort(new Error('left'))
    await t.rejects(leader, { message: 'left' })
    t.equal(await follower, 'made', 'the other one does not get an error that is not its own')
  })
})

t.test('a caller who gives up is no failure of the factory', async t => {
  const { a } = await pair(t, server.url, server.url, { l1: false })
  await a.set('k', 'old', { ttl: 1, staleIfError: '1h' })
  await wait(5)
  const errors: unknown[] = []
  a.on('error', ({ error }) => errors.push(error))
  const controller = new AbortController()
  const left = a.getOrSet('k', () => new Promise<string>(() => {}), { signal: controller.signal, staleIfError: '1h' })
  await wait(20)
  controller.abort(new Error('left'))
  await t.rejects(left, { message: 'left' })
  t.equal(await a.getOrSet('k', () => 'new', { staleIfError: '1h' }), 'new', 'the next one tries it')
  t.same(errors, [])
})
