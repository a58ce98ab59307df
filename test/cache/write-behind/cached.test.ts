// The option `cache` of write-behind: a cached value is never older than the last write that was accepted, although the source gets it later.
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import type { CachePluginOptions, DataCache, WriteBehind, WriteBehindOptions } from '../../../plugins/cache/index.js'
import { addScript } from '../../../plugins/cache/data/write-behind/scripts.js'
import { confirmScript } from '../../../plugins/cache/store/scripts.js'
import { gate } from '../../helpers/cache/cache-app.js'
import { createStep, upTo } from '../../helpers/cache/factories.js'
import { createSeen, get, plain, play, Source, type Chance, type Read } from '../../helpers/cache/interleavings.js'
import { interceptCommands } from '../../helpers/redis/intercept-commands.js'
import { advanceUntil, advanceWhile, createTestApp, forEachStore, newPrefix, startRedis, until, type TestAppOptions } from '../../helpers/index.js'

type Options = Partial<WriteBehindOptions<number>>

/** Opens instances with a source that gets writes when a test flushes. */
async function open (t: Test, store: TestAppOptions['store'], given: Options = {}, cache: CachePluginOptions = {}) {
  const opened = await createTestApp(t, { store, instances: store === 'memory' ? 1 : 2, connection: { required: false }, plugins: { cache: { ttl: '1h', timeout: '1h', ...cache } } })
  const source = new Map<string, number>()
  let loads = 0
  let flushing = gate()
  const { write = (batch: Parameters<WriteBehindOptions<number>['write']>[0]) => { for (const { key, value } of batch) source.set(key, value) }, ...rest } = given
  const instances = opened.apps.map(app => {
    const view = app.cache.withPrefix('score')
    const behind = view.writeBehind<number>('scores', {
      async write (batch, context) {
        // An instance takes what waits as soon as it gets a partition.
        await flushing.opened
        await write(batch, context)
      },
      cache: true,
      flushEvery: '30m',
      hardTimeout: '1d',
      retries: 0,
      ...rest
    })
    // A caller may wait for the lease of another instance, which is released in the background.
    const load = async (key: string) => (await advanceWhile(opened.clock, view.getOrSet(key, async () => { loads++; return source.get(key) ?? 0 }), { step: 1 })).value
    return { app, view, behind, load }
  })
  const [a, b = instances[0]] = instances
  if (a === undefined || b === undefined) throw new Error('two instances')
  const soon = async <T>(promise: Promise<T>): Promise<T> => (await advanceWhile(opened.clock, promise, { step: 100 })).value
  const flush = async () => {
    flushing.open()
    await soon(Promise.all([a, b].map(({ behind }) => behind.flush({ timeout: '1h' }))))
    flushing = gate()
  }
  t.teardown(() => flushing.open())
  return { ...opened, source, a, b, soon, flush, loads: () => loads }
}

/** Holds the first call of a script by an app until `open` is called. */
function hold (app: FastifyInstance, { sha1 }: { sha1: string }) {
  const { opened, open } = gate()
  const state = { open, isHeld: false }
  interceptCommands(app, async (_name, [digest], send) => {
    if (digest === sha1 && !state.isHeld) {
      state.isHeld = true
      await opened
    }
    return await send()
  })
  return state
}

