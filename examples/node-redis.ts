// Limits, cached responses and sessions on a client of node-redis, which the app uses for a command of its own as well.
// Run it with `REDIS_URL=redis://localhost:6379 npx tsx examples/node-redis.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { createClient } from 'redis'
import { cache, rateLimit, session } from '../plugins/index.js'
import { callRedis } from '../plugins/redis/index.js'

declare module 'fastify' {
  interface Session {
    visits?: number
  }
}

const products = new Map([['1', { id: '1', name: 'Teapot', price: 30 }]])

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const client = createClient({
    url: process.env['REDIS_URL'] ?? 'redis://localhost:6379',
    // The cache expects all instances to be connected again within a second.
    socket: { reconnectStrategy: retries => Math.min(50 * 2 ** retries, 500) }
  })
  // Node.js ends a process whose client has an error and no listener.
  client.on('error', (error: Error) => app.log.warn({ reason: error.message }, 'Redis'))
  await client.connect()
  // Hooks run in reverse order: the plugins below finish before the client is closed.
  app.addHook('onClose', async () => { await client.close() })

  await app.register(rateLimit, { redis: client, max: 100, timeWindow: '1 minute' })
  await app.register(cache, { redis: client, ttl: '30s' })
  await app.register(session, {
    redis: client, secret: process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters'
  })

  app.get<{ Params: { id: string } }>('/products/:id', {
    config: { cache: { ttl: '5m' } }
  }, async (request, reply) =>
    products.get(request.params.id) ?? await reply.code(404).send({ error: 'no such product' }))

  app.post('/visits', { config: { rateLimit: { max: 60, timeWindow: '1 minute' } } }, async request => {
    request.session.visits = (request.session.visits ?? 0) + 1
    // A command of the app, with the deadline and the circuit breaker of the plugins.
    const total = await callRedis(app, (redis: typeof client) => redis.incr('example:visits'), { client })
    return { yours: request.session.visits, total }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
