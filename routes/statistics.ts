import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type, type Static } from 'typebox'
import { answers, Paging } from './schemas.js'

const Seller = Type.Object({ productId: Type.Integer(), name: Type.String(), sold: Type.Integer() })
const Month = Type.Object({ month: Type.String(), category: Type.String(), orders: Type.Integer(), pieces: Type.Integer(), revenueCents: Type.Integer() })
const Views = Type.Object({
  items: Type.Array(Type.Object({ productId: Type.Integer(), name: Type.String(), views: Type.Integer() })),
  backlog: Type.Union([Type.Integer(), Type.Null()]),
  deadLetters: Type.Union([Type.Integer(), Type.Null()])
})

export const statistics: FastifyPluginAsyncTypebox = async function statistics (fastify) {
  const { cache, db, leaderboard, views } = fastify

  fastify.get('/leaderboard', {
    schema: { tags: ['statistics'], summary: 'Best sellers', querystring: Type.Object({ limit: Paging.limit }, { additionalProperties: false }), response: answers(Type.Array(Seller)) },
    config: { cache: { ttl: '5s', tags: ['orders', 'products'] } }
  }, async request => {
    const top = await leaderboard.top(request.query.limit)
    const names = await db.query<{ id: number, name: string }>('SELECT id, name FROM products WHERE id = ANY($1::int[])', [top.map(({ productId }) => productId)])
    const nameOf = new Map(names.map(({ id, name }) => [id, name]))
    return top.map(({ productId, sold }) => ({ productId, sold, name: nameOf.get(productId) ?? '' }))
  })

  fastify.get('/reports/sales', {
    schema: { tags: ['statistics'], summary: 'Sales by month and category: an expensive one, made once for all instances', response: answers(Type.Array(Month)) }
  // The data, and not the page: whoever else wants it has it too. While the database is gone an old report is better than none.
  }, async () => await cache.getOrSet('report:sales', salesByMonth, { ttl: '1m', staleWhileRevalidate: '10m', staleIfError: '1h', tags: ['orders', 'products'] }))

  // Sums outgrow an integer; float8 arrives as a number and is exact to 2^53.
  async function salesByMonth (): Promise<Array<Static<typeof Month>>> {
    return await db.query<Static<typeof Month>>(
      `SELECT to_char(date_trunc('month', o.created_at), 'YYYY-MM') AS month, p.category, count(DISTINCT o.id)::int AS orders,
         sum(i.quantity)::float8 AS pieces, sum(i.quantity::bigint * i.price_cents)::float8 AS "revenueCents"
       FROM orders o JOIN order_items i ON i.order_id = o.id JOIN products p ON p.id = i.product_id
       GROUP BY 1, 2 ORDER BY 1 DESC, 2`)
  }

  fastify.get('/reports/views', {
    schema: {
      tags: ['statistics'],
      summary: 'Most viewed products, and how many views wait to be written',
      querystring: Type.Object({ limit: Paging.limit }, { additionalProperties: false }),
      response: answers(Views)
    }
  }, async request => {
    const [items, waiting] = await Promise.all([views.top(request.query.limit), views.stats()])
    return { items, ...waiting }
  })
}
