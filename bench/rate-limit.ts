import Fastify, { type FastifyPluginAsync } from 'fastify'
import { Redis } from 'ioredis'
import { createRedisStore } from '../plugins/rate-limit/store/redis-store.js'
import { resolvePolicy } from '../plugins/rate-limit/options/policy.js'
import { ALGORITHMS } from '../plugins/rate-limit/policy.js'
import { rateLimit } from '../plugins/rate-limit/index.js'
import { portOf } from '../plugins/shared/redis/client.js'
import { startRedis } from '../test/helpers/servers/redis-server.js'
import { stopAll } from '../tools/servers/registry.js'
import { peerRateLimit as peer } from './peer-rate-limit.js'
import { httpColumns, measure } from './frame/http-load.js'
import { readOptions } from './frame/options.js'
import { Report } from './frame/report.js'
import { giveServersACore, startServer, stopServers } from './frame/server.js'

// Measures requests per second, CPU and latency of one Fastify process that sends 1 KiB, with peers in the same run.
const VARIANTS = [
  'bare', 'bare + hook and fields', 'bare + GET', 'this suite, memory', 'this suite, Redis',
  '@fastify/rate-limit, memory', '@fastify/rate-limit, Redis', 'rate-limiter-flexible, Redis'
]
const A_KEY_A_REQUEST = ['this suite, Redis', '@fastify/rate-limit, Redis', 'rate-limiter-flexible, Redis'].map(
  variant => `${variant}, a key a request`
)

const options = readOptions(['boundary', 'memory', 'load'], ['load'])
const report = new Report(options.isQuick)
giveServersACore()
const server = await startRedis()
const admin = new Redis(server.url)

async function compare (title: string, variants: readonly string[], max: number): Promise<void> {
  const measured = await measure({
    options,
    redis: admin,
    variants,
    start: variant => startServer('rate-limit-server.ts', [variant, String(max), server.url]),
    accepted: max === 1 ? 429 : 200
  })
  report.compare(title, measured, ['bare', 'bare + GET'], httpColumns)
  await stopServers(measured.flatMap(({ servers }) => servers))
}

/**
 * The memory of a key in Redis with `max` requests in its window, compared with two other ways to store their times.
 */
async function memory (): Promise<void> {
  const rows = []
  for (const max of [10, 100, 1000, 10_000]) {
    await admin.flushall()
    const row: Record<string, number> = { max }
    for (const algorithm of ALGORITHMS) {
      const store = createRedisStore(portOf(admin), algorithm)
      const policy = resolvePolicy({ max, timeWindow: '1h', algorithm })
      for (let i = 0; i < max; i++) await store.apply('k', policy, 1, 'consume')
      row[algorithm] = Number(
        await admin.memory('USAGE', `${algorithm}:rate-limit:${algorithm.split('-').at(-1)}:{k}`, 'SAMPLES', 0)
      )
    }
    for (let i = 0; i < max; i++) {
      const now = Date.now()
      await admin.zadd('zset', now, `${now}-${i}`)
      await admin.rpush('list', now)
    }
    row['sorted set'] = Number(await admin.memory('USAGE', 'zset', 'SAMPLES', 0))
    row['list of times'] = Number(await admin.memory('USAGE', 'list', 'SAMPLES', 0))
    rows.push(row)
  }
  report.table('Bytes a key in Redis, with max requests in its window', rows)
}

/**
 * Sends 100 requests on each side of a fixed window's edge, and counts those that are allowed at almost the same time.
 */
async function boundary (): Promise<void> {
  const rows = []
  for (const [name, plugin] of [
    ['suite', rateLimit], ['@fastify/rate-limit', peer]
  ] as Array<[string, FastifyPluginAsync<Record<string, unknown>>]>) {
    const app = Fastify()
    await app.register<Record<string, unknown>>(plugin, { max: 100, timeWindow: 1000 })
    app.get('/', async () => 'x')
    // Sequentially: the peer's memory store refuses requests that it counts in the same turn.
    const burst = async () => {
      let passed = 0
      for (let i = 0; i < 100; i++) if ((await app.inject('/')).statusCode === 200) passed++
      return passed
    }
    // A fixed window begins with the first request of a key, which is sent alone here.
    await app.inject('/')
    await new Promise(resolve => setTimeout(resolve, 900))
    const started = performance.now()
    const before = await burst()
    await new Promise(resolve => setTimeout(resolve, 100))
    const after = await burst()
    rows.push({
      name, 'before the edge': before, 'after it': after, within: `${Math.round(performance.now() - started)} ms`
    })
    await app.close()
  }
  report.table('max 100 a second, 100 requests on each side of the edge', rows)
}

if (options.parts.has('boundary')) await boundary()
if (options.parts.has('memory')) await memory()
if (options.parts.has('load')) {
  await compare('Rate limit, allowed', [...VARIANTS, ...A_KEY_A_REQUEST], 100_000)
  await compare('Rate limit, refused', VARIANTS, 1)
}
admin.disconnect()
await stopAll()
report.end()
