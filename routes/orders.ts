import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { answers } from './schemas.js'

export const orders: FastifyPluginAsyncTypebox = async function orders (fastify) {
  const { db, cache, leaderboard } = fastify

  fastify.post('/orders', {
    schema: {
      tags: ['orders'],
      summary: 'Order what is in my cart',
      response: answers(Type.Object({ orderId: Type.Integer(), totalCents: Type.Integer() }))
    }
  }, async (request, reply) => {
    const { userId, cart = {} } = request.session
    if (userId === undefined) return reply.unauthorized('log in first')
    // In one order for all, so that two orders of the same products cannot wait for each other.
    const lines = Object.entries(cart).map(([id, quantity]) => [Number(id), quantity] as const).sort(([a], [b]) => a - b)
    if (lines.length === 0) return reply.conflict('the cart is empty')

    const order = await db.transaction(async query => {
      const [created] = await query<{ id: number }>('INSERT INTO orders (user_id) VALUES ($1) RETURNING id', [Number(userId)])
      const orderId = created?.id ?? 0
      let totalCents = 0
      for (const [productId, quantity] of lines) {
        const [sold] = await query<{ priceCents: number }>(
          'UPDATE products SET stock = stock - $2 WHERE id = $1 AND stock >= $2 RETURNING price_cents AS "priceCents"', [productId, quantity])
        if (sold === undefined) throw fastify.httpErrors.conflict(`not enough of product ${productId}`)
        await query('INSERT INTO order_items VALUES ($1, $2, $3, $4)', [orderId, productId, quantity, sold.priceCents])
        totalCents += quantity * sold.priceCents
      }
      return { orderId, totalCents }
    })

    request.session.cart = {}
    // After the commit, and not in the way of an order that stands: what is stale then ends with its ttl.
    await cache.invalidateTags(['products', 'orders', `user:${userId}`, ...lines.map(([id]) => `product:${id}`)])
      .catch(error => request.log.warn({ reason: error.message }, 'orders: not invalidated'))
    await Promise.all(lines.map(([id, quantity]) => leaderboard.add(id, quantity)))
    return order
  })
}
