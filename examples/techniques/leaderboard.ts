// Sorted sets: a leaderboard with the top, a player's rank, increments and absolute scores. Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/leaderboard.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })

  // #region leaderboard
  interface Score { Params: { player: string, points: number } }
  const params = {
    type: 'object',
    properties: {
      player: { type: 'string', maxLength: 64 },
      points: { type: 'integer', minimum: 0, maximum: 1_000_000 }
    }
  }
  const KEY = 'game:leaderboard'   // without a TTL: the scores are stored nowhere else

  app.post<Score>('/scores/:player/:points', { schema: { params } }, async request => {
    const { player, points } = request.params
    return { score: Number(await app.redis.zincrby(KEY, points, player)) }   // adds to the score
  })
  app.put<Score>('/scores/:player/:points', { schema: { params } }, async request => {
    const { player, points } = request.params
    await app.redis.zadd(KEY, points, player)   // replaces the score
    return { score: points }
  })
  app.get('/top', async () => {
    const flat = await app.redis.zrange(KEY, '0', '9', 'REV', 'WITHSCORES')
    // Members and scores alternate.
    return Array.from({ length: flat.length / 2 }, (_, i) => {
      return { rank: i + 1, player: flat[2 * i], score: Number(flat[2 * i + 1]) }
    })
  })
  app.get<Score>('/scores/:player', async ({ params: { player } }, reply) => {
    // MULTI: the rank and the score are of the same moment.
    const results = await app.redis.multi().zrevrank(KEY, player).zscore(KEY, player).exec()
    const [rank, score] = results?.map(([error, value]) => {
      if (error) throw error
      return value
    }) ?? []
    if (rank == null) return await reply.code(404).send({ error: 'no such player' })
    return { rank: Number(rank) + 1, score: Number(score) }
  })
  // #endregion
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
