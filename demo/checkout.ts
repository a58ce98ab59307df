import type { Session } from 'fastify'
import fp from 'fastify-plugin'
import type { Query } from './query.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Makes one order of a cart, however often and at however many instances it is ordered at once.
     *
     * @throws 409 where there is not enough of something: then nothing is ordered
     */
    checkOut (userId: number, cart: Cart): Promise<Order>
    /** The order that a cart became. */
    orderOf (cartId: string): Promise<Order | undefined>
  }
}

type Cart = NonNullable<Session['cart']>

export interface Line extends Record<string, unknown> {
  productId: number
  quantity: number
  priceCents: number
}

export interface Order {
  orderId: number
  lines: Line[]
  totalCents: number
  /** False where the cart had been ordered before. */
  isNew: boolean
}

/** Orders: the rows, and what follows from them. */
export const checkout = fp(async function checkout (fastify) {
  const { cache, db, leaderboard, log, mails } = fastify

  async function place (query: Query, userId: number, cart: Cart): Promise<Order> {
    // Where another transaction has the same cart in hands, this waits for its end.
    const [created] = await query<{ id: number }>(
      'INSERT INTO orders (user_id, checkout_id) VALUES ($1, $2) ON CONFLICT (checkout_id) DO NOTHING RETURNING id', [userId, cart.id])
    if (created === undefined) return await placed(query, cart.id) ?? orderFrom(0, [], false)
    return orderFrom(created.id, await sell(query, created.id, cart), true)
  }

  async function placed (query: Query, cartId: string): Promise<Order | undefined> {
    const rows = await query<Line & { orderId: number }>(
      `SELECT order_id AS "orderId", product_id AS "productId", quantity, price_cents AS "priceCents"
       FROM order_items WHERE order_id = (SELECT id FROM orders WHERE checkout_id = $1)`, [cartId])
    return rows[0] && orderFrom(rows[0].orderId, rows, false)
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

  fastify.decorate('checkOut', async (userId, cart) => {
    const order = await db.transaction(async query => await place(query, userId, cart))
    if (order.isNew) {
      // After the commit, and not in the way of an order that stands: what is stale then ends with its ttl.
      await cache.invalidateTags(['products', 'orders', `user:${userId}`, ...order.lines.map(({ productId }) => `product:${productId}`)])
        .catch(error => log.warn({ reason: error.message }, 'orders: not invalidated'))
      await Promise.all(order.lines.map(({ productId, quantity }) => leaderboard.add(productId, quantity)))
      await mails.queue({ userId, orderId: order.orderId, totalCents: order.totalCents })
    }
    return order
  })
  fastify.decorate('orderOf', async cartId => await placed(db.query, cartId))
}, { name: 'demo/checkout', dependencies: ['demo/database', 'demo/leaderboard', 'demo/mails', 'fastify-redis-suite/cache'] })

function orderFrom (orderId: number, lines: Line[], isNew: boolean): Order {
  return { orderId, lines, totalCents: lines.reduce((sum, { quantity, priceCents }) => sum + quantity * priceCents, 0), isNew }
}