forEachStore(['memory', 'redis', 'cluster'], store => {
  const promise = (text: string, test: (t: Test) => Promise<unknown>) => t.test(`${store}: ${text}`, test)

  promise('an added value is read on each instance before the source has it, and after it without a load', async t => {
    const { a, b, source, flush, loads } = await open(t, store)
    t.same([await a.load('ann'), await b.load('ann')], [0, 0])
    const before = loads()
    await a.behind.add('ann', 1)
    t.same([await a.load('ann'), await a.view.get('ann'), source.get('ann')], [1, 1, undefined])
    await until('the other instance reads it', async () => await b.load('ann') === 1)
    await flush()
    t.equal(source.get('ann'), 1)
    t.same([await a.load('ann'), await b.load('ann')], [1, 1])
    t.equal(loads() - before, 0, 'no load')
    t.equal(await a.app.cache.get('ann'), undefined, 'the key is that of the view')
  })

  promise('a value that a factory read before a write was added is not stored after it', async t => {
    const { a, b, flush } = await open(t, store)
    const { begun, run, end } = createStep()
    const early = b.view.getOrSet('ann', run)
    await begun
    await a.behind.add('ann', 1)
    end('old')
    t.equal(await early, 'old', 'its call came before')
    t.equal(await b.view.get('ann'), 1)
    await flush()
    t.equal(await b.view.get('ann'), 1)
  })

  promise('what was read from the source before it was written is not served after it, even where the cached value was removed', async t => {
    const { a, b, flush } = await open(t, store)
    await a.behind.add('ann', 1)
    await a.behind.add('bob', 1)
    await a.view.deleteMany(['ann', 'bob'])
    t.equal(await b.load('ann'), 0, 'the source does not have it yet')
    const { begun, run, end } = createStep()
    const early = b.view.getOrSet('bob', run)
    await begun
    await flush()
    end('old')
    await early
    await until('the other instance reads the source again', async () => await b.load('ann') === 1)
    t.same([await a.load('ann'), await b.load('bob')], [1, 1])
  })

  promise('a refused write leaves the cached value of an earlier write, and removes any other one', async t => {
    const { a, b, source, flush } = await open(t, store, { maxBacklog: 1, partitions: 1 })
    source.set('bob', 5)
    t.equal(await b.load('bob'), 5)
    await a.behind.add('ann', 1)
    const full = { code: 'FST_REDIS_SUITE_CACHE_BACKLOG_FULL' }
    await t.rejects(a.behind.add('ann', 2), full)
    await t.rejects(a.behind.add('bob', 2), full)
    await until('the other instance reads them', async () => await b.load('ann') === 1 && await b.load('bob') === 5)
    await flush()
    t.same([await a.load('ann'), await a.load('bob'), source.get('ann')], [1, 5, 1])
  })

  promise('a removal and a set after the write was cached win, also while it is being queued', async t => {
    const { a, b, flush } = await open(t, store)
    await a.behind.add('ann', 1)
    await b.view.set('ann', 7)
    t.equal(await b.view.get('ann'), 7)
    await a.behind.add('bob', 1)
    await b.view.delete('bob')
    t.equal(await b.view.get('bob'), undefined)
    await flush()
    await until('the other instance removes what was set before, as the source has the write', async () => await a.load('ann') === 1)
    t.same([await a.load('ann'), await b.load('ann')], [1, 1])
  })

  promise('the value of a write that becomes a dead letter is removed, unless a later write has replaced it; a replayed one is read when it is written', async t => {
    let isRefusing = true
    const source = new Map<string, number>()
    const { a, b, clock, flush } = await open(t, store, {
      write (batch) {
        if (isRefusing && batch.some(({ value }) => value < 0)) throw new Error('never a negative one')
        for (const { key, value } of batch) source.set(key, value)
      }
    })
    const load = async () => (await advanceWhile(clock, b.view.getOrSet('ann', async () => source.get('ann') ?? 0), { step: 1 })).value
    await a.behind.add('ann', -1)
    await a.behind.add('bob', -1)
    await a.behind.add('bob', 2)
    t.equal(await load(), -1)
    await flush()
    await until('the value of the dead letter is removed', async () => await load() === 0)
    t.same([await a.view.get('bob'), await b.view.get('bob')], [2, 2])
    t.equal((await a.behind.stats()).deadLetters, 2)
    isRefusing = false
    await a.behind.deadLetters.replay()
    await flush()
    await until('it is read from the source', async () => await load() === -1)
  })

  promise('options of the value apply: ttl and tags; a function that fails refuses the write, and the option itself is checked', async t => {
    const { a, b, clock } = await open(t, store, {
      cache: { ttl: value => value < 0 ? 'never' as never : value === 0 ? 0 : value * 1000, tags: value => [`at ${value}`], jitter: 0 }
    })
    await a.behind.add('ann', 60)
    await a.behind.add('bob', 600)
    await clock.advance('2m')
    t.same([await a.view.get('ann'), await a.view.get('bob')], [undefined, 600])
    await b.app.cache.invalidateTags(['at 600'])
    t.equal(await b.view.get('bob'), undefined)
    const { backlog } = await a.behind.stats()
    await t.rejects(a.behind.add('ann', -1), { code: 'FST_REDIS_SUITE_CACHE_INVALID_VALUE' })
    t.equal((await a.behind.stats()).backlog, backlog)
    await a.behind.add('cat', 60)
    await a.behind.add('cat', 0)
    t.equal(await a.view.get('cat'), undefined, 'a value that is not stored removes the earlier one')
    const write = () => {}
    for (const cache of ['yes', 5, { tll: 1 }, { jitter: 2 }]) {
      t.throws(() => a.view.writeBehind('others', { write, cache: cache as never }), { code: 'FST_REDIS_SUITE_CACHE_INVALID_OPTION' }, JSON.stringify(cache))
    }
  })

  promise('calls for one key reach the source in their order, however long their options take, and the last one is cached', async t => {
    const { a, flush, source } = await open(t, store, {
      cache: { ttl: async value => { await new Promise(resolve => setTimeout(resolve, 10 - value)); return '1h' } }
    })
    await Promise.all(upTo(10).map(value => a.behind.add('ann', value)))
    t.equal(await a.view.get('ann'), 9)
    await flush()
    t.same([source.get('ann'), await a.view.get('ann')], [9, 9])
  })
})

