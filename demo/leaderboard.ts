import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { lua, runScript } from '../plugins/shared/redis/script.js'

declare module 'fastify' {
  interface FastifyInstance {
    leaderboard: Leaderboard
  }
}

export interface Sold extends Record<string, unknown> {
  productId: number
  /** Pieces. */
  sold: number
}

/** A product's place, from 1. */
export interface Ranked extends Sold {
  rank: number
}

export interface Leaderboard {
  /** The best sellers, most first. */
  top (count: number): Promise<Sold[]>
  /** A product and so many on either side of it, most first; none where it was not sold yet. */
  around (productId: number, neighbours: number): Promise<Ranked[]>
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
    top: async count => await db.query<Sold>(
      `SELECT product_id AS "productId", sum(quantity)::float8 AS sold FROM order_items
       GROUP BY product_id ORDER BY sold DESC, product_id DESC LIMIT $1`, [count]),
    around: async (productId, neighbours) => await db.query<Ranked>(
      `WITH ranked AS (
         SELECT product_id, sum(quantity)::float8 AS sold, (row_number() OVER (ORDER BY sum(quantity) DESC, product_id DESC))::int AS rank
         FROM order_items GROUP BY product_id)
       SELECT each.product_id AS "productId", each.sold, each.rank FROM ranked AS each, ranked AS it
       WHERE it.product_id = $1 AND abs(each.rank - it.rank) <= $2 ORDER BY rank`, [productId, neighbours]),
    add: async () => {}
  }
}

/**
 * Only to a set that is there: one that is not is made of all orders when it is asked for.
 *
 * KEYS[1]  the set
 * ARGV     product, pieces
 */
const addScript = lua`
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('ZINCRBY', KEYS[1], ARGV[2], ARGV[1]) end
`

/**
 * Of one moment: the place and those around it.
 *
 * KEYS[1]  the set
 * ARGV     product, how many on either side
 * reply    nil where it is not in the set, else { place of the first (from 0), member, score, ... }
 */
const aroundScript = lua`
local rank = redis.call('ZREVRANK', KEYS[1], ARGV[1])
if not rank then return nil end
local first = math.max(0, rank - ARGV[2])
local reply = redis.call('ZREVRANGE', KEYS[1], first, rank + ARGV[2], 'WITHSCORES')
table.insert(reply, 1, tostring(first))
return reply
`

function inRedis (fastify: FastifyInstance): Leaderboard {
  const { redis } = fastify
  const orders = inDatabase(fastify)
  // Members as long as each other, so that those with the same score stand by their numbers.
  const memberOf = (productId: number) => String(productId).padStart(10, '0')

  async function fill (): Promise<void> {
    const all = await orders.top(100_000)
    if (all.length === 0) return
    // A first score would hide that the rest is missing, so the set is made beside and put in place at once.
    const beside = `{${KEY}}:new`
    await redis.zadd(beside, ...all.flatMap(({ productId, sold }) => [sold, memberOf(productId)]))
    await redis.expire(beside, TTL_SECONDS)
    await redis.rename(beside, `{${KEY}}`)
  }

  async function orFromDatabase <T> (read: () => Promise<T>, instead: () => Promise<T>): Promise<T> {
    try {
      if (await redis.exists(`{${KEY}}`) === 0) await fill()
      return await read()
    } catch (error) {
      fastify.log.debug({ reason: error instanceof Error ? error.message : String(error) }, 'leaderboard: out of the database')
      return await instead()
    }
  }

  return {
    top: async count => await orFromDatabase(
      async () => pairs(await redis.zrevrange(`{${KEY}}`, 0, count - 1, 'WITHSCORES')),
      async () => await orders.top(count)),
    around: async (productId, neighbours) => await orFromDatabase(async () => {
      const reply = await runScript(redis, aroundScript, [`{${KEY}}`], [memberOf(productId), neighbours])
      const [first, ...flat] = Array.isArray(reply) ? reply.map(String) : []
      return pairs(flat).map((sold, i) => ({ ...sold, rank: Number(first) + i + 1 }))
    }, async () => await orders.around(productId, neighbours)),
    async add (productId, quantity) {
      await runScript(redis, addScript, [`{${KEY}}`], [memberOf(productId), quantity]).catch(() => {})
    }
  }
}

/** Of members and scores in turn. */
function pairs (flat: string[]): Sold[] {
  return Array.from({ length: flat.length / 2 }, (_, i) => ({ productId: Number(flat[2 * i]), sold: Number(flat[2 * i + 1]) }))
}
