// A small shop, built by one function that its tests can call: it takes the clock, the connection and
// the mail service as options, and it does not listen. Its tests are in `testing-your-app.tests.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { cache, events, idempotency, rateLimit, redis, session } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'
import type { Clock } from '../../plugins/testing/index.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
}

export interface ShopOptions {
  /** The clock of all plugins but the connection, whose sockets keep real time. */
  clock?: Clock
  /** Omitted: every plugin uses its memory store. */
  redis?: RedisPluginOptions
  sendMail?: (to: string) => Promise<void>
}

export async function build ({ clock, redis: connection, sendMail }: ShopOptions = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  if (connection !== undefined) await app.register(redis, connection)
  await app.register(rateLimit, { max: 100, timeWindow: '1 minute', clock })
  const secret = process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters'
  await app.register(session, { secret, idleTimeout: '30 minutes', clock })
  await app.register(cache, { ttl: '5m', clock })
  await app.register(idempotency, { clock })
  await app.register(events, { clock })

  const loginLimit = { max: 5, timeWindow: '15 minutes' }
  app.post<{ Body: { user: string } }>('/login', {
    config: { rateLimit: loginLimit }
  }, async request => {
    await request.login(request.body.user)
    return { welcome: request.body.user }
  })
  app.get('/me', async (request, reply) => request.session.userId ?? await reply.code(401).send())

  const prices = new Map([['teapot', 30]])
  type Product = { Params: { id: string }, Body: { price: number } }
  app.get<Product>('/products/:id', {
    config: { cache: { tags: ({ params }) => [`product:${params.id}`] } }
  }, async ({ params }) => ({ price: prices.get(params.id) }))
  app.put<Product>('/products/:id', {
    config: { cache: { invalidates: ({ params }) => [`product:${params.id}`] } }
  }, async ({ params, body }) => {
    prices.set(params.id, body.price)
    return body
  })

  const mails = app.events.stream<{ to: string }>('mails')
  await mails.consume({ group: 'send', handler: async ({ data }) => await sendMail?.(data.to) })
  app.post('/orders', { config: { idempotency: true } }, async (request, reply) => {
    const { userId } = request.session
    if (userId === undefined) return await reply.code(401).send()
    await mails.append({ to: userId })
    return await reply.code(201).send({ ordered: true })
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const url = process.env['REDIS_URL']
  const app = await build(url === undefined ? {} : { redis: { url, prefix: 'shop' } })
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
