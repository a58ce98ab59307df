import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import type { FastifyInstance } from 'fastify'
import { Type, type Static } from 'typebox'
import { responses, ADMIN, Id, idempotencyHeaders, LOGGED_IN, PlacedOrder, Whole } from './schemas.js'

type Piece = Parameters<FastifyInstance['sale']['release']>[2]

const ProductParams = Type.Object({ productId: Id })
const Left = Type.Object({ productId: Type.Integer(), left: Type.Integer() })

/** A flash sale: pieces are counted outside the database, so a thousand concurrent buyers cost next to nothing. */
export const sale: FastifyPluginAsyncTypebox = async function sale (fastify) {
  const { checkOut, db, orderOf, sale } = fastify

  fastify.post('/sale/:productId', {
    schema: {
      tags: ['sale'],
      summary: 'Open a sale of some pieces of a product for a day, and replace the present one (admin)',
      params: ProductParams,
      body: Type.Object(
        { pieces: Whole({ minimum: 1, maximum: 10 ** 6 }) }, { additionalProperties: false, examples: [{ pieces: 3 }] }
      ),
      security: ADMIN,
      response: responses(Left, 'The sale is open.', 403, 404, 409)
    },
    preHandler: async (request, reply) => { if (!request.session.isAdmin) return reply.forbidden('admins only') }
  }, async (request, reply) => {
    const { params: { productId }, body: { pieces } } = request
    const [product] = await db.query<{ stock: number }>('SELECT stock FROM products WHERE id = $1', [productId])
    if (product === undefined) return reply.notFound('no such product')
    if (product.stock < pieces) return reply.conflict(`only ${product.stock} pieces are in stock`)
    await sale.open(productId, pieces)
    return { productId, left: pieces }
  })

  fastify.get('/sale/:productId', {
    schema: {
      tags: ['sale'],
      summary: 'How many pieces are left',
      params: ProductParams,
      response: responses(Left, 'The pieces that are left.', 404)
    }
  }, async ({ params: { productId } }, reply) => {
    const left = await sale.left(productId)
    return left === undefined ? reply.notFound('no sale of this product') : { productId, left }
  })

  fastify.post('/sale/:productId/buy', {
    schema: {
      tags: ['sale'],
      summary: 'Buy a piece; each buyer gets one, and repeated requests return the same order',
      params: ProductParams,
      headers: idempotencyHeaders('purchase-of-today'),
      security: LOGGED_IN,
      response: responses(PlacedOrder, 'The order.', 401, 404, 409)
    },
    config: { idempotency: true },
    // Before the idempotency plugin reads the key, because keys are scoped to a user.
    preHandler: async (request, reply) => {
      if (request.session.userId === undefined) return reply.unauthorized('log in first')
    }
  }, async ({ params: { productId }, session }, reply) => {
    const buyer = Number(session.userId)
    const taken = await sale.take(productId, buyer)
    if (taken.kind === 'no sale') return reply.notFound('no sale of this product')
    if (taken.kind === 'sold out') return reply.conflict('sold out')
    if (taken.kind === 'already taken') {
      return await orderOf(taken.cartId) ?? reply.conflict('your order is being placed')
    }
    return await order(productId, buyer, taken.piece)
  })

  async function order (productId: number, buyer: number, piece: Piece): Promise<Static<typeof PlacedOrder>> {
    try {
      return await checkOut(buyer, { id: piece.cartId, quantities: { [productId]: 1 } })
    } catch (error) {
      // If the reply was lost, the order may have been committed, or may still be. Then the piece stays reserved for
      // its buyer, who may retry: selling one piece too few is the safe side. Only a piece that the database refused is
      // released.
      const placed = await orderOf(piece.cartId)
      if (placed !== undefined) return placed
      if (isConflict(error)) await sale.release(productId, buyer, piece)
      throw error
    }
  }
}

function isConflict (error: unknown): boolean {
  return typeof error === 'object' && error !== null && 'statusCode' in error && error.statusCode === 409
}
