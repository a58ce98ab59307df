import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions, type DataCache, type GetOrSetOptions } from '../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../plugins/redis/index.js'
import { startCluster, startProxy, startRedis } from '../helpers/index.js'

// More of them by SCALE=10: it takes that much longer.
const SCALE = Number(process.env['SCALE'] ?? 1)

const server = await startRedis()
const cluster = await startCluster()
const nodes = cluster.startupNodes
const INSTANCES = 4
const LEASE_MS = 100
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const below = (n: number) => Math.floor(Math.random() * n)
const anyOf = <T>(list: readonly T[]): T => list[below(list.length)]!
// Sometimes at once, sometimes in the next turn, sometimes some milliseconds later.
const pause = async () => { if (below(3) > 0) await wait(Math.random() * 3) }
const failSometimes = () => { if (below(12) === 0) throw new Error('the source failed') }

/** What is cached: a number that only grows. */
class Source {
  readonly name: string
  value = 0
  /** The newest value of which it was told, with an answer, that what is older is obsolete. */
  told = 0
  /** When that was. */
  toldAt = -Infinity

  constructor (name: string) {
    this.name = name
  }

  /** Takes its time, before and after. */
  async read (): Promise<number> {
    await pause()
    const { value } = this
    failSometimes()
    await pause()
    return value
  }

  async write (): Promise<number> {
    await pause()
    failSometimes()
    const value = ++this.value
    await pause()
    return value
  }

  tell (value: number): void {
    if (value <= this.told) return
    this.told = value
    this.toldAt = performance.now()
  }
}

async function build (t: Test, connection: RedisPluginOptions, options: CachePluginOptions): Promise<FastifyInstance[]> {
  return await Promise.all(Array.from({ length: INSTANCES }, async () => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(redis, { commandTimeout: '10s', ...connection })
    await app.register(cache, { timeout: '10s', ttl: '1m', ...options })
    await app.ready()
    return app
  }))
}

/** @returns undefined where there is nothing, or the source failed */
type Read = (cache: DataCache, source: Source) => Promise<number | undefined>
/** @returns the value that it acknowledges; undefined where the source failed and nothing was written */
type Write = (cache: DataCache, source: Source) => Promise<number | undefined>

const getOrSet = (options: (name: string) => GetOrSetOptions<number>): Read => async (cache, source) =>
  await cache.getOrSet(source.name, () => source.read(), options(source.name)).catch(() => undefined)
const plain = getOrSet(() => ({}))
const tagged = getOrSet(name => ({ tags: [name, 'all'] }))
const taggedLate = getOrSet(name => ({ tags: () => [name] }))
const inPrefix = (read: Read | Write): Read => async (cache, source) => await read(cache.withPrefix(source.name), source)
// What is stale is given while it is made anew, but never what was invalidated.
const stale = getOrSet(name => ({ tags: [name], ttl: 4, staleWhileRevalidate: '1m', refreshAhead: 0.5 }))
const get: Read = async (cache, { name }) => await cache.get<number>(name)
const getMany: Read = async (cache, { name }) => (await cache.getMany<number>(['none', name]))[1]

const changed = (write: (cache: DataCache, source: Source) => Promise<unknown>): Write => async (cache, source) => {
  const value = ++source.value
  await write(cache, source)
  return value
}
const invalidateTags = changed(async (cache, { name }) => await cache.invalidateTags([name]))
const remove = changed(async (cache, { name }) => await cache.delete(name))
const removeMany = changed(async (cache, { name }) => await cache.deleteMany(['none', name]))
const removeMatching = changed(async (cache, { name }) => await cache.invalidatePattern(`${name.slice(0, -1)}?`))
const clear = changed(async cache => await cache.clear())
// Alone at its time: of two at once none knows which is the newer.
const set = changed(async (cache, { name, value }) => await cache.set(name, value, { tags: [name] }))
const setMany = changed(async (cache, { name, value }) => await cache.setMany([['other', 0], [name, value, { tags: [name] }]]))
const writeThrough: Write = async (cache, source) =>
  await cache.writeThrough<number>(source.name, -1, () => source.write(), { tags: [source.name] }).catch(() => undefined)
/** Several at once: the source takes them in an order of its own. */
const writeThroughs: Write = async (cache, source) => {
  const written = await Promise.all(Array.from({ length: 1 + below(3) }, async () => await writeThrough(cache, source)))
  return Math.max(...written.map(value => value ?? 0)) || undefined
}

