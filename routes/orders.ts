import { randomUUID } from 'node:crypto'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyInstance, Session } from 'fastify'
import { responses, idempotencyHeaders, LOGGED_IN, PlacedOrder } from './schemas.js'

type Cart = NonNullable<Session['cart']>
type Line = Awaited<ReturnType<FastifyInstance['checkOut']>>['lines'][number]

export const orders: FastifyPluginAsyncTypebox = async function orders (fastify) {
  fastify.post('/orders', {
    schema: {
      tags: ['orders'],
      summary: 'Order my cart; repeated requests place one order, and with an idempotency key they receive the ' +
        'same response',
      headers: idempotencyHeaders('order-of-today'),
      security: LOGGED_IN,
      response: responses(PlacedOrder, 'The order.', 401, 409)
    },
    config: { idempotency: true },
    // Before the idempotency plugin reads the key, because keys are scoped to a user.
    preHandler: async (request, reply) => {
      if (request.session.userId === undefined) return reply.unauthorized('log in first')
    }
  }, async (request, reply) => {
    const { userId, cart } = request.session
    if (cart === undefined || Object.keys(cart.quantities ?? {}).length === 0) {
      return reply.conflict('the cart is empty')
    }

    const { orderId, totalCents, lines } = await fastify.checkOut(Number(userId), cart)
    request.session.cart = withoutLines(cart, lines)
    return { orderId, totalCents }
  })
}

/** Returns a new cart with the items that were added while the order was placed; undefined if there are none. */
function withoutLines ({ quantities }: Cart, lines: Line[]): Cart | undefined {
  const ordered = new Map(lines.map(({ productId, quantity }) => [String(productId), quantity]))
  const left = Object.entries(quantities).map(([id, quantity]) =>
    [id, quantity - (ordered.get(id) ?? 0)] as const).filter(
    ([, quantity]) => quantity > 0
  )
  return left.length === 0 ? undefined : { id: randomUUID(), quantities: Object.fromEntries(left) }
}
