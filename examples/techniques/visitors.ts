// Bitmaps: which of your users were active on a day. HyperLogLog: about how many visitors there were. Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/visitors.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })

  // #region bitmaps
  interface Active { Params: { day: string, user: number }, Querystring: { days: string[] } }
  const day = { type: 'string', format: 'date' }
  const days = { type: 'array', items: day, minItems: 1, maxItems: 31 }
  const querystring = { type: 'object', required: ['days'], properties: { days } }
  // The number of a user is an offset: a bitmap for the number 4,000,000,000 takes 500 MB.
  const user = { type: 'integer', minimum: 0, maximum: 10_000_000 }
  const params = { type: 'object', properties: { day, user } }
  // The braces put all days into one slot of a Cluster, which BITOP needs.
  const activeOn = (day: string) => `shop:{active}:${day}`

  app.put<Active>('/active/:day/:user', { schema: { params } }, async request => {
    const { day, user } = request.params
    await app.redis.multi().setbit(activeOn(day), user, 1).expire(activeOn(day), 90 * 86_400).exec()
    return { day, user }
  })
  app.get<Active>('/active/:day', async ({ params: { day } }) => {
    return { active: await app.redis.bitcount(activeOn(day)) }
  })
  // The users that were active on all of these days.
  app.get<Active>('/active', { schema: { querystring } }, async ({ query: { days } }) => {
    const result = `shop:{active}:all:${days.join()}`
    const results = await app.redis.multi()
      .bitop('AND', result, ...days.map(activeOn))
      .bitcount(result)
      .unlink(result)
      .exec()
    return { active: results?.[1]?.[1] }
  })
  // #endregion

  // #region hyperloglog
  interface Visitor { Params: { day: string, visitor: string } }
  const visitorsOn = (day: string) => `shop:{visitors}:${day}`

  app.put<Visitor>('/visitors/:day/:visitor', async ({ params: { day, visitor } }) => {
    const key = visitorsOn(day)
    await app.redis.multi().pfadd(key, visitor).expire(key, 90 * 86_400).exec()
    return { day }
  })
  // A visitor of several days is counted once.
  app.get<{ Params: { day: string, other: string } }>('/visitors/:day/and/:other', async request => {
    const { day, other } = request.params
    return { about: await app.redis.pfcount(visitorsOn(day), visitorsOn(other)) }
  })
  // #endregion
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
