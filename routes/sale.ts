import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyInstance } from 'fastify'
import { Type, type Static } from 'typebox'
import { answers, Id, IdempotencyHeaders, PlacedOrder, Whole } from './schemas.js'

type Piece = Parameters<FastifyInstance['sale']['giveBack']>[2]

const ProductParams = Type.Object({ productId: Id })
const Left = Type.Object({ productId: Type.Integer(), left: Type.Integer() })

/** A sale in a rush: the pieces are counted outside the database, where a thousand who come at once cost next to nothing. */
export const sale: FastifyPluginAsyncTypebox = async function sale (fastify) {
  const { checkOut, db, orderOf, sale } = fastify

  fastify.post('/sale/:productId', {
    schema: {
      tags: ['sale'],
      summary: 'Begin a sale of some pieces of a product, for a day (admin); it takes the place of one there is',
      params: ProductParams,
      body: Type.Object({ pieces: Whole({ minimum: 1, maximum: 10 ** 6 }) }, { additionalProperties: false }),
      response: answers(Left)
    },
    preHandler: async (request, reply) => { if (!request.session.isAdmin) return reply.forbidden('admins only') }
  }, async (request, reply) => {
    const { params: { productId }, body: { pieces } } = request
    const [product] = await db.query<{ stock: number }>('SELECT stock FROM products WHERE id = $1', [productId])
    if (product === undefined) return reply.notFound('no such product')
    if (product.stock < pieces) return reply.conflict(`there are ${product.stock} pieces only`)
    await sale.open(productId, pieces)
    return { productId, left: pieces }
  })

  fastify.get('/sale/:productId', {
    schema: { tags: ['sale'], summary: 'How many pieces are left', params: ProductParams, response: answers(Left) }
  }, async ({ params: { productId } }, reply) => {
    const left = await sale.left(productId)
    return left === undefined ? reply.notFound('no sale of this product') : { productId, left }
  })

  fastify.post('/sale/:productId/buy', {
    schema: {
      tags: ['sale'],
      summary: 'Buy a piece; each buyer has one, and who asks again has the same order',
      params: ProductParams,
      headers: IdempotencyHeaders,
      response: answers(PlacedOrder)
    },
    config: { idempotency: true },
    // Before the key is looked up, as a key belongs to a user.
    preHandler: async (request, reply) => { if (request.session.userId === undefined) return reply.unauthorized('log in first') }
  }, async ({ params: { productId }, session }, reply) => {
    const buyer = Number(session.userId)
    const taken = await sale.take(productId, buyer)
    if (taken.what === 'no sale') return reply.notFound('no sale of this product')
    if (taken.what === 'sold out') return reply.conflict('sold out')
    if (taken.what === 'had one') return await orderOf(taken.cartId) ?? reply.conflict('your order is under way')
    return await order(productId, buyer, taken.piece)
  })

  async function order (productId: number, buyer: number, piece: Piece): Promise<Static<typeof PlacedOrder>> {
    try {
      return await checkOut(buyer, { id: piece.cartId, quantities: { [productId]: 1 } })
    } catch (error) {
      // It may have been committed all the same, where the answer was lost, or is about to be. What cannot be told stays taken, for
      // its buyer, who may come again: rather one too few is sold. Only what the database refused is the next one's.
      const placed = await orderOf(piece.cartId)
      if (placed !== undefined) return placed
      if (isConflict(error)) await sale.giveBack(productId, buyer, piece)
      throw error
    }
  }
}

function isConflict (error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'statusCode' in error && error.statusCode === 409
}
