// Publish and subscribe with a pattern: raw on a connection of its own, and with the plugin events. Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/pubsub.ts`, then
// `curl -X POST localhost:3000/prices/tea/499`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { events, redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

declare module 'fastify' {
  interface EventChannels {
    'prices:tea': { cents: number }
    'prices:coffee': { cents: number }
  }
}

type Product = 'tea' | 'coffee'
interface Price { Params: { product: Product, cents: number } }
const params = { type: 'object', properties: { product: { enum: ['tea', 'coffee'] }, cents: { type: 'integer' } } }

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })
  await app.register(events)
  const heardByEvents: Record<string, number> = {}

  // #region raw
  const heard: Record<string, number> = {}
  // A connection that has subscribed can send no other commands.
  const subscriber = app.redis.duplicate()
  app.addHook('onClose', async () => { subscriber.disconnect() })
  subscriber.on('error', ({ message }) => app.log.warn({ reason: message }, 'the subscriber is disconnected'))
  subscriber.on('pmessage', (_pattern, channel, message) => {
    heard[channel] = JSON.parse(message).cents
  })
  await subscriber.psubscribe('shop:prices:*')
  // #endregion

  await app.events.subscribe('prices:*', ({ cents }, channel) => { heardByEvents[channel] = cents })

  app.post<Price>('/prices/:product/:cents', { schema: { params } }, async ({ params: { product, cents } }) => {
    await app.redis.publish(`shop:prices:${product}`, JSON.stringify({ cents }))
    await app.events.publish(`prices:${product}`, { cents })
    return { product, cents }
  })
  app.get('/heard', async () => ({ raw: heard, events: heardByEvents }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
