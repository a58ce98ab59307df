// One connection, used directly. Run it with `REDIS_URL=redis://localhost:6379 npx tsx examples/redis.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../plugins/index.js'

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { url: process.env['REDIS_URL'], prefix: 'example' })

  app.post('/visits', async () => ({ visits: await app.redis.incr('example:visits') }))
  app.get('/visits', async () => ({ visits: Number(await app.redis.get('example:visits') ?? 0) }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
