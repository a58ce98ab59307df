import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { callRedis, defineScript, runScript } from '../plugins/redis/index.js'

declare module 'fastify' {
  interface FastifyInstance {
    leaderboard: Leaderboard
  }
}

export interface Sold extends Record<string, unknown> {
  productId: number
  /** The number of pieces. */
  sold: number
}

/** A product with its rank, from 1. */
export interface Ranked extends Sold {
  rank: number
}

export interface Leaderboard {
  /** Returns the best sellers, most sold first. */
  top (count: number): Promise<Sold[]>
  /** Returns a product and its neighbours on either side, most sold first; none if it was never sold. */
  around (productId: number, neighbours: number): Promise<Ranked[]>
  add (productId: number, quantity: number): Promise<void>
}

const KEY = 'demo:leaderboard'
const TTL_SECONDS = 3600

/**
 * Ranks products by sales: in a sorted set in Redis that is rebuilt from the orders if it is missing; without Redis, in
 * the database.
 */
export const leaderboard = fp(async function leaderboard (fastify) {
  fastify.decorate('leaderboard', fastify.hasDecorator('redis') ? inRedis(fastify) : inDatabase(fastify))
}, { name: 'demo/leaderboard', dependencies: ['demo/database'] })

function inDatabase ({ db }: FastifyInstance): Leaderboard {
  return {
    top: async count => await db.query<Sold>(
      `SELECT product_id AS "productId", sum(quantity)::float8 AS sold FROM order_items
       GROUP BY product_id ORDER BY sold DESC, product_id DESC LIMIT $1`, [count]),
    around: async (productId, neighbours) => await db.query<Ranked>(
      `WITH ranked AS (
         SELECT product_id, sum(quantity)::float8 AS sold,
         (row_number() OVER (ORDER BY sum(quantity) DESC, product_id DESC))::int AS rank
         FROM order_items GROUP BY product_id)
       SELECT each.product_id AS "productId", each.sold, each.rank FROM ranked AS each, ranked AS it
       WHERE it.product_id = $1 AND abs(each.rank - it.rank) <= $2 ORDER BY rank`, [productId, neighbours]),
    add: async () => {}
  }
}

/** Adds to an existing set only: a missing set is rebuilt from all orders when it is read. */
const addScript = defineScript({
  keys: ['set'],
  args: { product: 'string', pieces: 'number' },
  lua: "if redis.call('EXISTS', set) == 1 then redis.call('ZINCRBY', set, pieces, product) end"
})

/** Reads the rank of a product and its neighbours on either side atomically. */
const aroundScript = defineScript({
  keys: ['set'],
  args: { product: 'string', neighbours: 'number' },
  lua: `
    local rank = redis.call('ZREVRANK', set, product)
    if not rank then return {} end
    local first = math.max(0, rank - neighbours)
    return { first, redis.call('ZREVRANGE', set, first, rank + neighbours, 'WITHSCORES') }`,
  reply: (raw): Ranked[] => {
    const [first = 0, flat = []] = raw as [number?, string[]?]
    return pairs(flat).map((sold, i) => ({ ...sold, rank: first + i + 1 }))
  }
})

function inRedis (fastify: FastifyInstance): Leaderboard {
  const orders = inDatabase(fastify)
  const key = `{${KEY}}`
  // Padded, so that members with the same score are sorted by number.
  const memberOf = (productId: number) => String(productId).padStart(10, '0')

  async function fill (): Promise<void> {
    const all = await orders.top(100_000)
    if (all.length === 0) return
    // A partial set would look complete, so the new one replaces the key when it is filled.
    const newKey = `${key}:new`
    const { redis } = fastify
    await redis.zadd(newKey, ...all.flatMap(({ productId, sold }) => [sold, memberOf(productId)]))
    await redis.expire(newKey, TTL_SECONDS)
    await redis.rename(newKey, key)
  }

  async function orFromDatabase <T> (read: () => Promise<T>, fallback: () => Promise<T>): Promise<T> {
    try {
      if (await callRedis(fastify, redis => redis.exists(key), { nodeOf: key }) === 0) await fill()
      return await read()
    } catch (error) {
      fastify.log.debug(
        { reason: error instanceof Error ? error.message : String(error) }, 'leaderboard: reads from the database'
      )
      return await fallback()
    }
  }

  return {
    top: async count => await orFromDatabase(
      async () =>
        pairs(await callRedis(fastify, redis => redis.zrevrange(key, 0, count - 1, 'WITHSCORES'), { nodeOf: key })),
      async () => await orders.top(count)),
    around: async (productId, neighbours) => await orFromDatabase(
      async () => await runScript(fastify, aroundScript, { set: key }, { product: memberOf(productId), neighbours }),
      async () => await orders.around(productId, neighbours)),
    async add (productId, quantity) {
      await runScript(
        fastify, addScript, { set: key }, { product: memberOf(productId), pieces: quantity }
      ).catch(() => {})
    }
  }
}

/** Parses alternating members and scores. */
function pairs (flat: string[]): Sold[] {
  return Array.from({ length: flat.length / 2 }, (_, i) =>
    ({ productId: Number(flat[2 * i]), sold: Number(flat[2 * i + 1]) }))
}
