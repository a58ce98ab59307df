// Health routes with a custom check. Run it with `npx tsx examples/health.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { health, redis } from '../plugins/index.js'

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(health)

  app.health.addCheck('uptime', () => process.uptime(), { critical: false })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
