import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import autocannon from 'autocannon'
import Fastify, { type FastifyPluginAsync } from 'fastify'
import { Redis } from 'ioredis'
import { createRedisStore } from '../plugins/rate-limit/redis-store.js'
import { resolvePolicy } from '../plugins/rate-limit/resolve-policy.js'
import { ALGORITHMS } from '../plugins/rate-limit/policy.js'
import { rateLimit } from '../plugins/rate-limit/index.js'
import { startRedis } from '../test/helpers/redis-server.js'
import { stopAll } from '../test/helpers/registry.js'
import { peerRateLimit as peer } from './peer-rate-limit.js'

// Requests a second and latency of one Fastify process that sends the same 1 KiB, beside peers in the same run:
// rounds take turns, the median of each is told, as a share of the bare route.
const ROUNDS = Number(process.env['ROUNDS'] ?? 5)
const SECONDS = Number(process.env['SECONDS'] ?? 3)
const VARIANTS = ['bare', 'bare + GET', 'suite, memory', 'suite, Redis', '@fastify/rate-limit, memory', '@fastify/rate-limit, Redis', 'rate-limiter-flexible, Redis']

interface Round { rate: number, p50: number, p99: number, commands: number, bytes: number }

const server = await startRedis()
const admin = new Redis(server.url)
const median = (values: number[]) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0

async function statistics (): Promise<{ commands: number, bytes: number }> {
  const info = await admin.info('stats')
  const read = (name: string) => Number(new RegExp(`${name}:(\\d+)`).exec(info)?.[1])
  return { commands: read('total_commands_processed'), bytes: read('total_net_input_bytes') + read('total_net_output_bytes') }
}

async function load (url: string): Promise<Round> {
  await autocannon({ url, connections: 50, duration: 1 })
  const before = await statistics()
  const { requests, latency } = await autocannon({ url, connections: 50, duration: SECONDS })
  const after = await statistics()
  return {
    rate: requests.average, p50: latency.p50, p99: latency.p99, commands: (after.commands - before.commands) / requests.total, bytes: (after.bytes - before.bytes) / requests.total
  }
}

async function compare (title: string, max: number): Promise<void> {
  const servers = new Map<string, { child: ChildProcess, url: string, rounds: Round[] }>()
  for (const variant of VARIANTS) {
    const child = fork(new URL('./rate-limit-server.ts', import.meta.url), [variant, String(max), server.url], { execArgv: ['--import', 'tsx'] })
    const [url] = await once(child, 'message')
    servers.set(variant, { child, url, rounds: [] })
  }
  for (let round = 0; round < ROUNDS; round++) {
    for (const { url, rounds } of servers.values()) rounds.push(await load(url))
  }
  const rateOf = (variant: string) => median(servers.get(variant)?.rounds.map(round => round.rate) ?? [])
  console.log(`\n${title}`)
  console.table([...servers].map(([variant, { rounds }]) => ({
    variant,
    'requests/s': Math.round(rateOf(variant)),
    'of bare': (rateOf(variant) / rateOf('bare')).toFixed(2),
    'of bare + GET': (rateOf(variant) / rateOf('bare + GET')).toFixed(2),
    'p50 ms': median(rounds.map(round => round.p50)),
    'p99 ms': median(rounds.map(round => round.p99)),
    'Redis commands a request': median(rounds.map(round => round.commands)).toFixed(2),
    'bytes to and from Redis': Math.round(median(rounds.map(round => round.bytes)))
  })))
  for (const { child } of servers.values()) child.kill()
}

/** What a key takes in Redis once `max` requests are in its window, beside two other ways to keep their times. */
async function memory (): Promise<void> {
  const rows = []
  for (const max of [10, 100, 1000, 10_000]) {
    await admin.flushall()
    const row: Record<string, number> = { max }
    for (const algorithm of ALGORITHMS) {
      const store = createRedisStore(admin, algorithm)
      const policy = resolvePolicy({ max, timeWindow: '1h', algorithm })
      for (let i = 0; i < max; i++) await store.apply('k', policy, 1, 'consume')
      row[algorithm] = Number(await admin.memory('USAGE', `${algorithm}:rate-limit:${algorithm.split('-').at(-1)}:{k}`, 'SAMPLES', 0))
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
  console.log('\nBytes a key in Redis, with max requests in its window')
  console.table(rows)
}

/** 100 requests on each side of a fixed window's edge: how many pass within a moment. */
async function boundary (): Promise<void> {
  const rows = []
  for (const [name, plugin] of [['suite', rateLimit], ['@fastify/rate-limit', peer]] as Array<[string, FastifyPluginAsync<Record<string, unknown>>]>) {
    const app = Fastify()
    await app.register<Record<string, unknown>>(plugin, { max: 100, timeWindow: 1000 })
    app.get('/', async () => 'x')
    // One after the other: the peer's memory store lets none of several requests pass that it counts in one turn.
    const burst = async () => {
      let passed = 0
      for (let i = 0; i < 100; i++) if ((await app.inject('/')).statusCode === 200) passed++
      return passed
    }
    // A fixed window begins with a key's first request, which here comes alone.
    await app.inject('/')
    await new Promise(resolve => setTimeout(resolve, 900))
    const started = performance.now()
    const before = await burst()
    await new Promise(resolve => setTimeout(resolve, 100))
    const after = await burst()
    rows.push({ name, 'before the edge': before, 'after it': after, within: `${Math.round(performance.now() - started)} ms` })
    await app.close()
  }
  console.log('\nmax 100 a second, 100 requests on each side of the edge')
  console.table(rows)
}

await boundary()
await memory()
await compare('Allowed', 100_000)
await compare('Refused', 1)
admin.disconnect()
await stopAll()