const KINDS: Record<string, { reads: Read[], writes: Write[] }> = {
  tag: { reads: [tagged], writes: [invalidateTags] },
  'late tag': { reads: [taggedLate], writes: [invalidateTags] },
  delete: { reads: [plain, get], writes: [remove, removeMany] },
  set: { reads: [plain, get, getMany], writes: [set, setMany] },
  writeThrough: { reads: [plain, get, getMany], writes: [writeThroughs] },
  stale: { reads: [stale], writes: [invalidateTags, writeThroughs] },
  prefix: { reads: [inPrefix(plain), inPrefix(tagged)], writes: [inPrefix(clear), inPrefix(writeThroughs), inPrefix(remove)] },
  all: { reads: [tagged, taggedLate, get, getMany], writes: [invalidateTags, set, setMany, writeThroughs] }
}
// It looks at every key, so there are less of it.
const PATTERN = { reads: [plain, tagged, get], writes: [removeMatching] }

interface Seen {
  answers: number
  /** By kind: how long ago the answer had been told to be obsolete when it was asked for, in ms. */
  obsolete: Record<string, number[]>
  note (kind: string, value: number | undefined, asked: number, before: { told: number, toldAt: number }): void
}

function observe (): Seen {
  return {
    answers: 0,
    obsolete: {},
    note (kind, value, asked, { told, toldAt }) {
      if (value === undefined) return
      this.answers++
      if (!(value >= told)) (this.obsolete[kind] ??= []).push(asked - toldAt)
    }
  }
}

/** Rounds of reads and a write, on random instances at random moments; reads of one round may reach into the next. */
async function play (apps: FastifyInstance[], kind: string, i: number, rounds: number, seen: Seen, { reads, writes } = KINDS[kind] ?? PATTERN): Promise<void> {
  const source = new Source(`${kind}/${i}`)
  const pending = new Set<Promise<unknown>>()
  const ask = async () => {
    const before = { told: source.told, toldAt: source.toldAt }
    const asked = performance.now()
    seen.note(kind, await anyOf(reads)(anyOf(apps).cache, source), asked, before)
  }
  const start = () => {
    const asking = ask().finally(() => pending.delete(asking))
    pending.add(asking)
  }
  for (let round = 0; round < rounds; round++) {
    start()
    if (below(2)) start()
    await pause()
    // From here on nothing that is older.
    source.tell(await anyOf(writes)(anyOf(apps).cache, source) ?? 0)
    start()
    if (pending.size > 6) await Promise.all(pending)
  }
  await Promise.all(pending)
}

function used (apps: FastifyInstance[]): Record<'hits' | 'l1Hits' | 'coalesced' | 'stored' | 'storeErrors', number> {
  const total = { hits: 0, l1Hits: 0, coalesced: 0, stored: 0, storeErrors: 0 }
  for (const { cache } of apps) for (const name of Object.keys(total) as Array<keyof typeof total>) total[name] += cache.stats()[name]
  return total
}

t.test('of 2,500 random interleavings on 4 instances none answers with what was told to be obsolete before it was asked', async t => {
  const apps = await build(t, { url: server.url, prefix: 'exact' }, { l1: false })
  const seen = observe()
  const copies = 40
  const rounds = Math.ceil(2500 / (copies * Object.keys(KINDS).length)) * SCALE
  const started = performance.now()
  await Promise.all(Object.keys(KINDS).flatMap(kind => Array.from({ length: copies }, (_, i) => play(apps, kind, i, rounds, seen))))
  t.same(seen.obsolete, {})
  const total = used(apps)
  t.comment(`${rounds * copies * Object.keys(KINDS).length} rounds, ${seen.answers} answers in ${Math.round(performance.now() - started)} ms: ${JSON.stringify(total)}`)
  t.equal(total.storeErrors, 0)
  t.ok(total.stored > 250 && total.hits > 125 && total.coalesced > 25, 'the cache was used')
})

t.test('nor while others remove by pattern, on every key at once', async t => {
  const apps = await build(t, { url: server.url, prefix: 'pattern' }, { l1: false })
  const seen = observe()
  await Promise.all(['pattern', 'delete', 'writeThrough'].flatMap(kind => [0, 1, 2].map(i => play(apps, kind, i, 60 * SCALE, seen))))
  t.same(seen.obsolete, {})
  t.ok(used(apps).hits > 20)
})

t.test('nor on a Cluster, whose nodes answer in any order', async t => {
  const apps = await build(t, { cluster: { nodes }, prefix: 'cluster' }, { l1: false })
  const seen = observe()
  await Promise.all(Object.keys(KINDS).flatMap(kind => [0, 1, 2].map(i => play(apps, kind, i, 40 * SCALE, seen))))
  t.same(seen.obsolete, {})
  t.comment(JSON.stringify(used(apps)))
  t.ok(used(apps).hits > 50)
})

