import type { Session } from 'fastify'
import fp from 'fastify-plugin'
import type { Query } from './query.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Places the order of a cart. Concurrent and repeated calls, on any instance, place one order.
     *
     * @throws 409 if a product is out of stock: nothing is ordered
     */
    checkOut (userId: number, cart: Cart): Promise<Order>
    /** Returns the order of a cart, if it was placed. */
    orderOf (cartId: string): Promise<Order | undefined>
  }
}

type Cart = NonNullable<Session['cart']>

export interface OrderLine extends Record<string, unknown> {
  productId: number
  quantity: number
  priceCents: number
}

export interface Order {
  orderId: number
  lines: OrderLine[]
  totalCents: number
  /** False if the cart had been ordered before. */
  isNew: boolean
}

/** Places orders: writes their rows, invalidates the cache, updates the leaderboard and queues a mail. */
export const checkout = fp(async function checkout (fastify) {
  const { cache, db, leaderboard, log, mails } = fastify

  async function place (query: Query, userId: number, cart: Cart): Promise<Order> {
    // Waits for another transaction that orders the same cart.
    const [created] = await query<{ id: number }>(
      'INSERT INTO orders (user_id, checkout_id) VALUES ($1, $2) ON CONFLICT (checkout_id) DO NOTHING RETURNING id', [
        userId, cart.id
      ])
    if (created === undefined) return await readOrder(query, cart.id) ?? toOrder(0, [], false)
    return toOrder(created.id, await sell(query, created.id, cart), true)
  }

  async function readOrder (query: Query, cartId: string): Promise<Order | undefined> {
    const rows = await query<OrderLine & { orderId: number }>(
      `SELECT order_id AS "orderId", product_id AS "productId", quantity, price_cents AS "priceCents"
       FROM order_items WHERE order_id = (SELECT id FROM orders WHERE checkout_id = $1)`, [cartId])
    return rows[0] && toOrder(rows[0].orderId, rows, false)
  }

  async function sell (query: Query, orderId: number, { quantities }: Cart): Promise<OrderLine[]> {
    const lines: OrderLine[] = []
    // Sorted, so that two orders of the same products cannot deadlock.
    const wanted = Object.entries(quantities).map(([id, quantity]) =>
      [Number(id), quantity] as const).sort(([a], [b]) => a - b)
    for (const [productId, quantity] of wanted) {
      const [sold] = await query<{ priceCents: number }>(
        'UPDATE products SET stock = stock - $2 WHERE id = $1 AND stock >= $2 RETURNING price_cents AS "priceCents"', [
          productId, quantity
        ])
      if (sold === undefined) throw fastify.httpErrors.conflict(`not enough of product ${productId}`)
      await query('INSERT INTO order_items VALUES ($1, $2, $3, $4)', [orderId, productId, quantity, sold.priceCents])
      lines.push({ productId, quantity, priceCents: sold.priceCents })
    }
    return lines
  }

  fastify.decorate('checkOut', async (userId, cart) => {
    const order = await db.transaction(async query => await place(query, userId, cart))
    if (order.isNew) {
      // After the commit, so a failure does not undo the order: stale entries expire with their TTL.
      await cache.invalidateTags(
        ['products', 'orders', `user:${userId}`, ...order.lines.map(({ productId }) => `product:${productId}`)]
      )
        .catch(error => log.warn({ reason: error.message }, 'orders: not invalidated'))
      await Promise.all(order.lines.map(({ productId, quantity }) => leaderboard.add(productId, quantity)))
      await mails.queue({ userId, orderId: order.orderId, totalCents: order.totalCents })
    }
    return order
  })
  fastify.decorate('orderOf', async cartId => await readOrder(db.query, cartId))
}, {
  name: 'demo/checkout', dependencies: ['demo/database', 'demo/leaderboard', 'demo/mails', 'fastify-redis-suite/cache']
})

function toOrder (orderId: number, lines: OrderLine[], isNew: boolean): Order {
  return {
    orderId, lines, totalCents: lines.reduce((sum, { quantity, priceCents }) => sum + quantity * priceCents, 0), isNew
  }
}
