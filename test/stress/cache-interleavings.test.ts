import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions } from '../../plugins/cache/index.js'
import { redis } from '../../plugins/redis/index.js'
import { startRedis } from '../helpers/index.js'
import { startHeartbeat, type Span } from '../helpers/timing/heartbeat.js'
import { scaled } from '../helpers/stress/scale.js'

const ROUNDS = scaled(52)

const server = await startRedis()
const wait = (ms: number) => new Promise(resolve => setTimeout(resolve, ms))
const below = (n: number) => Math.floor(Math.random() * n)
// Immediately, in the next turn, or some milliseconds later.
const pause = async () => { if (below(3) > 0) await wait(Math.random() * 4) }
const LANGUAGES = ['de', 'fr', 'it']

/** The cached source: a number that only grows. */
interface Source {
  value: number
  /** The newest value whose invalidation of older ones was acknowledged. */
  told: number
  /** When it was acknowledged. */
  toldAt: number
}

const sources = new Map<string, Source>()
function sourceOf (name: string): Source {
  const known = sources.get(name) ?? { value: 0, told: 0, toldAt: 0 }
  sources.set(name, known)
  return known
}

/** Reads the source, and responds after a random time. */
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

/** Runs rounds of reads and a write, on random instances at random moments; those of one round may extend into the next. */
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
    // Writes of one name are sequential.
    source.told = source.value
    source.toldAt = performance.now()
    start(ask())
    if (pending.size > 6) await Promise.all(pending)
  }
  await Promise.all(pending)
}

t.test('of random interleavings none responds with what was invalidated before the request', async t => {
  const apps = await Promise.all([1, 2, 3].map(() => build(t, 'exact', { l1: false })))
  const stale: Record<string, number> = {}
  const started = performance.now()
  let answers = 0
  let rounds = 0
  await Promise.all(Object.entries(KINDS).flatMap(([kind, actions]) => Array.from({ length: 10 }, async (_, i) => {
    rounds += ROUNDS
    await play(apps, `${kind}/${i}`, actions, ROUNDS, (value, { told }) => {
      answers++
      if (!(value >= told)) stale[kind] = (stale[kind] ?? 0) + 1
    })
  })))
  t.same(stale, {})
  const { hits, coalesced, stored, storeErrors } = apps.map(app => app.cache.stats()).reduce((sum, each) => ({ ...sum, hits: sum.hits + each.hits, coalesced: sum.coalesced + each.coalesced, stored: sum.stored + each.stored, storeErrors: sum.storeErrors + each.storeErrors }))
  t.comment(`${rounds} invalidations, ${answers} answers (${hits} hits, ${coalesced} coalesced, ${stored} stored, ${storeErrors} errors) in ${Math.round(performance.now() - started)} ms`)
  t.ok(stored > scaled(300) && hits > scaled(30), 'the cache was used')
})

t.test('with L1 no response is older than what was invalidated 100 ms before the request', async t => {
  const apps = await Promise.all([1, 2, 3].map(() => build(t, 'near', {})))
  const { span } = await startHeartbeat(t)
  const ages: number[] = []
  const late: string[] = []
  let answers = 0
  await Promise.all(Object.entries(KINDS).flatMap(([kind, actions]) => Array.from({ length: 2 }, async (_, i) => {
    const name = `${kind}/near${i}`
    const state = { over: false, sinceTold: span() }
    const onAnswer = async (value: number, { told, toldAt }: Source, asked: number, sinceTold: Span) => {
      answers++
      if (!(value < told)) return
      ages.push(asked - toldAt)
      const { stalled } = await sinceTold.judge()
      if (asked - toldAt > 100 + stalled) late.push(`${name}: ${asked - toldAt} ms, ${stalled} ms of which the machine stalled`)
    }
    const reading = Promise.all(apps.map(async app => {
      while (!state.over) {
        const before = { ...sourceOf(name) }
        const { sinceTold } = state
        const asked = performance.now()
        await onAnswer(await actions.read(app, name), before, asked, sinceTold)
        await wait(5)
      }
    }))
    for (let round = 0; round < 12; round++) {
      await wait(100 + below(150))
      await actions.write(apps[below(3)]!, name)
      Object.assign(sourceOf(name), { told: sourceOf(name).value, toldAt: performance.now() })
      state.sinceTold = span()
    }
    state.over = true
    await reading
  })))
  ages.sort((a, b) => a - b)
  const percentile = (part: number) => (ages[Math.min(ages.length - 1, Math.floor(ages.length * part))] ?? 0).toFixed(1)
  const l1Hits = apps.reduce((sum, app) => sum + app.cache.stats().l1Hits, 0)
  t.comment(`${answers} answers, ${l1Hits} out of L1, ${ages.length} older than the last invalidation; asked after it, in ms: p50 ${percentile(0.5)}, p99 ${percentile(0.99)}, most ${percentile(1)}`)
  t.ok(l1Hits > 100)
  t.same(late, [])
})