forEachStore(['redis', 'cluster'], store => {
  t.test(`${store}: of concurrent writes on two instances the last one of the queue is cached, whichever replies first`, async t => {
    const { a, b, flush, source } = await open(t, store)
    const [queueing, confirming] = [hold(a.app, addScript), hold(b.app, confirmScript)]
    const one = a.behind.add('ann', 1)
    await until('1 is cached, and not yet queued', () => queueing.isHeld)
    const two = b.behind.add('ann', 2)
    await until('2 is queued', () => confirming.isHeld)
    queueing.open()
    await one
    t.equal(await a.view.get('ann'), 1, 'it is queued after 2')
    confirming.open()
    await two
    t.same([await a.view.get('ann'), await b.view.get('ann')], [1, 1])
    await flush()
    t.same([source.get('ann'), await b.load('ann')], [1, 1])
  })

  t.test(`${store}: a value that was removed while its write was queued is not cached again`, async t => {
    const { a, b } = await open(t, store)
    const queueing = hold(a.app, addScript)
    const adding = a.behind.add('ann', 1)
    await until('it is cached, and not yet queued', () => queueing.isHeld)
    await b.view.delete('ann')
    queueing.open()
    await adding
    t.same([await a.view.get('ann'), await b.view.get('ann')], [undefined, undefined])
  })

  t.test(`${store}: the value of a process that ends before its write is queued expires after 10 s`, async t => {
    const { a, b, clock, loads } = await open(t, store)
    const queueing = hold(a.app, addScript)
    const adding = a.behind.add('ann', 1)
    await until('it is cached, and not yet queued', () => queueing.isHeld)
    t.equal(await b.load('ann'), 1)
    await clock.advance('11s')
    t.same([await b.load('ann'), loads()], [0, 1])
    queueing.open()
    await adding
  })
})

