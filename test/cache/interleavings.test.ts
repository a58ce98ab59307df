import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions } from '../../plugins/cache/index.js'
import { redis } from '../../plugins/redis/index.js'
import { startRedis, until } from '../helpers/index.js'

// More of them by SCALE=3: it takes that much longer.
const SCALE = Number(process.env['SCALE'] ?? 1)

const server = await startRedis()
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const below = (n: number) => Math.floor(Math.random() * n)
// Sometimes at once, sometimes in the next turn, sometimes some milliseconds later.
const pause = async () => { if (below(3) > 0) await wait(Math.random() * 4) }
const LANGUAGES = ['de', 'fr', 'it']

/** What is cached: a number that only grows. */
interface Source {
  value: number
  /** The newest value of which it was told, with an answer, that what is older is invalid. */
  told: number
  /** When that was. */
  toldAt: number
}

const sources = new Map<string, Source>()
function sourceOf (name: string): Source {
  const known = sources.get(name) ?? { value: 0, told: 0, toldAt: 0 }
  sources.set(name, known)
  return known
}

/** Reads the source, and takes its time to answer. */
async function readSlowly (name: string): Promise<number> {
  await pause()
  const { value } = sourceOf(name)
  await pause()
  return value
}

interface Params { Params: { id: string } }

async function build (t: Test, prefix: string, options: CachePluginOptions): Promise<FastifyInstance> {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(redis, { url: server.url, prefix })
  await app.register(cache, { timeout: '5s', unkeyed: false, ttl: '1m', ...options })
  app.get<Params>('/tag/:id', { config: { cache: { tags: request => [request.url, 'all'] } } }, async ({ url }) => ({ value: await readSlowly(url) }))
  app.get<Params>('/late/:id', { config: { cache: true } }, async ({ url }, reply) => {
    if (below(2)) reply.cacheTags(url)
    const value = await readSlowly(url)
    reply.cacheTags(url)
    return { value }
  })
  for (const path of ['/unsafe/:id', '/varies/:id']) {
    app.get<Params>(path, { config: { cache: true } }, async ({ url }, reply) => {
      if (path.startsWith('/v')) reply.header('vary', 'accept-language')
      return { value: await readSlowly(url) }
    })
    app.put<Params>(path, async ({ url }) => ({ value: ++sourceOf(url).value }))
  }
  app.get<Params>('/varies-tag/:id', { config: { cache: { tags: request => [request.url] } } }, async ({ url }, reply) => {
    const value = await readSlowly(url)
    reply.header('vary', 'accept-language')
    return { value }
  })
  return app
}

/** A route whose handler reads its source and then waits until it is let go; the first run alone. */
function gated (apps: FastifyInstance[], headers: Record<string, string> = {}, lateTag?: string) {
  const state = { value: 1, runs: 0, release: () => {} }
  const gate = new Promise<void>(resolve => { state.release = resolve })
  for (const app of apps) {
    app.get('/gated', { config: { cache: true } }, async (_request, reply) => {
      const { value } = state
      if (++state.runs === 1) await gate
      reply.headers(headers)
      if (lateTag !== undefined) reply.cacheTags(lateTag)
      return { value }
    })
    app.put('/gated', async () => ++state.value)
  }
  return state
}

const valueOf = async (app: FastifyInstance, language = 'de') => (await app.inject({ url: '/gated', headers: { 'accept-language': language } })).json<{ value: number }>().value

type Read = (app: FastifyInstance, name: string) => Promise<number>
type Write = (app: FastifyInstance, name: string) => Promise<unknown>

const get: Read = async (app, url) => {
  const response = await app.inject({ url, headers: { 'accept-language': LANGUAGES[below(3)]! } })
  return response.json<{ value: number }>().value
}
const getValue = (tags: (name: string) => string[]): Read => async (app, name) => await app.cache.getOrSet(name, () => readSlowly(name), { ttl: '1m', tags: tags(name) })
const invalidateTag: Write = (app, name) => {
  sourceOf(name).value++
  return app.cache.invalidateTags([name])
}
const put: Write = (app, url) => app.inject({ method: 'PUT', url })
const remove: Write = (app, name) => {
  sourceOf(name).value++
  return app.cache.delete(name)
}

const KINDS: Record<string, { read: Read, write: Write }> = {
  '/tag': { read: get, write: invalidateTag },
  '/late': { read: get, write: invalidateTag },
  '/unsafe': { read: get, write: put },
  '/varies': { read: get, write: put },
  '/varies-tag': { read: get, write: invalidateTag },
  'value-tag': { read: getValue(name => [name]), write: invalidateTag },
  value: { read: getValue(() => []), write: remove }
}

/** Rounds of reads and a write, on random instances at random moments; those of one round may reach into the next. */
async function play (apps: FastifyInstance[], name: string, { read, write }: { read: Read, write: Write }, rounds: number, onAnswer: (value: number, before: Source) => void) {
  const source = sourceOf(name)
  const any = () => apps[below(apps.length)]!
  const pending = new Set<Promise<unknown>>()
  const ask = async () => {
    const before = { ...source }
    onAnswer(await read(any(), name), before)
  }
  const start = (work: Promise<unknown>) => {
    const known = work.finally(() => pending.delete(known))
    pending.add(known)
  }
  for (let round = 0; round < rounds; round++) {
    start(ask())
    await pause()
    await write(any(), name)
    // Writes of one name come one after the other.
    source.told = source.value
    source.toldAt = performance.now()
    start(ask())
    if (pending.size > 6) await Promise.all(pending)
  }
  await Promise.all(pending)
}

