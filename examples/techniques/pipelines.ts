// Pipelines and MULTI: many commands in one round trip, and several commands as one step. Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/pipelines.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })

  // #region multi
  interface Purchase { Params: { customer: string, cents: number } }
  const params = {
    type: 'object',
    properties: {
      customer: { type: 'string', pattern: '^\\w{1,32}$' },
      cents: { type: 'integer', minimum: 1 }
    }
  }
  // The braces put the keys of a customer into one slot of a Cluster.
  const keysOf = (customer: string) => {
    return { count: `shop:{${customer}}:orders`, cents: `shop:{${customer}}:cents` }
  }

  app.post<Purchase>('/orders/:customer/:cents', { schema: { params } }, async request => {
    const { customer, cents } = request.params
    const keys = keysOf(customer)
    // Both or neither: no other client sees the count without the sum.
    const results = await app.redis.multi().incr(keys.count).incrby(keys.cents, cents).exec()
    const [count, sum] = results?.map(([error, value]) => {
      if (error) throw error
      return Number(value)
    }) ?? []
    return { count, sum }
  })
  // #endregion

  // #region pipeline
  // The client sends commands of one turn of the event loop together: one round trip, or on a
  // Cluster one for each node.
  app.get<{ Querystring: { customers: string } }>('/orders', async ({ query }) => {
    const customers = query.customers.split(',').slice(0, 100)
    const keys = customers.map(customer => `shop:{${customer}}:orders`)
    const counts = await Promise.all(keys.map(key => app.redis.get(key)))
    return Object.fromEntries(customers.map((customer, i) => [customer, Number(counts[i] ?? 0)]))
  })
  // #endregion
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
