import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import type { CacheStats } from '../plugins/cache/index.js'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import { hasNginx } from './nginx.js'
import { compiled } from './frame/compiled.js'
import { httpColumns, measure, type Measured } from './frame/http-load.js'
import type { Row } from './frame/markdown.js'
import { readOptions } from './frame/options.js'
import { Report } from './frame/report.js'
import { giveServersACore, startServer, stopServers, type Server } from './frame/server.js'
import { median, quantile } from './frame/statistics.js'

// Measures requests per second, CPU and latency of one Fastify process that sends ready bytes, with peers in the same
// run.
const VARIANTS = [
  'bare', 'bare + hooks and fields', 'bare + GET, small', 'bare + GET, the body', 'this suite, L1 hit',
  'this suite, L2 hit', 'this suite, L2 hit, 100 keys', 'this suite, miss', ...hasNginx() ? ['nginx, hit'] : []
]
const options = readOptions(['stampede', 'memory', 'invalidations', 'load'], ['load'])
const report = new Report(options.isQuick)
const SIZES = options.isQuick ? [1024] : [1024, 65_536, 1_048_576]

const { cache, redis: redisPlugin } = await compiled('index') as typeof import('../plugins/index.js')
const {
  RedisCacheStore, invalidationChannel
} = await compiled('cache/store/redis-store') as typeof import('../plugins/cache/store/redis-store.js')
const { portOf } = await compiled('shared/redis/client') as typeof import('../plugins/shared/redis/client.js')

// Evicts entries that are about to expire first: misses of 1 MiB fill any memory.
const REDIS = { maxmemory: '1gb', maxmemoryPolicy: 'volatile-ttl' }
const server = await startRedis(REDIS)
const admin = new Redis(server.url)

async function statsOf ({ child }: Server): Promise<Partial<CacheStats>> {
  child.send('stats')
  const [stats] = await once(child, 'message')
  return stats
}

async function load (): Promise<void> {
  giveServersACore()
  const loaded = await startRedis(REDIS)
  const redis = new Redis(loaded.url)
  for (const size of SIZES) {
    await redis.flushall()
    await compare(size, redis, loaded.url)
  }
  redis.disconnect()
}

async function compare (size: number, redis: Redis, url: string): Promise<void> {
  const measured = await measure({
    options,
    redis,
    variants: VARIANTS,
    start: variant => startServer('cache-server.ts', [variant, String(size), url])
  })
  const columns = new Map<string, Row>()
  for (const one of measured) columns.set(one.variant, await hitColumns(one))
  report.compare(
    `Response cache, ${size / 1024} KiB`, measured, ['bare', 'bare + GET, small', 'bare + GET, the body'],
    one => ({ ...columns.get(one.variant), ...httpColumns(one) })
  )
  await stopServers(measured.flatMap(({ servers }) => servers))
}

async function hitColumns ({ servers }: Measured): Promise<Row> {
  const stats = await Promise.all(servers.map(statsOf))
  const sum = (name: keyof Omit<CacheStats, 'names'>) => stats.reduce((total, each) => total + (each[name] ?? 0), 0)
  const share = (part: number, all: number) => all === 0 ? '' : `${(100 * part / all).toFixed(1)} %`
  return {
    hits: share(sum('hits'), sum('hits') + sum('misses')),
    'hits in L1': share(sum('l1Hits'), sum('hits')),
    'store errors': sum('storeErrors')
  }
}

async function instance (addRoutes: (app: FastifyInstance) => void, l1?: number): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(redisPlugin, { url: server.url, prefix: 'bench' })
  await app.register(cache, { ttl: '1h', unkeyed: false, ...(l1 !== undefined && { l1 }) })
  addRoutes(app)
  await app.ready()
  // The first request starts the verification of the subscription, without which L1 is not used.
  await app.inject('/warm')
  return app
}

/** Sends 1,000 concurrent requests for a missing entry to 8 instances, and counts the runs of the handler. */
async function stampede (): Promise<void> {
  const rows = []
  for (const ms of [0, 50, 500]) {
    let runs = 0
    const apps = await Promise.all(Array.from({ length: 8 }, () => instance(app => {
      const handler = async () => {
        runs++
        await sleep(ms)
        return 'x'.repeat(1024)
      }
      app.get('/warm', { config: { cache: true } }, async () => 'x')
      app.get('/cached', { config: { cache: true } }, handler)
      app.get('/bare', handler)
    })))
    for (const path of ['/bare', '/cached']) {
      const counts = []
      const times = []
      for (let round = 0; round < 7; round++) {
        runs = 0
        const started = performance.now()
        await Promise.all(Array.from({ length: 1000 }, async (_, i) => {
          const { statusCode } = await apps[i % 8]?.inject(`${path}?${ms}-${round}`) ?? {}
          if (statusCode !== 200) throw new Error(`status ${statusCode}`)
        }))
        times.push(performance.now() - started)
        counts.push(runs)
      }
      rows.push({
        'handler takes ms': ms,
        route: path.slice(1),
        'handler runs': `${Math.min(...counts)} to ${Math.max(...counts)}`,
        'all answered after ms': Math.round(median(times))
      })
    }
    await Promise.all(apps.map(app => app.close()))
  }
  report.table('1,000 requests at once on 8 instances in one process, for a key that is not there', rows)
}

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

