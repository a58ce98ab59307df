import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type, type Static } from 'typebox'
import { document } from './document.js'
import { ALWAYS, OWN } from './live-config.js'
import { parcels } from './parcels.js'
import { payments } from './payments.js'
import { views } from './views.js'
import { responses, asDevice, Device, IdParams, Product, PRODUCT_COLUMNS, User } from './schemas.js'

// The page shows this limit: its window is short, so that a visitor sees it reset.
const LIMITED = { groupId: 'limited', max: 20, timeWindow: 5000, keyGenerator: (request: FastifyRequest) => request.ip }
const Decision = Type.Object({ allowed: Type.Boolean(), remaining: Type.Integer(), retryAfter: Type.Number() })
const SoldProduct = Type.Object({ ...Product.properties, sold: Type.Integer() })

/** The routes of the live page. */
export const liveRoutes: FastifyPluginAsyncTypebox = async function liveRoutes (fastify) {
  const { cache, db, events, live, sessions } = fastify

  fastify.addHook(
    'onRequest', async (_request: FastifyRequest, reply: FastifyReply) => { reply.header('x-instance', live.instance) }
  )
  for (const panel of [document, payments, parcels, views]) await fastify.register(panel)

  fastify.get('/live', {
    schema: {
      tags: ['live'],
      summary: 'The events of all instances, as server-sent events',
      response: {
        200: {
          description: 'The events, until the client closes the connection.',
          content: { 'text/event-stream': { schema: Type.String() } }
        }
      }
    },
    config: { rateLimit: { max: 120, timeWindow: '1 minute' }, session: false, ...ALWAYS }
  }, async (request, reply) => {
    const hello = {
      kind: 'hello',
      isBreakable: fastify.hasDecorator('ownRedis'),
      limit: { max: LIMITED.max, window: LIMITED.timeWindow }
    } as const
    await events.sse(request, reply, { read: ({ signal } = {}) => live.watch(hello, signal) }, {
      event: ({ kind }) => kind,
      map: event =>
        event.kind !== 'decision' ? event : event.address === request.ip ? { ...event, address: undefined } : undefined
    })
  })

  fastify.get('/live/products/:id', {
    schema: {
      tags: ['live'],
      summary: 'A product with its sales, cached',
      params: IdParams,
      response: responses(SoldProduct, 'The product.', 404)
    },
    config: {
      rateLimit: OWN,
      session: false,
      ...ALWAYS,
      cache: { ttl: '20s', staleWhileRevalidate: 0, tags: ({ params: { id } }) => [`product:${id}`, 'product:all'] }
    }
  }, async (request, reply) => {
    const [product] = await db.query<Static<typeof SoldProduct>>(
      `SELECT ${PRODUCT_COLUMNS}, (SELECT coalesce(sum(quantity), 0)::int FROM order_items WHERE product_id = id) AS sold FROM products WHERE id = $1`, [request.params.id])
    return product ?? reply.notFound('no such product')
  })

  fastify.post('/live/invalidate', {
    schema: {
      tags: ['live'],
      summary: 'Invalidate a tag of the shop',
      body: Type.Object(
        { tag: Type.String({ pattern: '^(?:products|product:\\d{1,9})$' }) },
        { additionalProperties: false, examples: [{ tag: 'product:1' }] }
      ),
      response: responses(Type.Object({ invalidated: Type.String() }), 'The tag is invalidated on all instances.')
    },
    config: { rateLimit: { max: 60, timeWindow: '1 minute' }, session: false, ...ALWAYS }
  }, async ({ body: { tag } }) => {
    await cache.invalidateTags([tag])
    return { invalidated: tag }
  })

  fastify.get('/limited', {
    schema: {
      tags: ['live'],
      summary: `At most ${LIMITED.max} requests per address in any ${LIMITED.timeWindow / 1000} seconds`,
      response: responses(Decision, 'The request is allowed.')
    },
    config: { rateLimit: LIMITED, session: false, ...ALWAYS }
  }, decisionOf)

  // Browsers log each 429 as an error to their console.
  fastify.get('/live/limited', {
    schema: {
      tags: ['live'],
      summary: 'The same limit; requests over it count, but receive 200',
      response: responses(Decision, 'The decision.')
    },
    config: { rateLimit: { ...LIMITED, dryRun: true }, session: false, ...ALWAYS }
  }, decisionOf)

  fastify.get('/live/session', {
    schema: {
      tags: ['live'],
      summary: 'The current user, with all sessions',
      response: responses(
        Type.Object({ user: Type.Union([User, Type.Null()]), devices: Type.Array(Device) }),
        'The user; `null` without a login.'
      )
    },
    config: { rateLimit: OWN, ...ALWAYS }
  }, async ({ session: { userId, sessionId } }) => {
    if (userId === undefined) return { user: null, devices: [] }
    const [[user], list] = await Promise.all([
      db.query<Static<typeof User>>('SELECT id, email, name FROM users WHERE id = $1', [Number(userId)]),
      sessions.list(userId, { current: sessions.handleOf(sessionId) })
    ])
    return { user: user ?? null, devices: list.map(asDevice) }
  })
}

async function decisionOf ({ rateLimit }: FastifyRequest): Promise<Static<typeof Decision>> {
  // Unknown while the store is unavailable.
  const { allowed = true, remaining = LIMITED.max, retryAfter = 0 } = rateLimit ?? {}
  return { allowed, remaining, retryAfter }
}
