import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type, type Static } from 'typebox'
import { answers, Text } from './schemas.js'

const Profile = Type.Object({ id: Type.Integer(), email: Type.String(), name: Type.String(), orders: Type.Integer() })
const Device = Type.Object({ handle: Type.String(), createdAt: Type.String(), lastSeenAt: Type.String(), current: Type.Boolean() })

/** All of it wants a login. */
export const me: FastifyPluginAsyncTypebox = async function me (fastify) {
  const { db, sessions } = fastify

  fastify.addHook('preHandler', async (request: FastifyRequest, reply: FastifyReply) => {
    if (request.session.userId === undefined) return reply.unauthorized('log in first')
  })
  const userOf = (request: FastifyRequest) => Number(request.session.userId)

  fastify.get('/me', {
    schema: { tags: ['me'], summary: 'My profile', response: answers(Profile) },
    config: { cache: { ttl: '1m', private: request => request.session.userId, tags: request => [`user:${request.session.userId}`, 'user:all'] } }
  }, async (request, reply) => {
    const [profile] = await db.query<Static<typeof Profile>>(
      `SELECT u.id, u.email, u.name, count(o.id)::int AS orders FROM users u LEFT JOIN orders o ON o.user_id = u.id
       WHERE u.id = $1 GROUP BY u.id`, [userOf(request)])
    return profile ?? reply.notFound('no such user')
  })

  fastify.patch('/me', {
    schema: {
      tags: ['me'],
      summary: 'Change my name',
      body: Type.Object({ name: Text({ minLength: 1, maxLength: 100 }) }, { additionalProperties: false }),
      response: answers(Type.Object({ name: Type.String() }))
    },
    config: { cache: { invalidates: request => [`user:${request.session.userId}`] } }
  }, async request => {
    await db.query('UPDATE users SET name = $2 WHERE id = $1', [userOf(request), request.body.name])
    return { name: request.body.name }
  })

  fastify.get('/me/sessions', {
    schema: { tags: ['me'], summary: 'Where I am logged in', response: answers(Type.Array(Device)) }
  }, async request => {
    const current = sessions.handleOf(request.session.sessionId)
    return (await sessions.list(userOf(request))).map(({ handle, createdAt, lastSeenAt }) => ({
      handle, createdAt: new Date(createdAt).toISOString(), lastSeenAt: new Date(lastSeenAt).toISOString(), current: handle === current
    }))
  })

  fastify.delete('/me/sessions/:handle', {
    schema: {
      tags: ['me'],
      summary: 'Log out one of my devices',
      params: Type.Object({ handle: Type.String({ pattern: '^[\\w-]{43}$' }) }),
      response: answers(Type.Object({ ended: Type.Integer() }))
    }
  }, async (request, reply) => {
    const mine = await sessions.list(userOf(request))
    if (!mine.some(({ handle }) => handle === request.params.handle)) return reply.notFound('no such session')
    await sessions.destroy(request.params.handle)
    return { ended: 1 }
  })

  fastify.delete('/me/sessions', {
    schema: { tags: ['me'], summary: 'Log out everywhere else', response: answers(Type.Object({ ended: Type.Integer() })) }
  }, async request => ({
    ended: await sessions.destroyAll(userOf(request), { except: sessions.handleOf(request.session.sessionId) })
  }))
}
