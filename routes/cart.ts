import { randomUUID } from 'node:crypto'
import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyRequest } from 'fastify'
import { Type, type Static } from 'typebox'
import { responses, Id, Whole } from './schemas.js'

const Cart = Type.Object({
  items: Type.Array(
    Type.Object({
      productId: Type.Integer(), name: Type.String(), quantity: Type.Integer(), priceCents: Type.Integer()
    })
  ),
  totalCents: Type.Integer()
})
const Quantity = Whole({ minimum: 1, maximum: 99 })
const MAX_LINES = 50

/** The cart is stored in the session, logged in or not. */
export const cart: FastifyPluginAsyncTypebox = async function cart (fastify) {
  const { db } = fastify

  async function cartOf (request: FastifyRequest): Promise<Static<typeof Cart>> {
    const quantities = request.session.cart?.quantities ?? {}
    const rows = await db.query<{ productId: number, name: string, priceCents: number }>(
      'SELECT id AS "productId", name, price_cents AS "priceCents" FROM products WHERE id = ANY($1::int[]) ORDER BY id',
      [Object.keys(quantities).map(Number)])
    const items = rows.map(row => ({ ...row, quantity: quantities[row.productId] ?? 0 }))
    return { items, totalCents: items.reduce((sum, { quantity, priceCents }) => sum + quantity * priceCents, 0) }
  }

  fastify.get('/cart', {
    schema: { tags: ['cart'], summary: 'My cart', response: responses(Cart, 'The cart, which may be empty.') }
  }, cartOf)

  fastify.post('/cart/items', {
    schema: {
      tags: ['cart'],
      summary: 'Add a product to my cart',
      body: Type.Object(
        { productId: Id, quantity: Quantity },
        { additionalProperties: false, examples: [{ productId: 1, quantity: 2 }] }
      ),
      response: responses(Cart, 'The cart with the product.', 404, 409)
    }
  }, async (request, reply) => {
    const { productId, quantity } = request.body
    const { id = randomUUID(), quantities: current = {} } = request.session.cart ?? {}
    const [product] = await db.query('SELECT id FROM products WHERE id = $1', [productId])
    if (product === undefined) return reply.notFound('no such product')
    if (Object.keys(current).length >= MAX_LINES && !(productId in current)) return reply.conflict('the cart is full')
    request.session.cart = {
      id, quantities: { ...current, [productId]: Math.min(99, (current[productId] ?? 0) + quantity) }
    }
    return await cartOf(request)
  })

  fastify.delete('/cart/items/:productId', {
    schema: {
      tags: ['cart'],
      summary: 'Remove a product from my cart',
      params: Type.Object({ productId: Id }),
      response: responses(Cart, 'The cart without the product.')
    }
  }, async request => {
    const { cart } = request.session
    const { [request.params.productId]: _, ...quantities } = cart?.quantities ?? {}
    if (cart !== undefined) request.session.cart = { id: cart.id, quantities }
    return await cartOf(request)
  })
}
