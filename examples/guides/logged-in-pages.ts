// Cached pages for users who are logged in by a session. Run it with `npx tsx examples/guides/logged-in-pages.ts`.
import { pathToFileURL } from 'node:url'
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import { cache, redis, session } from '../../plugins/index.js'
import type { Clock } from '../../plugins/testing/index.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
}

export const orders = new Map([['ann', ['teapot']], ['bob', ['kettle']]])
const teams = new Map([['ann', 'red'], ['bob', 'red'], ['eve', 'blue']])

async function requireLogin (request: FastifyRequest, reply: FastifyReply) {
  if (request.session.userId === undefined) return await reply.code(401).send({ error: 'log in first' })
}

export async function build ({ clock }: { clock?: Clock } = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'pages' })
  await app.register(
    session, { secret: process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters', clock }
  )
  await app.register(cache, { ttl: '5m', clock })

  // The same for all: `public` lets users with a session share the response with everyone.
  app.get('/products', { config: { cache: { public: true } } }, async () => ['teapot', 'kettle'])

  // One response for each user. The login is checked in a hook, so it is also checked before a stored response is sent.
  const ofUser = ({ session: { userId } }: FastifyRequest) => userId
  app.get('/orders', {
    preHandler: requireLogin,
    config: { cache: { private: ofUser, tags: ({ session: { userId } }) => [`orders:${userId}`] } }
  }, async ({ session: { userId = '' } }) => ({ user: userId, orders: orders.get(userId) ?? [] }))

  // One response for each team: any id may be the owner.
  app.get('/team', {
    preHandler: requireLogin,
    config: { cache: { private: ({ session: { userId = '' } }) => teams.get(userId) } }
  }, async ({ session: { userId = '' } }) => ({ team: teams.get(userId) }))

  // A successful POST invalidates all stored responses of its path, of all users. `cache: false` leaves that to the
  // handler.
  app.post<{ Body: { product: string } }>('/orders', {
    preHandler: requireLogin,
    config: { cache: false }
  }, async ({ session: { userId = '' }, body: { product } }) => {
    orders.set(userId, [...orders.get(userId) ?? [], product])
    await app.cache.invalidateTags([`orders:${userId}`])
    return { ordered: product }
  })
  app.post<{ Params: { user: string } }>('/login/:user', async request => {
    await request.login(request.params.user)
    return { welcome: request.params.user }
  })
  app.post('/logout', async request => {
    await request.logout()
    return { bye: true }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
