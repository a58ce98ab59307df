// A value from a slow source: computed once for concurrent callers, served stale while the source is down, written
// through, and counted with write-behind. Run it with `npx tsx examples/data-cache.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { cache, redis } from '../plugins/index.js'

interface Product { id: string, name: string, views: number }
const source = new Map<string, Product>([['1', { id: '1', name: 'Teapot', views: 0 }]])

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(cache, { values: { staleIfError: '1h', hardTimeout: '2s' } })

  const products = app.cache.withPrefix('product', { ttl: '1m', negativeTtl: '5s' })
  const views = app.cache.writeBehind<number>('views', {
    flushEvery: '100ms',
    write (batch) {
      for (const { key, value } of batch) {
        const product = source.get(key)
        if (product) product.views += value
      }
    }
  })

  app.get<{ Params: { id: string } }>('/products/:id', async (request, reply) => {
    const { id } = request.params
    const product = await products.getOrSet(id, async () => structuredClone(source.get(id) ?? null))
    if (product === null) return await reply.code(404).send({ error: 'no such product' })
    await views.add(id, 1)
    return product
  })

  app.put<{ Params: { id: string }, Body: { name: string } }>('/products/:id', async request => {
    const { id } = request.params
    const changed = { id, name: String(request.body.name), views: source.get(id)?.views ?? 0 }
    return await products.writeThrough(id, changed, value => { source.set(id, { ...value }) })
  })

  app.get('/views', async () => ({ ...await views.stats(), products: [...source.values()] }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
