// Orders as durable events: a consumer group sends mail, with retries and dead letters, and readers get the history
// after a cursor. Run it with `npx tsx examples/streams.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { events, redis } from '../plugins/index.js'

interface Order {
  customer: string
  item: string
}

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(events)

  const orders = app.events.stream<Order>('orders', { maxLength: 10_000, maxAge: '1 day' })
  const mails: string[] = []
  await orders.consume({
    group: 'mail',
    concurrency: 10,
    retries: 2,
    handler ({ data: { customer, item } }) {
      if (item === 'nothing') throw new Error('there is no such thing')
      mails.push(`${customer} ordered ${item}`)
    }
  })

  app.post<{ Params: Order }>('/orders/:customer/:item', async (request, reply) => {
    const { customer, item } = request.params
    return await reply.code(202).send({ id: await orders.append({ customer, item }, { key: customer }) })
  })
  // A page of the history after a cursor, with the cursor of the next page.
  app.get<{ Querystring: { after?: string } }>('/orders', async request => {
    const page: Array<Order & { id: string }> = []
    const signal = AbortSignal.timeout(200)
    for await (const { id, data } of orders.read({ after: request.query.after ?? '0', signal })) {
      if (page.push({ id, ...data }) === 10) break
    }
    return page
  })
  app.get('/mails', async () => ({ mails, ...await orders.stats(), dead: await orders.deadLetters('mail').list() }))
  app.post('/mails/replay', async () => ({ replayed: await orders.deadLetters('mail').replay() }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
