import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type, type Static } from 'typebox'
import { responses, Id, Paging, Whole } from './schemas.js'

const Seller = Type.Object({ productId: Type.Integer(), name: Type.String(), sold: Type.Integer() })
const Ranked = Type.Object({ rank: Type.Integer(), ...Seller.properties })
const Month = Type.Object({
  month: Type.String(),
  category: Type.String(),
  orders: Type.Integer(),
  pieces: Type.Integer(),
  revenueCents: Type.Integer()
})
const Views = Type.Object({
  items: Type.Array(Type.Object({ productId: Type.Integer(), name: Type.String(), views: Type.Integer() })),
  backlog: Type.Union([Type.Integer(), Type.Null()]),
  deadLetters: Type.Union([Type.Integer(), Type.Null()])
})
const Visitors = Type.Object({
  today: Type.Union([Type.Integer(), Type.Null()]), lastSevenDays: Type.Union([Type.Integer(), Type.Null()])
})

export const statistics: FastifyPluginAsyncTypebox = async function statistics (fastify) {
  const { cache, db, leaderboard, views, visitors } = fastify

  async function withNames <T extends { productId: number }> (list: T[]): Promise<Array<T & { name: string }>> {
    const names = await db.query<{ id: number, name: string }>(
      'SELECT id, name FROM products WHERE id = ANY($1::int[])', [list.map(({ productId }) => productId)]
    )
    const nameOf = new Map(names.map(({ id, name }) => [id, name]))
    return list.map(each => ({ ...each, name: nameOf.get(each.productId) ?? '' }))
  }

  fastify.get('/leaderboard', {
    schema: {
      tags: ['statistics'],
      summary: 'Best sellers',
      querystring: Type.Object({ limit: Paging.limit }, { additionalProperties: false }),
      response: responses(Type.Array(Seller), 'The best sellers, cached for 5 s.')
    },
    config: { cache: { ttl: '5s', public: true, tags: ['orders', 'products'] } }
  }, async request => await withNames(await leaderboard.top(request.query.limit)))

  fastify.get('/leaderboard/:productId', {
    schema: {
      tags: ['statistics'],
      summary: "A product's rank among the best sellers, with its neighbours",
      params: Type.Object({ productId: Id }),
      querystring: Type.Object(
        { neighbours: Whole({ minimum: 0, maximum: 50, default: 2 }) }, { additionalProperties: false }
      ),
      response: responses(
        Type.Object({ ...Ranked.properties, around: Type.Array(Ranked) }), 'The rank, and the ranks around it.', 404
      )
    },
    config: { cache: { ttl: '5s', public: true, tags: ['orders', 'products'] } }
  }, async ({ params: { productId }, query: { neighbours } }, reply) => {
    const around = await withNames(await leaderboard.around(productId, neighbours))
    const own = around.find(each => each.productId === productId)
    return own === undefined ? reply.notFound('not sold yet') : { ...own, around }
  })

  fastify.get('/statistics/visitors', {
    schema: {
      tags: ['statistics'],
      summary: 'The number of different visitors',
      response: responses(Visitors, 'The visitors; `null` while Redis is unavailable.')
    }
  }, async () => {
    const [today, lastSevenDays] = await Promise.all([visitors.count(1), visitors.count(7)])
    return { today, lastSevenDays }
  })

  fastify.get('/reports/sales', {
    schema: {
      tags: ['statistics'],
      summary: 'Sales by month and category: an expensive query that runs once for all instances',
      response: responses(Type.Array(Month), 'The sales, newest month first.')
    }
  // The data is cached, and not the response: other code can share it. While the database is unavailable, an old report
  // is better than none.
  }, async () =>
    await cache.getOrSet(
      'report:sales', salesByMonth,
      { ttl: '1m', staleWhileRevalidate: '10m', staleIfError: '1h', tags: ['orders', 'products'] }
    ))

  // Sums exceed an integer; float8 is returned as a number, exact to 2^53.
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
      summary: 'The most viewed products, and the number of views that are not written yet',
      querystring: Type.Object({ limit: Paging.limit }, { additionalProperties: false }),
      response: responses(Views, 'The views that are written, and how many are not.')
    }
  }, async request => {
    const [items, stats] = await Promise.all([views.top(request.query.limit), views.stats()])
    return { items, ...stats }
  })
}
