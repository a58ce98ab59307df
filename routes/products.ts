import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Type, type Static } from 'typebox'
import { prefersHtml, sendPage } from '../demo/html.js'
import { noProductPage, productListPage, productPage, type ProductListPage } from '../demo/product-pages.js'
import { negotiated, responses, ADMIN, IdParams, Paging, Product, PRODUCT_COLUMNS, Text, Whole } from './schemas.js'

const Listed = Type.Object({ items: Type.Array(Product), total: Type.Integer() })

const HTML = 'text/html'
const ORDER = {
  name: 'name, id', price: 'price_cents, id', '-price': 'price_cents DESC, id', newest: 'updated_at DESC, id'
} as const

export const products: FastifyPluginAsyncTypebox = async function products (fastify) {
  const { cache, changes, db, live, locks, views } = fastify

  // Each browser has its own `Accept`. Reduced to two values, it makes two cached copies of a URL, and not one for each
  // browser.
  fastify.addHook(
    'onRequest',
    async ({ headers }: FastifyRequest) => { headers.accept = prefersHtml(headers.accept) ? HTML : 'application/json' }
  )
  const isForBrowser = ({ headers }: FastifyRequest) => headers.accept === HTML
  const rendering = () => ({ at: new Date(), instance: live.instance })
  const categories = async () => await cache.getOrSet('categories', async () => {
    const rows = await db.query<{ category: string }>('SELECT DISTINCT category FROM products ORDER BY category')
    return rows.map(({ category }) => category)
  }, { ttl: '1h', tags: ['products'] })

  async function sendList (
    reply: FastifyReply, page: Pick<ProductListPage, 'items' | 'total' | 'query'>
  ): Promise<FastifyReply> {
    return sendPage(reply, productListPage({ ...page, categories: await categories(), rendering: rendering() }))
  }

  // The value that every page of the product shares. It is never served stale: a refreshed page must not be stored with
  // an old value.
  const cacheOptions = (id: number) => ({ ttl: '5m', staleWhileRevalidate: 0, tags: [`product:${id}`, 'product:all'] })

  async function productOf (id: number): Promise<Static<typeof Product> | undefined> {
    return await cache.getOrSet(`product:${id}`, async () => {
      const [product] = await db.query<Static<typeof Product>>(
        `SELECT ${PRODUCT_COLUMNS} FROM products WHERE id = $1`, [id]
      )
      return product
    }, cacheOptions(id))
  }

  fastify.get('/products', {
    schema: {
      tags: ['products'],
      summary: 'Products by category and price, with pagination',
      querystring: Type.Object({
        category: Type.Optional(Text({ maxLength: 50 })),
        minPrice: Type.Optional(Whole({ minimum: 0, maximum: 10 ** 8 })),
        maxPrice: Type.Optional(Whole({ minimum: 0, maximum: 10 ** 8 })),
        sort: Type.Union(
          [Type.Literal('name'), Type.Literal('price'), Type.Literal('-price'), Type.Literal('newest')],
          { default: 'name' }
        ),
        ...Paging
      }, { additionalProperties: false }),
      response: negotiated(Listed, 'The products.')
    },
    config: { cache: { ttl: '1m', public: true, staleWhileRevalidate: '5m', vary: ['accept'], tags: ['products'] } }
  }, async (request, reply) => {
    const { category = null, minPrice = 0, maxPrice = 10 ** 8, sort, limit, offset } = request.query
    const where = 'WHERE ($1::text IS NULL OR category = $1) AND price_cents BETWEEN $2 AND $3'
    const filters = [category, minPrice, maxPrice]
    const [items, [counted]] = await Promise.all([
      db.query<Static<typeof Product>>(
        `SELECT ${PRODUCT_COLUMNS} FROM products ${where} ORDER BY ${ORDER[sort]} LIMIT $4 OFFSET $5`,
        [...filters, limit, offset]
      ),
      db.query<{ total: number }>(`SELECT count(*)::int AS total FROM products ${where}`, filters)
    ])
    const total = counted?.total ?? 0
    return isForBrowser(request) ? await sendList(reply, { items, total, query: request.query }) : { items, total }
  })

  fastify.get('/products/search', {
    schema: {
      tags: ['products'],
      summary: 'Products by full-text search',
      querystring: Type.Object(
        { q: Text({ minLength: 1, maxLength: 100, examples: ['teapot'] }), limit: Paging.limit },
        { additionalProperties: false }
      ),
      response: negotiated(Listed, 'The products.')
    },
    config: { cache: { ttl: '1m', public: true, staleWhileRevalidate: '5m', vary: ['accept'], tags: ['products'] } }
  }, async (request, reply) => {
    const items = await db.query<Static<typeof Product>>(
      `SELECT ${PRODUCT_COLUMNS} FROM products, websearch_to_tsquery('english', $1) AS words
       WHERE search @@ words ORDER BY ts_rank(search, words) DESC, id LIMIT $2`, [request.query.q, request.query.limit])
    const total = items.length
    return isForBrowser(request) ? await sendList(reply, { items, total, query: request.query }) : { items, total }
  })

  fastify.get('/products/:id', {
    schema: {
      tags: ['products'], summary: 'One product', params: IdParams, response: negotiated(Product, 'The product.', 404)
    },
    config: {
      cache: {
        ttl: '1m',
        public: true,
        staleWhileRevalidate: '5m',
        vary: ['accept'],
        tags: ({ params: { id } }) => [`product:${id}`, `page:product:${id}`, 'product:all']
      }
    },
    // In a hook, because a cached response skips the handler. A refresh in the background counts as well.
    onResponse: async ({ method, params }, { statusCode }) => {
      if (method === 'GET' && (statusCode === 200 || statusCode === 304)) views.count(params.id)
    }
  }, async (request, reply) => {
    const product = await productOf(request.params.id)
    if (isForBrowser(request)) {
      return product === undefined
        ? sendPage(reply.code(404), noProductPage())
        : sendPage(reply, productPage(product, rendering()))
    }
    return product ?? reply.notFound('no such product')
  })

  fastify.post('/products/restock', {
    schema: {
      tags: ['products'],
      summary: 'Restock sold-out products (admin); 423 while another request does it',
      security: ADMIN,
      response: responses(Type.Object({ restocked: Type.Integer() }), 'The number of products.', 403, 423)
    },
    config: { cache: { invalidates: ['products', 'product:all'] } },
    preHandler: async (request, reply) => { if (!request.session.isAdmin) return reply.forbidden('admins only') }
  }, async () => await locks.using('restock', { wait: 0 }, async () => {
    const restocked = await db.query('UPDATE products SET stock = 100, updated_at = now() WHERE stock = 0 RETURNING id')
    return { restocked: restocked.length }
  }))

  fastify.put('/products/:id', {
    schema: {
      tags: ['products'],
      summary: 'Change a product (admin)',
      params: IdParams,
      body: Type.Object({
        name: Type.Optional(Text({ minLength: 1, maxLength: 200 })),
        priceCents: Type.Optional(Whole({ minimum: 0, maximum: 10 ** 8 })),
        stock: Type.Optional(Whole({ minimum: 0, maximum: 10 ** 6 }))
      }, { additionalProperties: false, minProperties: 1, examples: [{ priceCents: 1999 }] }),
      security: ADMIN,
      response: responses(Product, 'The product after the change.', 403, 404)
    },
    preHandler: async (request, reply) => { if (!request.session.isAdmin) return reply.forbidden('admins only') }
  }, async (request, reply) => {
    const { id } = request.params
    const { name = null, priceCents = null, stock = null } = request.body
    const product = await productOf(id)
    if (product === undefined) return reply.notFound('no such product')
    // The cache stores the row that the database returns after the change.
    return await cache.writeThrough(`product:${id}`, {
      ...product, ...request.body
    }, async () => await changes.writeRow(`product:${id}`, async query => {
      const [updated] = await query<Static<typeof Product>>(
        `UPDATE products SET name = coalesce($2, name), price_cents = coalesce($3, price_cents), stock = coalesce($4, stock), updated_at = now()
         WHERE id = $1 RETURNING ${PRODUCT_COLUMNS}`, [id, name, priceCents, stock])
      return updated ?? Promise.reject(fastify.httpErrors.notFound('no such product'))
    }), { ...cacheOptions(id), invalidates: [`page:product:${id}`, 'products'] })
  })
}
