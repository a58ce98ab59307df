import { randomUUID } from 'node:crypto'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyInstance, Session } from 'fastify'
import { answers, IdempotencyHeaders, PlacedOrder } from './schemas.js'

type Cart = NonNullable<Session['cart']>
type Line = Awaited<ReturnType<FastifyInstance['checkOut']>>['lines'][number]

export const orders: FastifyPluginAsyncTypebox = async function orders (fastify) {
  fastify.post('/orders', {
    schema: {
      tags: ['orders'],
      summary: 'Order what is in my cart; said twice at once, it is still one order, and with a key it has the same answer later as well',
      headers: IdempotencyHeaders,
      response: answers(PlacedOrder)
    },
    config: { idempotency: true },
    // Before the key is looked up, as a key belongs to a user.
    preHandler: async (request, reply) => { if (request.session.userId === undefined) return reply.unauthorized('log in first') }
  }, async (request, reply) => {
    const { userId, cart } = request.session
    if (cart === undefined || Object.keys(cart.quantities ?? {}).length === 0) return reply.conflict('the cart is empty')

    const { orderId, totalCents, lines } = await fastify.checkOut(Number(userId), cart)
    request.session.cart = withoutLines(cart, lines)
    return { orderId, totalCents }
  })
}

/** What came into the cart while it was being ordered is in no order yet: it stays, as a cart of its own. */
function withoutLines ({ quantities }: Cart, lines: Line[]): Cart | undefined {
  const ordered = new Map(lines.map(({ productId, quantity }) => [String(productId), quantity]))
  const left = Object.entries(quantities).map(([id, quantity]) => [id, quantity - (ordered.get(id) ?? 0)] as const).filter(([, quantity]) => quantity > 0)
  return left.length === 0 ? undefined : { id: randomUUID(), quantities: Object.fromEntries(left) }
}