async function bytesInUse (): Promise<number> {
  for (let i = 0; i < 3; i++) {
    await sleep(50)
    collectGarbage()
  }
  const { heapUsed, external } = process.memoryUsage()
  return heapUsed + external
}

/** The memory of an entry in L1 and in Redis, without its body. */
async function memory (): Promise<void> {
  const rows = []
  for (const size of SIZES) {
    await admin.flushall()
    const count = Math.min(10_000, Math.floor(256 * 1024 ** 2 / size))
    // As many entries as can be read within the deadline.
    const atOnce = Math.min(50, Math.floor(4 * 1024 ** 2 / size))
    const start = async () => await instance(app => {
      for (const path of ['/warm', '/entry']) app.get(path, { config: { cache: true } }, async () => 'x'.repeat(size))
    }, 1024 ** 3)
    const ask = async (app: FastifyInstance, atOnce: number) => {
      for (let i = 0; i < count; i += atOnce) {
        await Promise.all(
          Array.from({ length: atOnce }, (_, j) => app.inject(`/entry?${i + j}`))
        )
      }
    }
    const grown = async (app: FastifyInstance, atOnce: number) => {
      const before = await bytesInUse()
      const { l1Entries } = app.cache.stats()
      await ask(app, atOnce)
      const after = await bytesInUse()
      return Math.round((after - before) / (app.cache.stats().l1Entries - l1Entries))
    }
    const maker = await start()
    const made = await grown(maker, 1)
    await maker.close()
    const usages = []
    for (const key of (await admin.scan(0, 'MATCH', 'bench:cache:entry:*', 'COUNT', 1000))[1]) {
      usages.push(Number(await admin.memory('USAGE', key, 'SAMPLES', 0)))
    }
    const readers = [await start(), await start()]
    const [one, many] = [
      await grown(readers[0] as FastifyInstance, 1), await grown(readers[1] as FastifyInstance, atOnce)
    ]
    await Promise.all(readers.map(reader => reader.close()))
    rows.push({
      body: size,
      entries: count,
      'L1, made here': made,
      'L1, read from Redis': one,
      'L1, several at once': many,
      Redis: median(usages)
    })
  }
  report.table('Bytes an entry', rows)
}

/**
 * The delay until another instance has received an invalidation: through the suite's channel, and through features of
 * Redis itself.
 */
async function invalidations (): Promise<void> {
  const prefix = 'bench'
  const connect = async (protocol: 2 | 3) => {
    const client = new Redis(server.url, { protocol, lazyConnect: true })
    await client.connect()
    return client
  }
  const writer = await connect(3)
  const port = portOf(writer)
  const [published, invalidated, tracker] = [await connect(3), await connect(2), await connect(3)]
  const id = await invalidated.client('ID')
  await published.subscribe(invalidationChannel(port, prefix))
  await invalidated.subscribe('__redis__:invalidate')
  // Both kinds of key: removing an entry overwrites its key, and so does invalidating a tag.
  await tracker.call(
    'CLIENT', 'TRACKING', 'ON', 'REDIRECT', id, 'BCAST', 'PREFIX', `${prefix}:cache:tag:`, 'PREFIX',
    `${prefix}:cache:entry:`
  )

  const ways = [
    {
      way: 'the suite: PUBLISH in the script',
      store: new RedisCacheStore(port, prefix, 'bench'),
      listener: published,
      times: [] as number[]
    },
    {
      way: 'CLIENT TRACKING, BCAST',
      store: new RedisCacheStore(port, prefix),
      listener: invalidated,
      times: [] as number[]
    }
  ]
  let heard = (): void => {}
  const messages = new Map(ways.map(({ way }) => [way, 0]))
  for (const { way, listener } of ways) {
    listener.on('messageBuffer', () => {
      messages.set(way, (messages.get(way) ?? 0) + 1)
      heard()
    })
  }
  for (let batch = 0; batch < 22; batch++) {
    for (const { way, store, listener, times } of ways) {
      for (let i = 0; i < 100; i++) {
        const before = messages.get(way)
        const started = performance.now()
        const arrival = new Promise<void>(resolve => { heard = () => { if (messages.get(way) !== before) resolve() } })
        const done = store.invalidate([`tag-${i}`])
        await arrival
        // The first ones are a warm-up.
        if (batch > 1) times.push(performance.now() - started)
        await done
        // Messages of this row must not arrive during the next one.
        if (listener !== invalidated) await tracker.ping()
      }
    }
  }
  heard = () => {}

  const app = await instance(app => {
    for (const path of ['/warm', '/entry']) {
      app.get(path, { config: { cache: { tags: ['entries'] } } }, async () => 'x'.repeat(1024))
    }
  })
  for (const { way } of ways) messages.set(way, 0)
  for (let i = 0; i < 1000; i++) await app.inject(`/entry?fill-${i}`)
  await sleep(100)
  report.table('2,000 invalidations, until another connection receives them', ways.map(({ way, times }) => ({
    way,
    'p50 ms': quantile(times, 0.5).toFixed(3),
    'p99 ms': quantile(times, 0.99).toFixed(3),
    'messages to each instance for 1,000 fills': messages.get(way) ?? 0
  })))
  await app.close()
  for (const client of [writer, published, invalidated, tracker]) client.disconnect()
}

if (options.parts.has('stampede')) await stampede()
if (options.parts.has('memory')) await memory()
if (options.parts.has('invalidations')) await invalidations()
if (options.parts.has('load')) await load()
admin.disconnect()
await stopAll()
report.end()
