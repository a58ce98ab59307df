// Log in, show the current user and sessions, revoke one of them, log out. Run it with `npx tsx examples/session.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { redis, session } from '../plugins/index.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
}

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(session, { secret: process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters' })

  app.post<{ Params: { user: string } }>('/login/:user', async request => {
    await request.login(request.params.user) // with a new id, which prevents session fixation
    return { welcome: request.params.user }
  })
  app.get('/me', async (request, reply) => {
    const { userId } = request.session
    if (userId === undefined) return await reply.code(401).send({ error: 'log in first' })
    return {
      userId, sessions: await app.sessions.list(userId, { current: app.sessions.handleOf(request.session.sessionId) })
    }
  })
  app.post('/logout', async request => {
    await request.logout()
    return { bye: true }
  })
  app.delete<{ Params: { handle: string } }>('/sessions/:handle', async (request, reply) => {
    const mine = await app.sessions.list(request.session.userId ?? 'nobody')
    if (!mine.some(({ handle }) => handle === request.params.handle)) {
      return await reply.code(404).send({ error: 'none of yours' })
    }
    return { ended: await app.sessions.destroy(request.params.handle) }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
