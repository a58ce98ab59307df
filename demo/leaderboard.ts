import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    leaderboard: Leaderboard
  }
}

export interface Leaderboard {
  /** The best sellers: ids and pieces sold, most first. */
  top (count: number): Promise<Array<{ productId: number, sold: number }>>
  add (productId: number, quantity: number): Promise<void>
}

const KEY = 'demo:leaderboard'
const TTL_SECONDS = 3600

/** Best sellers: a sorted set in Redis, made out of the orders where it is not there; without Redis the orders themselves. */
export const leaderboard = fp(async function leaderboard (fastify) {
  fastify.decorate('leaderboard', fastify.hasDecorator('redis') ? inRedis(fastify) : inDatabase(fastify))
}, { name: 'demo/leaderboard', dependencies: ['demo/database'] })

function inDatabase ({ db }: FastifyInstance): Leaderboard {
  return {
    top: async count => await db.query<{ productId: number, sold: number }>(
      `SELECT product_id AS "productId", sum(quantity)::float8 AS sold FROM order_items
       GROUP BY product_id ORDER BY sold DESC, product_id LIMIT $1`, [count]),
    add: async () => {}
  }
}

function inRedis (fastify: FastifyInstance): Leaderboard {
  const { redis } = fastify
  const orders = inDatabase(fastify)

  async function fill (): Promise<void> {
    const all = await orders.top(100_000)
    if (all.length === 0) return
    // A first score would hide that the rest is missing, so the set is made beside and put in place at once.
    const beside = `{${KEY}}:new`
    await redis.zadd(beside, ...all.flatMap(({ productId, sold }) => [sold, productId]))
    await redis.expire(beside, TTL_SECONDS)
    await redis.rename(beside, `{${KEY}}`)
  }

  return {
    async top (count) {
      try {
        if (await redis.exists(`{${KEY}}`) === 0) await fill()
        const flat = await redis.zrevrange(`{${KEY}}`, 0, count - 1, 'WITHSCORES')
        return Array.from({ length: flat.length / 2 }, (_, i) => ({ productId: Number(flat[2 * i]), sold: Number(flat[2 * i + 1]) }))
      } catch (error) {
        fastify.log.debug({ reason: error instanceof Error ? error.message : String(error) }, 'leaderboard: out of the database')
        return await orders.top(count)
      }
    },
    async add (productId, quantity) {
      // Only to a set that is there: one that is not is made of all orders when it is asked for.
      await redis.zadd(`{${KEY}}`, 'XX', 'INCR', quantity, productId).catch(() => {})
    }
  }
}
