// The ways in which apps connect to Redis already: each client is one that every plugin takes.
// Run it with `REDIS_URL=redis://localhost:6379 npx tsx examples/connections.ts`.
import { pathToFileURL } from 'node:url'
import fastifyRedis from '@fastify/redis'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { createClient } from 'redis'
import { cache, idempotency, lock, rateLimit, session } from '../plugins/index.js'
import { fromUpstash } from '../plugins/upstash/index.js'

/** Adds `fastify.redis`, which all plugins use. */
type Connect = (app: FastifyInstance, url: URL) => unknown

export const connections: Record<string, Connect> = {
  // #region not-awaited
  // node-redis, whose connection is not awaited: its commands wait until it is made.
  'node-redis, decorated' (app, url) {
    const redisClient = createClient({ url: url.href })
    redisClient.on('error', error => app.log.warn(error.message))
    redisClient.connect().catch(error => app.log.error(error.message))
    app.decorate<unknown>('redis', redisClient)
    app.addHook('onClose', async () => { await redisClient.close() })
  },
  // #endregion not-awaited
  // #region host-and-port
  // node-redis with a host, a port and a password, connected before the app is.
  async 'node-redis, by host and port' (app, url) {
    const client = createClient({
      socket: { host: url.hostname, port: Number(url.port) },
      ...url.password !== '' && { password: decodeURIComponent(url.password) }
    })
    client.on('error', error => app.log.warn(error.message))
    await client.connect()
    app.decorate<unknown>('redis', client)
    app.addHook('onClose', async () => { await client.close() })
  },
  // #endregion host-and-port
  // #region ioredis
  'ioredis, decorated' (app, url) {
    const client = new Redis({ host: url.hostname, port: Number(url.port) })
    client.on('error', error => app.log.warn(error.message))
    app.decorate<unknown>('redis', client)
    app.addHook('onClose', async () => { await client.quit() })
  },
  // #endregion ioredis
  // #region fastify-redis
  async '@fastify/redis' (app, url) {
    await app.register(fastifyRedis, { url: url.href, closeClient: true })
  },
  // #endregion fastify-redis
  // #region upstash
  // The REST API of Upstash, which has no subscriptions: hence `l1: { maxAge }` of the cache below.
  Upstash (app, url) {
    const { origin, searchParams } = url
    app.decorate<unknown>('redis', fromUpstash({ url: origin, token: searchParams.get('_token') ?? '' }))
  }
  // #endregion upstash
}

export async function build (connect: Connect, url: string) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await connect(app, new URL(url))
  await app.register(rateLimit, { max: 100, timeWindow: '1 minute' })
  await app.register(session, {
    secret: process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters', cookie: { secure: false }
  })
  await app.register(cache, { ttl: '30s', l1: { maxAge: '2s' } })
  await app.register(lock)
  await app.register(idempotency, { scope: ({ ip }) => ip })

  app.get('/time', { config: { cache: { ttl: '1m' } } }, async () => ({ time: process.hrtime.bigint().toString() }))
  app.post('/orders', { config: { idempotency: true } }, async () =>
    await app.locks.using('stock', async () => ({ order: process.hrtime.bigint().toString() })))
  app.post('/visits', async ({ session }) => {
    const visits = Number(Reflect.get(session, 'visits') ?? 0) + 1
    Object.assign(session, { visits })
    return { visits }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const connect = connections[process.env['CONNECTION'] ?? 'ioredis, decorated']!
  const app = await build(connect, process.env['REDIS_URL'] ?? 'redis://localhost:6379')
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
