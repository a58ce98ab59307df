// Strings: one value with a TTL, and several values in one command (MGET, MSET). Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/strings.ts`, then
// `curl 'localhost:3000/shops/berlin/prices?ids=7,8'`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })

  // #region one
  app.put<{ Body: { text: string } }>('/notice', async ({ body: { text } }) => {
    await app.redis.set('shop:notice', text, 'EX', 600)
    return { text }
  })
  app.get('/notice', async () => {
    return { text: await app.redis.get('shop:notice') }   // null after ten minutes
  })
  // #endregion

  // #region many
  interface Prices {
    Params: { shop: string }
    Body: Record<string, number>
    Querystring: { ids: string }
  }

  // The braces put all prices of a shop into one slot of a Cluster, which MGET and MSET need there.
  const keyOf = (shop: string, id: string) => `shop:price:{${shop}}:${id}`

  app.put<Prices>('/shops/:shop/prices', async ({ params: { shop }, body }) => {
    const prices = new Map(Object.entries(body).map(([id, cents]) => [keyOf(shop, id), cents]))
    const transaction = app.redis.multi().mset(prices)
    for (const key of prices.keys()) transaction.expire(key, 3600)   // MSET has no TTL
    await transaction.exec()
    return body
  })
  app.get<Prices>('/shops/:shop/prices', async ({ params: { shop }, query }) => {
    const ids = query.ids.split(',').slice(0, 100)
    const prices = await app.redis.mget(ids.map(id => keyOf(shop, id)))
    return Object.fromEntries(ids.map((id, i) => [id, prices[i] == null ? null : Number(prices[i])]))
  })
  // #endregion
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
