// Responses that are cached until a write invalidates them. Run it with `npx tsx examples/cache.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { cache, redis } from '../plugins/index.js'

const products = new Map([['1', { id: '1', name: 'Teapot', price: 30 }]])

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(cache, { ttl: '30s', staleWhileRevalidate: '5m' })

  app.get<{ Params: { id: string } }>('/products/:id', {
    config: { cache: { ttl: '5m', tags: request => [`product:${request.params.id}`] } }
  }, async (request, reply) =>
    products.get(request.params.id) ?? await reply.code(404).send({ error: 'no such product' }))

  app.put<{ Params: { id: string }, Body: { price: number } }>('/products/:id', {
    config: { cache: { invalidates: request => [`product:${request.params.id}`] } }
  }, async (request, reply) => {
    const product = products.get(request.params.id)
    if (product === undefined) return await reply.code(404).send({ error: 'no such product' })
    product.price = Number(request.body.price)
    return product
  })

  app.get('/total', async () =>
    await app.cache.getOrSet(
      'total', () => [...products.values()].reduce((sum, { price }) => sum + price, 0), { ttl: '10s' }
    ))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
