// Hashes: a profile whose fields are read and written one by one (HSET, HGETALL, HINCRBY, HDEL). Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/hashes.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })

  // #region profile
  interface Profile { Params: { id: string, field: 'name' | 'city' | 'phone' }, Body: Record<string, string> }
  const text = { type: 'string', maxLength: 200 }
  const body = {
    type: 'object',
    additionalProperties: false,
    minProperties: 1,
    properties: { name: text, city: text, phone: text }
  }
  const params = { type: 'object', properties: { field: { enum: ['name', 'city', 'phone'] } } }
  // Without a TTL: the profile is stored nowhere else.
  const keyOf = (id: string) => `shop:profile:${id}`

  // Two requests that change different fields do not overwrite each other.
  app.patch<Profile>('/users/:id', { schema: { body } }, async ({ params: { id }, body }) => {
    await app.redis.hset(keyOf(id), body)
    return await app.redis.hgetall(keyOf(id))
  })
  app.get<Profile>('/users/:id', async ({ params: { id } }, reply) => {
    const profile = await app.redis.hgetall(keyOf(id))
    // A key that does not exist is an empty hash.
    if (Object.keys(profile).length === 0) return await reply.code(404).send({ error: 'no such user' })
    return profile
  })
  app.post<Profile>('/users/:id/logins', async ({ params: { id } }) => {
    return { logins: await app.redis.hincrby(keyOf(id), 'logins', 1) }
  })
  app.delete<Profile>('/users/:id/:field', { schema: { params } }, async request => {
    const { id, field } = request.params
    return { deleted: await app.redis.hdel(keyOf(id), field) === 1 }
  })
  // #endregion
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
