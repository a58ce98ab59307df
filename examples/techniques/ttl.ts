// TTLs by the type of data, and by the age of the data: raw with SET EX, and as the option ttl of the cache. Run it
// with `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/ttl.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { cache, redis } from '../../plugins/index.js'
import type { Clock, RedisPluginOptions } from '../../plugins/redis/index.js'

interface Options { clock?: Clock, articles?: ReadonlyMap<string, Article> }

const params = {
  type: 'object',
  properties: { type: { enum: ['price', 'category', 'country'] }, id: { type: 'string', maxLength: 64 } }
}

// #region by-age
interface Article { id: string, title: string, changedAt: number }

/** A tenth of the time since the last change: from one minute to one day. */
export function ttlOf ({ changedAt }: Article, now: number): number {
  const age = now - changedAt
  return Math.min(Math.max(age / 10, 60_000), 86_400_000)
}
// #endregion

export async function build (
  connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }, { clock, articles = new Map() }: Options = {}
) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })
  await app.register(cache, { clock })
  const now = () => clock?.now() ?? Date.now()
  const loads: string[] = []
  const load = async (id: string) => {
    loads.push(id)
    return articles.get(id) ?? null
  }

  // #region by-type
  // How outdated each type of data may be.
  const byType = {
    price: app.cache.withPrefix('price', { ttl: '30s' }),
    category: app.cache.withPrefix('category', { ttl: '1h' }),
    country: app.cache.withPrefix('country', { ttl: '7 days' })
  }
  // #endregion
  interface Value { Params: { type: keyof typeof byType, id: string } }
  app.get<Value>('/values/:type/:id', { schema: { params } }, async ({ params: { type, id } }) => {
    return await byType[type].getOrSet(id, async () => {
      loads.push(`${type} ${id}`)
      return { type, id, loadedAt: now() }
    })
  })

  app.get<{ Params: { id: string } }>('/raw/articles/:id', async ({ params: { id } }, reply) => {
    const stored = await app.redis.get(`shop:article:${id}`)
    if (stored !== null) return JSON.parse(stored)
    const article = await load(id)
    if (article === null) return await reply.code(404).send({ error: 'no such article' })
    // A tenth at random, so that articles that were stored together do not expire together.
    const ttl = ttlOf(article, now()) * (0.9 + Math.random() / 10)
    await app.redis.set(`shop:article:${id}`, JSON.stringify(article), 'PX', Math.round(ttl))
    return article
  })

  app.get<{ Params: { id: string } }>('/articles/:id', async ({ params: { id } }, reply) => {
    const ttl = (article: Article | null) => article === null ? 0 : ttlOf(article, now())
    const article = await app.cache.getOrSet(id, () => load(id), { ttl, negativeTtl: '10s', jitter: 0.1 })
    return article ?? await reply.code(404).send({ error: 'no such article' })
  })
  app.get('/loads', async () => loads)
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
