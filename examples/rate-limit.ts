// Two limits: one for all routes, a strict one for logins. Run it with `npx tsx examples/rate-limit.ts`;
// with REDIS_URL set, all instances share the counts.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { rateLimit, redis } from '../plugins/index.js'

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(rateLimit, { max: 100, timeWindow: '1 minute' })

  app.get('/', async () => ({ hello: 'world' }))
  app.post('/login', { config: { rateLimit: { max: 5, timeWindow: '15 minutes' } } }, async () => ({ welcome: true }))
  app.get('/status', { config: { rateLimit: false } }, async () => ({ unlimited: true }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
