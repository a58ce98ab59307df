// Orders that all instances receive, and browsers see live. Run it with `npx tsx examples/events.ts`, then
// `curl -N localhost:3000/live` and, in another terminal, `curl -X POST localhost:3000/orders/teapot`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { events, redis } from '../plugins/index.js'

declare module 'fastify' {
  interface EventChannels {
    'orders:placed': { id: number, product: string }
  }
}

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(events)

  let heard = 0
  // Orders of all instances, including this one.
  await app.events.subscribe('orders:placed', ({ id, product }) => {
    heard++
    app.log.info({ id, product }, 'an order was placed')
  }, { onGap: ({ from, to }) => { app.log.warn({ from, to }, 'orders may have been missed') } })

  app.post<{ Params: { product: string } }>('/orders/:product', async ({ params: { product } }) => {
    const order = { id: Date.now(), product }
    await app.events.publish('orders:placed', order)
    return order
  })
  app.get('/heard', async () => ({ heard }))
  app.get('/live', async (request, reply) =>
    await app.events.sse(request, reply, 'orders:*', { event: (_order, { channel }) => channel }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
