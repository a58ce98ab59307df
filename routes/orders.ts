import { randomUUID } from 'node:crypto'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyInstance, Session } from 'fastify'
import { Type } from 'typebox'
import { answers } from './schemas.js'

type Cart = NonNullable<Session['cart']>
type Query = FastifyInstance['db']['query']

interface Line extends Record<string, unknown> {
  productId: number
  quantity: number
  priceCents: number
}

interface Order {
  orderId: number
  lines: Line[]
  /** False where the cart had been ordered before. */
  isNew: boolean
}

export const orders: FastifyPluginAsyncTypebox = async function orders (fastify) {
  const { db, cache, leaderboard } = fastify

  /** A cart becomes one order, however often and at however many instances it is ordered at once. */
  async function checkOut (query: Query, userId: number, cart: Cart): Promise<Order> {
    // Where another transaction has the same cart in hands, this waits for its end.
    const [created] = await query<{ id: number }>(
      'INSERT INTO orders (user_id, checkout_id) VALUES ($1, $2) ON CONFLICT (checkout_id) DO NOTHING RETURNING id', [userId, cart.id])
    if (created === undefined) return await placedOrder(query, cart.id)
    return { orderId: created.id, lines: await sell(query, created.id, cart), isNew: true }
  }

  async function placedOrder (query: Query, checkoutId: string): Promise<Order> {
    const lines = await query<Line & { orderId: number }>(
      `SELECT order_id AS "orderId", product_id AS "productId", quantity, price_cents AS "priceCents"
       FROM order_items WHERE order_id = (SELECT id FROM orders WHERE checkout_id = $1)`, [checkoutId])
    return { orderId: lines[0]?.orderId ?? 0, lines, isNew: false }
  }

  async function sell (query: Query, orderId: number, { quantities }: Cart): Promise<Line[]> {
    const lines: Line[] = []
    // In one order for all, so that two orders of the same products cannot wait for each other.
    const wanted = Object.entries(quantities).map(([id, quantity]) => [Number(id), quantity] as const).sort(([a], [b]) => a - b)
    for (const [productId, quantity] of wanted) {
      const [sold] = await query<{ priceCents: number }>(
        'UPDATE products SET stock = stock - $2 WHERE id = $1 AND stock >= $2 RETURNING price_cents AS "priceCents"', [productId, quantity])
      if (sold === undefined) throw fastify.httpErrors.conflict(`not enough of product ${productId}`)
      await query('INSERT INTO order_items VALUES ($1, $2, $3, $4)', [orderId, productId, quantity, sold.priceCents])
      lines.push({ productId, quantity, priceCents: sold.priceCents })
    }
    return lines
  }

  fastify.post('/orders', {
    schema: {
      tags: ['orders'],
      summary: 'Order what is in my cart; said twice at once, it is still one order',
      response: answers(Type.Object({ orderId: Type.Integer(), totalCents: Type.Integer() }))
    }
  }, async (request, reply) => {
    const { userId, cart } = request.session
    if (userId === undefined) return reply.unauthorized('log in first')
    if (cart === undefined || Object.keys(cart.quantities ?? {}).length === 0) return reply.conflict('the cart is empty')

    const { orderId, lines, isNew } = await db.transaction(async query => await checkOut(query, Number(userId), cart))
    request.session.cart = withoutLines(cart, lines)
    if (isNew) {
      // After the commit, and not in the way of an order that stands: what is stale then ends with its ttl.
      await cache.invalidateTags(['products', 'orders', `user:${userId}`, ...lines.map(({ productId }) => `product:${productId}`)])
        .catch(error => request.log.warn({ reason: error.message }, 'orders: not invalidated'))
      await Promise.all(lines.map(({ productId, quantity }) => leaderboard.add(productId, quantity)))
    }
    return { orderId, totalCents: lines.reduce((sum, { quantity, priceCents }) => sum + quantity * priceCents, 0) }
  })
}

/** What came into the cart while it was being ordered is in no order yet: it stays, as a cart of its own. */
function withoutLines ({ quantities }: Cart, lines: Line[]): Cart | undefined {
  const ordered = new Map(lines.map(({ productId, quantity }) => [String(productId), quantity]))
  const left = Object.entries(quantities).map(([id, quantity]) => [id, quantity - (ordered.get(id) ?? 0)] as const).filter(([, quantity]) => quantity > 0)
  return left.length === 0 ? undefined : { id: randomUUID(), quantities: Object.fromEntries(left) }
}
