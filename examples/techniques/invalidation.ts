// Invalidation: all keys of a pattern by SCAN and UNLINK, and the same by tags and patterns of the plugin cache. Run it
// with `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/invalidation.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { cache, redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'
// #region scan
import type { Redis } from 'ioredis'
import { clusterOf, type RedisClient } from '../../plugins/redis/index.js'

/** Removes all keys that match, and returns their number. Keys that are created meanwhile may remain. */
export async function unlinkMatching (client: RedisClient, match: string): Promise<number> {
  // SCAN covers one node: on a Cluster each master is scanned.
  const nodes = clusterOf(client)?.nodes('master') ?? [client as Redis]
  let removed = 0
  for (const node of nodes) {
    for await (const keys of node.scanStream({ match, count: 500 })) {
      // Key by key, as the keys of a page are in different slots. They still share a round trip.
      const results = await Promise.all((keys as string[]).map(key => node.unlink(key)))
      removed += results.reduce((sum, count) => sum + count, 0)
    }
  }
  return removed
}
// #endregion

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })
  await app.register(cache)
  let loads = 0
  const load = async (category: string, id: string) => ({ category, id, load: ++loads })
  interface Product { Params: { category: string, id: string } }

  // Raw: SET and SCAN.
  app.get<Product>('/raw/:category/:id', async ({ params: { category, id } }) => {
    const key = `shop:raw:${category}:${id}`
    const stored = await app.redis.get(key)
    if (stored !== null) return JSON.parse(stored)
    const product = await load(category, id)
    await app.redis.set(key, JSON.stringify(product), 'EX', 3600)
    return product
  })
  app.delete<Product>('/raw/:category', async ({ params: { category } }) => {
    return { removed: await unlinkMatching(app.redis, `shop:raw:${escapeGlob(category)}:*`) }
  })

  app.get<Product>('/products/:category/:id', async ({ params: { category, id } }) => {
    const options = { ttl: '1h', tags: [`category:${category}`] } as const
    return await app.cache.getOrSet(`${category}:${id}`, () => load(category, id), options)
  })
  // One write, however many products there are; no load that began before it is served after it.
  app.delete<Product>('/products/:category', async ({ params: { category } }, reply) => {
    await app.cache.invalidateTags([`category:${category}`])
    return await reply.code(204).send()
  })
  // The cache scans its own entries, and blocks fills that began before.
  app.delete<{ Querystring: { glob: string } }>('/products', async ({ query: { glob } }) => {
    return { removed: await app.cache.invalidatePattern(glob) }
  })
  return app
}

/** A client's text must not match other keys. */
function escapeGlob (text: string): string {
  return text.replaceAll(/[\\*?[\]^-]/g, '\\$&')
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