t.test('redis: a write of unknown acceptance is not served, and what the source gets is read then', async t => {
  const server = await startRedis()
  const { a, b, clock, source, soon, flush } = await open(t, server, {}, { timeout: 500 })
  await a.behind.add('ann', 1)
  t.equal(await b.load('ann'), 1)
  const queueing = hold(a.app, addScript)
  const adding = a.behind.add('ann', 2)
  await until('it is cached, and not yet queued', () => queueing.isHeld)
  server.pause()
  queueing.open()
  await t.rejects(soon(adding), { code: 'FST_REDIS_SUITE_CACHE_UNCERTAIN' })
  t.equal(await soon(a.view.get('ann')), undefined, 'this instance serves neither of them')
  server.resume()
  await advanceUntil(clock, 'the source has the write, which Redis accepted late', async () => { await flush().catch(() => {}); return source.get('ann') === 2 })
  await advanceUntil(clock, 'both read it', async () => await a.load('ann') === 2 && await b.load('ann') === 2)
})

t.test('redis: a write whose value cannot be cached is accepted, and its instance does not serve the earlier value', async t => {
  const server = await startRedis()
  const { a, b, clock, source, soon, flush } = await open(t, server, {}, { timeout: 500 })
  await a.behind.add('ann', 1)
  await flush()
  const confirming = hold(a.app, confirmScript)
  const adding = a.behind.add('ann', 2)
  await until('it is queued', () => confirming.isHeld)
  server.pause()
  confirming.open()
  t.match(await soon(adding), /^\d+-\d+\.\d$/)
  t.equal(await soon(a.view.get('ann')), undefined)
  server.resume()
  await advanceUntil(clock, 'the source has it', async () => { await flush().catch(() => {}); return source.get('ann') === 2 })
  await advanceUntil(clock, 'both read it', async () => await a.load('ann') === 2 && await b.load('ann') === 2)
})

/** A cached number whose source gets each write later. */
class QueuedSource extends Source {
  stored = 0

  override async read (): Promise<number> {
    const { stored } = this
    await new Promise(resolve => setImmediate(resolve))
    return stored
  }
}

function seeded (seed: number): Chance {
  let state = seed
  const random = (): number => {
    state = (state + 0x6D2B79F5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const pause = async () => { for (let turns = Math.floor(random() * 4); turns > 0; turns--) await new Promise(resolve => setImmediate(resolve)) }
  return { random, pause }
}

for (const [store, instances, l1] of [['memory', 1, false], ['redis', 3, false], ['cluster', 2, false]] as const) {
  t.test(`${store}: in 400 random interleavings no value is older than the last write accepted before the call, and each source ends with its last one`, async t => {
    const { apps } = await createTestApp(t, { store, instances, prefix: newPrefix(), clock: 'real', connection: { commandTimeout: '10s' }, plugins: { cache: { timeout: '10s', ttl: '1m', l1 } } })
    const seen = createSeen()
    const sources = new Map(upTo(20).map(i => [`ann/${i}`, new QueuedSource(`ann/${i}`, seeded(i))]))
    const behinds = new Map<DataCache, WriteBehind<number>>(apps.map(({ cache }) => [cache, cache.writeBehind<number>('numbers', {
      cache: true,
      flushEvery: 5,
      batch: 3,
      async write (batch) {
        await new Promise(resolve => setImmediate(resolve))
        for (const { key, value } of batch) {
          const source = sources.get(key)
          if (source !== undefined) source.stored = value
        }
      }
    })]))
    const add: Read = async (cache, source) => {
      const value = ++source.value
      await behinds.get(cache)?.add(source.name, value)
      return value
    }
    await Promise.all([...sources.values()].map(async (source, i) => {
      await play(apps, source, 20, seen, seeded(100 + i), 'write-behind', { reads: [plain, get], writes: [add] })
    }))
    t.same(seen.obsolete, [])
    t.ok(seen.answers > 400, `${seen.answers} answers`)
    await [...behinds.values()][0]?.flush()
    t.same([...sources.values()].map(({ stored }) => stored), Array(20).fill(20))
    t.same(await apps[0]?.cache.getMany([...sources.keys()]), Array(20).fill(20), 'and is cached')
  })
}
