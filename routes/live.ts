import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type, type Static } from 'typebox'
import { answers, asDevice, Device, IdParams, Product, PRODUCT_COLUMNS, User } from './schemas.js'

// Shown on the page: short, so that one sees it free again.
const LIMITED = { groupId: 'limited', max: 20, timeWindow: 5000, keyGenerator: (request: FastifyRequest) => request.ip }
// Of the page itself, so that it does not use up what its visitor may ask of the shop.
const OWN = { groupId: 'live', max: 1200, timeWindow: '1 minute' }
// Never refused for pressure, as it is then that one wants to see what happens.
const ALWAYS = { pressureHandler: () => {} }

const Verdict = Type.Object({ allowed: Type.Boolean(), remaining: Type.Integer(), retryAfter: Type.Number() })
const SoldProduct = Type.Object({ ...Product.properties, sold: Type.Integer() })

/** What the live page asks for besides the shop's own routes. */
export const liveRoutes: FastifyPluginAsyncTypebox = async function liveRoutes (fastify) {
  const { cache, db, events, live, sessions } = fastify

  fastify.addHook('onRequest', async (_request: FastifyRequest, reply: FastifyReply) => { reply.header('x-instance', live.instance) })

  fastify.get('/live', {
    schema: { tags: ['live'], summary: 'What happens at all instances, as server-sent events' },
    config: { rateLimit: { max: 120, timeWindow: '1 minute' }, session: false, ...ALWAYS }
  }, async (request, reply) => {
    const hello = { kind: 'hello', limit: { max: LIMITED.max, window: LIMITED.timeWindow } } as const
    await events.sse(request, reply, { read: ({ signal } = {}) => live.watch(hello, signal) }, {
      event: ({ kind }) => kind,
      map: event => event.kind !== 'decision' ? event : event.who === request.ip ? { ...event, who: undefined } : undefined
    })
  })

  fastify.get('/live/products/:id', {
    schema: { tags: ['live'], summary: 'A product and how often it was sold, cached', params: IdParams, response: answers(SoldProduct) },
    config: { rateLimit: OWN, session: false, ...ALWAYS, cache: { ttl: '20s', staleWhileRevalidate: 0, tags: ({ params: { id } }) => [`product:${id}`, 'product:all'] } }
  }, async (request, reply) => {
    const [product] = await db.query<Static<typeof SoldProduct>>(
      `SELECT ${PRODUCT_COLUMNS}, (SELECT coalesce(sum(quantity), 0)::int FROM order_items WHERE product_id = id) AS sold FROM products WHERE id = $1`, [request.params.id])
    return product ?? reply.notFound('no such product')
  })

  fastify.post('/live/invalidate', {
    schema: {
      tags: ['live'],
      summary: 'Invalidate a tag of the shop',
      body: Type.Object({ tag: Type.String({ pattern: '^(?:products|product:\\d{1,9})$' }) }, { additionalProperties: false }),
      response: answers(Type.Object({ invalidated: Type.String() }))
    },
    config: { rateLimit: { max: 60, timeWindow: '1 minute' }, session: false, ...ALWAYS }
  }, async ({ body: { tag } }) => {
    await cache.invalidateTags([tag])
    return { invalidated: tag }
  })

  fastify.get('/limited', {
    schema: { tags: ['live'], summary: `At most ${LIMITED.max} requests of an address in any ${LIMITED.timeWindow / 1000} seconds`, response: answers(Verdict) },
    config: { rateLimit: LIMITED, session: false, ...ALWAYS }
  }, verdictOf)

  // Browsers write each 429 as an error to their console.
  fastify.get('/live/limited', {
    schema: { tags: ['live'], summary: 'The same limit, asked and counted, but told as 200', response: answers(Verdict) },
    config: { rateLimit: { ...LIMITED, dryRun: true }, session: false, ...ALWAYS }
  }, verdictOf)

  fastify.get('/live/session', {
    schema: {
      tags: ['live'],
      summary: 'Who is logged in, and where',
      response: answers(Type.Object({ user: Type.Union([User, Type.Null()]), devices: Type.Array(Device) }))
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

async function verdictOf ({ rateLimit }: FastifyRequest): Promise<Static<typeof Verdict>> {
  // Unknown while the store cannot be asked.
  const { allowed = true, remaining = LIMITED.max, retryAfter = 0 } = rateLimit ?? {}
  return { allowed, remaining, retryAfter }
}
