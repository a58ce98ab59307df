import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { responses, Text } from './schemas.js'

declare module 'fastify' {
  interface Session {
    userId?: string
    isAdmin?: boolean
    cart?: {
      /**
       * Generated with the first item: a cart is ordered once. In one property with the quantities, because sessions
       * merge by property.
       */
      id: string
      /** The number of pieces by product id. */
      quantities: Record<string, number>
    }
  }
}

const FAILED_BY_ADDRESS = { name: 'failed-logins-by-address', max: 20, timeWindow: '15 minutes' }
const FAILED_BY_ACCOUNT = { name: 'failed-logins-by-account', max: 5, timeWindow: '15 minutes' }

export const login: FastifyPluginAsyncTypebox = async function login (fastify) {
  const { db, live, rateLimiter } = fastify

  fastify.post('/login', {
    schema: {
      tags: ['session'],
      summary: 'Log in',
      description: 'The demo users are user1@example.com to user1000@example.com and admin@example.com, all with ' +
        'the password demo-password.',
      body: Type.Object({ email: Text({ minLength: 3, maxLength: 200 }), password: Type.String({ maxLength: 200 }) }, {
        additionalProperties: false,
        'x-examples': {
          user: { summary: 'a user', value: { email: 'user1@example.com', password: 'demo-password' } },
          admin: { summary: 'the admin', value: { email: 'admin@example.com', password: 'demo-password' } }
        }
      }),
      response: responses(
        Type.Object({ userId: Type.Integer(), name: Type.String() }), 'The user; `Set-Cookie` starts the session.', 401
      )
    }
  }, async (request, reply) => {
    const email = request.body.email.trim().toLowerCase()
    // Consumed before the password is verified, so that concurrent guesses cannot exceed the limit; refunded if it is
    // right.
    const charges = await Promise.all([
      rateLimiter.consume(request.ip, FAILED_BY_ADDRESS),
      rateLimiter.consume(email, FAILED_BY_ACCOUNT)
    ])
    const [byAddress, byAccount] = charges
    const refused = charges.find(charge => !charge.allowed)
    if (refused) {
      reply.header('retry-after', Math.ceil(refused.retryAfter / 1000))
      return reply.tooManyRequests('too many failed logins')
    }

    const [user] = await db.query<{ id: number, name: string, hash: string, isAdmin: boolean }>(
      'SELECT id, name, password_hash AS hash, is_admin AS "isAdmin" FROM users WHERE email = $1', [email])
    if (!await fastify.verifyPassword(request.body.password, user?.hash) || user === undefined) {
      return reply.unauthorized('wrong email or password')
    }

    await Promise.all([
      rateLimiter.refund(request.ip, FAILED_BY_ADDRESS, byAddress),
      rateLimiter.refund(email, FAILED_BY_ACCOUNT, byAccount)
    ])
    // The session gets a new id, which prevents session fixation, and keeps the cart.
    await request.login(String(user.id), { keep: ['cart'], set: { isAdmin: user.isAdmin } })
    live.publish({ kind: 'session', what: 'login', user: String(user.id) })
    return { userId: user.id, name: user.name }
  })

  fastify.post('/logout', {
    schema: {
      tags: ['session'],
      summary: 'Log out',
      response: responses(Type.Object({ loggedOut: Type.Boolean() }), 'The session has ended, if there was one.')
    }
  }, async request => {
    const { userId } = request.session
    await request.logout()
    if (userId !== undefined) live.publish({ kind: 'session', what: 'logout', user: userId })
    return { loggedOut: true }
  })
}
