// Lists: a simple queue (LPUSH, RPOP), and the items that a user saw last (LPUSH, LTRIM, LRANGE). Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/lists.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })

  // #region queue
  interface Job { Params: { name: string } }

  // Without a TTL: a job waits until a worker takes it.
  app.post<Job>('/jobs/:name', async ({ params: { name } }, reply) => {
    return await reply.code(202).send({ waiting: await app.redis.lpush('shop:jobs', name) })
  })
  // RPOP removes the job: it is lost if the worker dies before it is done.
  app.post('/jobs/next', async (_request, reply) => {
    const name = await app.redis.rpop('shop:jobs')
    return name === null ? await reply.code(204).send() : { name }
  })
  app.get('/jobs', async () => {
    const newest = await app.redis.lrange('shop:jobs', 0, 9)
    return { waiting: await app.redis.llen('shop:jobs'), newest }
  })
  // #endregion

  // #region recent
  interface Seen { Params: { user: string, product: string } }
  const RECENT = 10
  const keyOf = (user: string) => `shop:seen:${user}`

  app.put<Seen>('/users/:user/seen/:product', async ({ params: { user, product } }) => {
    const key = keyOf(user)
    await app.redis.multi()
      .lrem(key, 0, product)
      .lpush(key, product)
      .ltrim(key, 0, RECENT - 1)
      .expire(key, 30 * 86_400)
      .exec()
    return { product }
  })
  app.get<Seen>('/users/:user/seen', async ({ params: { user } }) => {
    return await app.redis.lrange(keyOf(user), 0, -1)
  })
  // #endregion
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
