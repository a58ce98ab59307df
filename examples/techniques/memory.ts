// Big keys and memory by prefix: scans the masters in pages, measures a sample of the keys by MEMORY USAGE, and extrapolates. Print the report with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/memory.ts`.
import { setTimeout as pauseFor } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import type { Redis } from 'ioredis'
import { redis } from '../../plugins/index.js'
import { clusterOf, type RedisClient, type RedisPluginOptions } from '../../plugins/redis/index.js'

interface PrefixMemory { prefix: string, keys: number, bytes: number, withoutTtl: number }
interface BigKey { key: string, bytes: number, type: string, ttl: number }
interface Settings {
  /** Every how many keys one is measured; 1 measures all. */
  every: number
  /** How many parts, between colons, make a prefix. */
  depth: number
  /** How many of the largest keys are listed. */
  top: number
  /** The pause after each page of the scan, in milliseconds, which leaves the server to others. */
  pause: number
}

// #region report
/** Returns the memory by prefix, and the largest keys among those that were measured; both the largest first. */
export async function reportMemory (client: RedisClient, { every = 10, depth = 2, top = 10, pause = 5 }: Partial<Settings> = {}) {
  const prefixes = new Map<string, { keys: number, sampled: number, bytes: number, withoutTtl: number }>()
  let biggest: Array<{ node: Redis, key: string, bytes: number }> = []

  for (const node of clusterOf(client)?.nodes('master') ?? [client as Redis]) {
    for await (const page of node.scanStream({ count: 1000 })) {
      const sample: string[] = []
      for (const key of page as string[]) {
        const memory = entryOf(prefixes, key.split(':', depth).join(':'))
        if (memory.keys++ % every === 0) sample.push(key)
      }
      await Promise.all(sample.map(async key => {
        const [bytes, ttl] = await Promise.all([node.memory('USAGE', key), node.ttl(key)])
        if (bytes === null) return   // has expired meanwhile
        const memory = entryOf(prefixes, key.split(':', depth).join(':'))
        memory.sampled++
        memory.bytes += bytes
        if (ttl === -1) memory.withoutTtl++
        biggest.push({ node, key, bytes })
      }))
      biggest = biggest.sort((a, b) => b.bytes - a.bytes).slice(0, top)
      await pauseFor(pause)
    }
  }

  const byPrefix = [...prefixes].map(([prefix, { keys, sampled, bytes, withoutTtl }]): PrefixMemory => {
    const scale = sampled === 0 ? 0 : keys / sampled
    return { prefix, keys, bytes: Math.round(bytes * scale), withoutTtl: Math.round(withoutTtl * scale) }
  }).sort((a, b) => b.bytes - a.bytes)
  const bigKeys = await Promise.all(biggest.map(async ({ node, key, bytes }): Promise<BigKey> =>
    ({ key, bytes, type: await node.type(key), ttl: await node.ttl(key) })))
  return { byPrefix, bigKeys }
}
// #endregion

function entryOf (prefixes: Map<string, { keys: number, sampled: number, bytes: number, withoutTtl: number }>, prefix: string) {
  const entry = prefixes.get(prefix) ?? { keys: 0, sampled: 0, bytes: 0, withoutTtl: 0 }
  prefixes.set(prefix, entry)
  return entry
}

const querystring = { type: 'object', properties: { every: { type: 'integer', minimum: 1 }, depth: { type: 'integer', minimum: 1, maximum: 5 } } }

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })
  // In an app of yours: for admins only, and one report at a time.
  app.get<{ Querystring: Partial<Settings> }>('/admin/memory', { schema: { querystring } }, async ({ query }) => await reportMemory(app.redis, query))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.ready()
  const { byPrefix, bigKeys } = await reportMemory(app.redis, { every: Number(process.env['EVERY'] ?? 10) })
  console.table(byPrefix.slice(0, 30))
  console.table(bigKeys)
  await app.close()
}
