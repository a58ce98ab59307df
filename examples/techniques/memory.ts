// Big keys and memory by prefix: scans the masters in pages, measures a sample of the keys by MEMORY USAGE, and
// extrapolates. Print the report with `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/memory.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'
// #region report
import { setTimeout as pauseFor } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import { clusterOf, type RedisClient } from '../../plugins/redis/index.js'

interface Totals { keys: number, measured: number, bytes: number, withoutTtl: number }
interface BigKey { key: string, bytes: number, type: string, ttl: number }

/**
 * Returns the memory by prefix and the ten largest keys that were measured, the largest first.
 *
 * @param every - every how many keys of a prefix one is measured; 1 measures all
 * @param depth - how many parts, between colons, make a prefix
 */
export async function reportMemory (client: RedisClient, { every = 10, depth = 2 } = {}) {
  const prefixes = new Map<string, Totals>()
  let biggest: BigKey[] = []

  for (const node of clusterOf(client)?.nodes('master') ?? [client as Redis]) {
    async function measure (key: string): Promise<BigKey[]> {
      const prefix = key.split(':', depth).join(':')
      const totals = prefixes.get(prefix) ?? { keys: 0, measured: 0, bytes: 0, withoutTtl: 0 }
      prefixes.set(prefix, totals)
      if (totals.keys++ % every !== 0) return []
      const size = node.memory('USAGE', key)
      const [bytes, ttl, type] = await Promise.all([size, node.ttl(key), node.type(key)])
      if (bytes === null) return []   // The key has expired meanwhile.
      totals.measured++
      totals.bytes += bytes
      if (ttl === -1) totals.withoutTtl++
      return [{ key, bytes, type, ttl }]
    }

    for await (const page of node.scanStream({ count: 1000 })) {
      const measured = await Promise.all((page as string[]).map(measure))
      biggest = [...biggest, ...measured.flat()].sort((a, b) => b.bytes - a.bytes).slice(0, 10)
      await pauseFor(5)   // Leaves the server to other clients.
    }
  }

  const byPrefix = [...prefixes].map(([prefix, { keys, measured, bytes, withoutTtl }]) => {
    const extrapolate = (sum: number) => measured === 0 ? 0 : Math.round(sum * keys / measured)
    return { prefix, keys, bytes: extrapolate(bytes), withoutTtl: extrapolate(withoutTtl) }
  }).sort((a, b) => b.bytes - a.bytes)
  return { byPrefix, biggest }
}
// #endregion

const querystring = {
  type: 'object',
  properties: { every: { type: 'integer', minimum: 1 }, depth: { type: 'integer', minimum: 1, maximum: 5 } }
}

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })
  // In an app of yours: for admins only, and one report at a time.
  app.get<{ Querystring: { every?: number, depth?: number } }>('/admin/memory', { schema: { querystring } },
    async ({ query }) => await reportMemory(app.redis, query))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.ready()
  const { byPrefix, biggest } = await reportMemory(app.redis, { every: Number(process.env['EVERY'] ?? 10) })
  console.table(byPrefix.slice(0, 30))
  console.table(biggest)
  await app.close()
}
