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
import { columnsOf, commandsOf, median, report, setting, startServer, stopServers, takeTurns } from './run.js'

// Measures requests per second and latency of one Fastify process that sends 1 KiB, with peers in the same run. Rounds
// alternate; the table has the median of each variant, as a share of the bare route.
const VARIANTS = [
  'bare', 'bare + GET', 'suite, memory', 'suite, Redis', '@fastify/rate-limit, memory', '@fastify/rate-limit, Redis',
  'rate-limiter-flexible, Redis'
]

const server = await startRedis()
const admin = new Redis(server.url)

async function compare (title: string, max: number): Promise<void> {
  const measured = await takeTurns({
    redis: admin,
    variants: VARIANTS,
    start: variant => startServer('./rate-limit-server.ts', [variant, String(max), server.url]),
    processes: setting('PROCESSES', 1),
    rounds: setting('ROUNDS', 5),
    seconds: setting('SECONDS', 3)
  })
  report(title, measured.map(one => ({
    ...columnsOf(measured, one, ['bare', 'bare + GET']),
    'Redis commands': median(one.rounds.map(commandsOf)).toFixed(1),
    'bytes to and from Redis': Math.round(median(one.rounds.map(({ bytesIn, bytesOut }) => bytesIn + bytesOut)))
  })))
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
  report('Bytes a key in Redis, with max requests in its window', rows)
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
  report('max 100 a second, 100 requests on each side of the edge', rows)
}

const PARTS = (process.env['PARTS'] ?? 'boundary,memory,load').split(',')
if (PARTS.includes('boundary')) await boundary()
if (PARTS.includes('memory')) await memory()
if (PARTS.includes('load')) {
  await compare('Rate limit, allowed', 100_000)
  await compare('Rate limit, refused', 1)
}
admin.disconnect()
await stopAll()