t.test('a variant that was begun before its URL was changed is not stored among those that were made after it', async t => {
  const [a, b] = await Promise.all([build(t, 'gated1', { l1: false }), build(t, 'gated1', { l1: false })])
  const source = gated([a, b], { vary: 'accept-language' })
  const old = valueOf(a, 'fr')
  await until('it is begun', () => source.runs === 1)
  await b.inject({ method: 'PUT', url: '/gated' })
  t.equal(await valueOf(b, 'de'), 2)
  await until('another variant is stored, and before it the list of them', () => b.cache.stats().stored === 1)
  source.release()
  t.equal(await old, 1)
  await wait(50)
  t.equal(await valueOf(b, 'fr'), 2)
  t.equal(await valueOf(a, 'fr'), 2)
})

t.test('who asks after removal by pattern is not given what another one of this instance began before it', async t => {
  const [a, b] = await Promise.all([build(t, 'gated2', { l1: false }), build(t, 'gated2', { l1: false })])
  const source = gated([a, b])
  const old = valueOf(a)
  await until('it is begun', () => source.runs === 1)
  source.value++
  await b.cache.invalidatePattern('/gated')
  const after = valueOf(a)
  await wait(50)
  source.release()
  t.same([await old, await after], [1, 2])
})

t.test('who asks after a tag was invalidated that only the handler named is not given what was stored at that moment', async t => {
  const [a, b] = await Promise.all([build(t, 'gated3', { l1: false }), build(t, 'gated3', { l1: false })])
  const source = gated([a, b], {}, 'late')
  // Between looking whether the tag was invalidated and storing.
  const evalsha = a.redis.evalsha.bind(a.redis) as (...args: unknown[]) => Promise<unknown>
  let writes = 0
  let release = (): void => {}
  const gate = new Promise<void>(resolve => { release = resolve })
  Object.assign(a.redis, {
    async evalsha (...args: unknown[]) {
      if (writes++ === 0) await gate
      return await evalsha(...args)
    }
  })
  const old = valueOf(a)
  await until('it is begun', () => source.runs === 1)
  source.release()
  await until('it is about to be stored', () => writes === 1)
  source.value++
  await b.cache.invalidateTags(['late'])
  const after = valueOf(a)
  await wait(50)
  release()
  t.same([await old, await after], [1, 2])
})

t.test('of 3,600 random interleavings none answers with what was invalidated before it was asked', async t => {
  const apps = await Promise.all([1, 2, 3].map(() => build(t, 'exact', { l1: false })))
  const stale: Record<string, number> = {}
  const started = performance.now()
  let answers = 0
  let rounds = 0
  await Promise.all(Object.entries(KINDS).flatMap(([kind, actions]) => Array.from({ length: 10 }, async (_, i) => {
    rounds += 52 * SCALE
    await play(apps, `${kind}/${i}`, actions, 52 * SCALE, (value, { told }) => {
      answers++
      if (!(value >= told)) stale[kind] = (stale[kind] ?? 0) + 1
    })
  })))
  t.same(stale, {})
  t.ok(rounds >= 3600)
  const { hits, coalesced, stored, storeErrors } = apps.map(app => app.cache.stats()).reduce((sum, each) => ({ ...sum, hits: sum.hits + each.hits, coalesced: sum.coalesced + each.coalesced, stored: sum.stored + each.stored, storeErrors: sum.storeErrors + each.storeErrors }))
  t.comment(`${rounds} invalidations, ${answers} answers (${hits} hits, ${coalesced} coalesced, ${stored} stored, ${storeErrors} errors) in ${Math.round(performance.now() - started)} ms`)
  t.ok(stored > 300 && hits > 30, 'the cache was used')
})

t.test('with L1 nothing is older than what was invalidated 100 ms before it was asked', async t => {
  const apps = await Promise.all([1, 2, 3].map(() => build(t, 'near', {})))
  const ages: number[] = []
  let answers = 0
  await Promise.all(Object.entries(KINDS).flatMap(([kind, actions]) => Array.from({ length: 2 }, async (_, i) => {
    const name = `${kind}/near${i}`
    const state = { over: false }
    const onAnswer = (asked: number) => (value: number, { told, toldAt }: Source) => {
      answers++
      if (value < told) ages.push(asked - toldAt)
    }
    const reading = Promise.all(apps.map(async app => {
      while (!state.over) {
        const before = { ...sourceOf(name) }
        const asked = performance.now()
        onAnswer(asked)(await actions.read(app, name), before)
        await wait(5)
      }
    }))
    for (let round = 0; round < 12; round++) {
      await wait(100 + below(150))
      await actions.write(apps[below(3)]!, name)
      Object.assign(sourceOf(name), { told: sourceOf(name).value, toldAt: performance.now() })
    }
    state.over = true
    await reading
  })))
  ages.sort((a, b) => a - b)
  const percentile = (part: number) => (ages[Math.min(ages.length - 1, Math.floor(ages.length * part))] ?? 0).toFixed(1)
  const l1Hits = apps.reduce((sum, app) => sum + app.cache.stats().l1Hits, 0)
  t.comment(`${answers} answers, ${l1Hits} out of L1, ${ages.length} older than the last invalidation; asked after it, in ms: p50 ${percentile(0.5)}, p99 ${percentile(0.99)}, most ${percentile(1)}`)
  t.ok(l1Hits > 100)
  t.ok((ages.at(-1) ?? 0) <= 100)
})
