// Sets: the roles of a user (SADD, SISMEMBER), and the interests that two users share (SINTER). Run it with
// `REDIS_URL=redis://localhost:6379 npx tsx examples/techniques/sets.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis } from '../../plugins/index.js'
import type { RedisPluginOptions } from '../../plugins/redis/index.js'

export async function build (connection: RedisPluginOptions = { url: process.env['REDIS_URL'] }) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  await app.register(redis, { prefix: 'example', ...connection })

  // #region roles
  interface Role { Params: { user: string, role: string } }
  // Without a TTL: a role holds until it is removed.
  const rolesOf = (user: string) => `shop:roles:${user}`
  const url = '/users/:user/roles/:role'

  app.put<Role>(url, async ({ params: { user, role } }) => {
    return { added: await app.redis.sadd(rolesOf(user), role) === 1 }
  })
  app.delete<Role>(url, async ({ params: { user, role } }) => {
    return { removed: await app.redis.srem(rolesOf(user), role) === 1 }
  })
  app.get<Role>(url, async ({ params: { user, role } }, reply) => {
    const hasRole = await app.redis.sismember(rolesOf(user), role) === 1
    return hasRole ? { user, role } : await reply.code(403).send({ error: `${user} is no ${role}` })
  })
  // #endregion

  // #region interests
  interface Interest { Params: { user: string, other: string, interest: string } }
  // SINTER needs its keys in one slot of a Cluster. One slot for all users is fine for small sets,
  // and a hot spot for large ones.
  const interestsOf = (user: string) => `shop:{interests}:${user}`

  app.put<Interest>('/users/:user/interests/:interest', async ({ params: { user, interest } }) => {
    return { added: await app.redis.sadd(interestsOf(user), interest) === 1 }
  })
  app.get<Interest>('/users/:user/common/:other', async ({ params: { user, other } }) => {
    return (await app.redis.sinter(interestsOf(user), interestsOf(other))).sort()
  })
  // #endregion
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
