import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type, type Static } from 'typebox'
import { responses, asDevice, Device, LOGGED_IN, Paging, Text, User } from './schemas.js'

const Profile = Type.Object({ ...User.properties, orders: Type.Integer() })
const Mail = Type.Object({
  orderId: Type.Integer(), subject: Type.String(), sentAt: Type.String({ format: 'date-time' })
})

/** The current user's profile, mails and sessions. Every route requires a login. */
export const me: FastifyPluginAsyncTypebox = async function me (fastify) {
  const { cache, changes, db, live, mails, sessions } = fastify
  const profiles = cache.withPrefix('profile', { ttl: '5m', staleWhileRevalidate: 0 })

  fastify.addHook('preHandler', async (request: FastifyRequest, reply: FastifyReply) => {
    if (request.session.userId === undefined) return reply.unauthorized('log in first')
  })
  const userOf = (request: FastifyRequest) => Number(request.session.userId)
  const tagsOf = (id: number) => [`user:${id}`, 'user:all']

  async function profileOf (id: number): Promise<Static<typeof User> | undefined> {
    return await profiles.getOrSet(String(id), async () => {
      const [user] = await db.query<Static<typeof User>>('SELECT id, email, name FROM users WHERE id = $1', [id])
      return user
    }, { tags: tagsOf(id) })
  }

  fastify.get('/me', {
    schema: {
      tags: ['me'],
      summary: 'My profile',
      security: LOGGED_IN,
      response: responses(Profile, 'The profile, cached for its user alone.', 401)
    },
    config: {
      cache: {
        ttl: '1m',
        private: request => request.session.userId,
        tags: request => [...tagsOf(userOf(request)), `page:user:${userOf(request)}`]
      }
    }
  }, async (request, reply) => {
    const id = userOf(request)
    const [user, [counted]] = await Promise.all(
      [
        profileOf(id),
        db.query<{ orders: number }>('SELECT count(*)::int AS orders FROM orders WHERE user_id = $1', [id])
      ]
    )
    return user === undefined ? reply.notFound('no such user') : { ...user, orders: counted?.orders ?? 0 }
  })

  fastify.patch('/me', {
    schema: {
      tags: ['me'],
      summary: 'Change my name',
      body: Type.Object(
        { name: Text({ minLength: 1, maxLength: 100 }) }, { additionalProperties: false, examples: [{ name: 'Ada' }] }
      ),
      security: LOGGED_IN,
      response: responses(Type.Object({ name: Type.String() }), 'The new name.', 401)
    }
  }, async (request, reply) => {
    const id = userOf(request)
    const user = await profileOf(id)
    if (user === undefined) return reply.notFound('no such user')
    const { name } = await profiles.writeThrough(String(id), {
      ...user, name: request.body.name
    }, async ({ name }) => await changes.writeRow(`user:${id}`, async query => {
      const [updated] = await query<Static<typeof User>>(
        'UPDATE users SET name = $2 WHERE id = $1 RETURNING id, email, name', [id, name]
      )
      return updated ?? Promise.reject(fastify.httpErrors.notFound('no such user'))
    }), { tags: tagsOf(id), invalidates: [`page:user:${id}`] })
    return { name }
  })

  fastify.get('/me/mails', {
    schema: {
      tags: ['me'],
      summary: 'My mails, newest first',
      querystring: Type.Object({ limit: Paging.limit }, { additionalProperties: false }),
      security: LOGGED_IN,
      response: responses(Type.Array(Mail), 'The mails.', 401)
    }
  }, async request => await mails.of(userOf(request), request.query.limit))

  fastify.get('/me/sessions', {
    schema: {
      tags: ['me'],
      summary: 'My sessions',
      security: LOGGED_IN,
      response: responses(Type.Array(Device), 'The sessions, the latest first.', 401)
    }
  }, async request => {
    const list = await sessions.list(userOf(request), { current: sessions.handleOf(request.session.sessionId) })
    return list.map(asDevice)
  })

  fastify.delete('/me/sessions/:handle', {
    schema: {
      tags: ['me'],
      summary: 'Log out one of my devices',
      params: Type.Object(
        { handle: Type.String({ pattern: '^[\\w-]{22}$', description: 'A handle from `GET /me/sessions`' }) }
      ),
      security: LOGGED_IN,
      response: responses(Type.Object({ ended: Type.Integer() }), 'The session has ended.', 401, 404)
    }
  }, async (request, reply) => {
    const own = await sessions.list(userOf(request))
    if (!own.some(({ handle }) => handle === request.params.handle)) return reply.notFound('no such session')
    await sessions.destroy(request.params.handle)
    live.publish({ kind: 'session', what: 'revoke', user: String(userOf(request)) })
    return { ended: 1 }
  })

  fastify.delete('/me/sessions', {
    schema: {
      tags: ['me'],
      summary: 'Log out everywhere else',
      security: LOGGED_IN,
      response: responses(Type.Object({ ended: Type.Integer() }), 'How many sessions have ended.', 401)
    }
  }, async request => {
    const ended = await sessions.destroyAll(userOf(request), { except: sessions.handleOf(request.session.sessionId) })
    live.publish({ kind: 'session', what: 'revoke', user: String(userOf(request)) })
    return { ended }
  })
}