/** Reads without pause on all instances, while some writes come one after another. */
async function playNear (apps: FastifyInstance[], kind: string, i: number, rounds: number, seen: Seen, { reads, writes } = KINDS[kind] ?? PATTERN): Promise<void> {
  const source = new Source(`${kind}/${i}`)
  const state = { over: false }
  const reading = Promise.all(apps.map(async ({ cache }) => {
    while (!state.over) {
      const before = { told: source.told, toldAt: source.toldAt }
      const asked = performance.now()
      seen.note(kind, await anyOf(reads)(cache, source), asked, before)
      await wait(3)
    }
  }))
  for (let round = 0; round < rounds; round++) {
    await wait(60 + below(100))
    source.tell(await anyOf(writes)(anyOf(apps).cache, source) ?? 0)
  }
  state.over = true
  await reading
}

t.test('with a first tier nothing is older than what was told to be obsolete 100 ms before it was asked for', async t => {
  const apps = await build(t, { url: server.url, prefix: 'near' }, {})
  const seen = observe()
  await Promise.all(Object.keys(KINDS).flatMap(kind => [0, 1].map(i => playNear(apps, kind, i, 12 * SCALE, seen))))
  const ages = Object.values(seen.obsolete).flat().sort((a, b) => a - b)
  const { l1Hits } = used(apps)
  t.comment(`${seen.answers} answers, ${l1Hits} out of L1, ${ages.length} obsolete, at most for ${(ages.at(-1) ?? 0).toFixed(1)} ms`)
  t.ok(l1Hits > 100)
  t.ok((ages.at(-1) ?? 0) <= LEASE_MS, JSON.stringify(seen.obsolete))
})

t.test('with a first tier nothing is obsolete at all after what waits for everywhere', async t => {
  const apps = await build(t, { url: server.url, prefix: 'everywhere' }, {})
  const seen = observe()
  const everywhere = { everywhere: true }
  const kinds = {
    tag: { reads: [tagged], writes: [changed(async (cache, { name }) => await cache.invalidateTags([name], everywhere))] },
    delete: { reads: [plain, get], writes: [changed(async (cache, { name }) => await cache.delete(name, everywhere))] },
    prefix: { reads: [inPrefix(plain)], writes: [inPrefix(changed(async cache => await cache.clear(everywhere)))] }
  }
  await Promise.all(Object.entries(kinds).flatMap(([kind, actions]) => [0, 1, 2].map(i => playNear(apps, kind, i, 12 * SCALE, seen, actions))))
  t.same(seen.obsolete, {})
  t.ok(used(apps).l1Hits > 100)
})

/** Something that has begun when it is said so, and goes on when it is told to. */
function step () {
  let [start, end] = [(): void => {}, (_value: string): void => {}]
  const [begun, done] = [new Promise<void>(resolve => { start = resolve }), new Promise<string>(resolve => { end = resolve })]
  return { begun, end: (value: string) => end(value), run: async () => { start(); return await done } }
}

for (const where of ['Redis', 'memory']) {
  t.test(`${where}: what began to be made while the source was being written is not given to who asks during the next writing`, async t => {
    const app = Fastify()
    t.teardown(() => app.close())
    if (where === 'Redis') await app.register(redis, { url: server.url, prefix: 'twice' })
    await app.register(cache, { timeout: '10s', ttl: '1m', l1: false })
    const [first, second, making] = [step(), step(), step()]
    const writingFirst = app.cache.writeThrough('key', 'one', first.run)
    await first.begun
    const early = app.cache.getOrSet('key', making.run)
    await making.begun
    first.end('one')
    await writingFirst
    await app.cache.set('key', 'two')
    const writingSecond = app.cache.writeThrough('key', 'three', second.run)
    await second.begun
    const late = app.cache.getOrSet('key', async () => 'of now')
    await wait(50)
    making.end('of long ago')
    t.equal(await early, 'of long ago', 'it was asked for then')
    t.equal(await late, 'of now')
    second.end('three')
    await writingSecond
    t.equal(await app.cache.get('key'), 'three')
  })
}

for (const where of ['Redis', 'a Cluster']) {
  t.test(`${where}: what began to be made before a removal by pattern is seen by nobody after it, however late it is written`, async t => {
    const proxy = await startProxy(server.port)
    const [near, far] = where === 'Redis'
      ? [{ url: server.url }, { url: `redis://${proxy.host}:${proxy.port}` }]
      : [{ cluster: { nodes } }, { cluster: { nodes } }]
    const [app] = await build(t, { ...near, prefix: 'late' }, { l1: false })
    const [late] = await build(t, { ...far, prefix: 'late' }, { l1: false })
    for (let i = 0; i < 20; i++) {
      const factory = step()
      const making = late!.cache.getOrSet(`late/${i}`, factory.run)
      await factory.begun
      await app!.cache.invalidatePattern('late/*')
      // The answer to what it writes.
      proxy.delay(20)
      factory.end('old')
      for (let looks = 0; looks < 30; looks++) {
        t.equal(await app!.cache.get(`late/${i}`), undefined)
        await wait(2)
      }
      proxy.delay(0)
      t.equal(await making, 'old', 'who asked before has it')
    }
  })
}
