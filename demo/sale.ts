import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { lua, runScript } from '../plugins/shared/script.js'

declare module 'fastify' {
  interface FastifyInstance {
    sale: Sale
  }
}

/**
 * - `taken`: a piece is this buyer's, to be ordered under this id
 * - `had one`: before, under this id
 * - `sold out`
 * - `no sale`: there is none now
 */
export type Taken = { what: 'taken', cartId: string } | { what: 'had one', cartId: string } | { what: 'sold out' } | { what: 'no sale' }

/** Pieces of a product that are sold in a rush, one a buyer. No more are ever taken than there are, by however many at once. */
export interface Sale {
  /** Begins a sale, for a day; in place of one that there may be. */
  open (productId: number, pieces: number): Promise<void>
  /** Pieces that are left; undefined where there is no sale. */
  left (productId: number): Promise<number | undefined>
  take (productId: number, buyer: number): Promise<Taken>
  /** Of what was taken, when it could not be ordered. */
  giveBack (productId: number, buyer: number, cartId: string): Promise<void>
}

const TTL_MS = 24 * 60 * 60 * 1000

/** In Redis, which turns the many away before they come to the database; without it in this process. */
export const sale = fp(async function sale (fastify) {
  fastify.decorate('sale', fastify.hasDecorator('redis') ? inRedis(fastify) : inMemory())
}, { name: 'demo/sale' })

/**
 * KEYS[1]  pieces left
 * KEYS[2]  hash: what each buyer took
 * ARGV     pieces, TTL (ms)
 */
const openScript = lua`
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
`

/**
 * KEYS     as above
 * ARGV     buyer, id to order under
 * reply    { 'taken' or 'had one', id }, { 'sold out' } or { 'no sale' }
 */
const takeScript = lua`
local left = redis.call('GET', KEYS[1])
if not left then return { 'no sale' } end
local had = redis.call('HGET', KEYS[2], ARGV[1])
-- The same id: a command that came twice.
if had then return { had == ARGV[2] and 'taken' or 'had one', had } end
if tonumber(left) < 1 then return { 'sold out' } end
redis.call('DECR', KEYS[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIREAT', KEYS[2], redis.call('TIME')[1] * 1000 + redis.call('PTTL', KEYS[1]))
return { 'taken', ARGV[2] }
`

/**
 * Once, and only to the sale that it was taken from.
 *
 * KEYS     as above
 * ARGV     buyer, id
 */
const giveBackScript = lua`
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('INCR', KEYS[1])
`

function inRedis ({ redis }: FastifyInstance): Sale {
  const keysOf = (productId: number) => [`demo:sale:pieces:{${productId}}`, `demo:sale:buyers:{${productId}}`]
  return {
    async open (productId, pieces) { await runScript(redis, openScript, keysOf(productId), [pieces, TTL_MS]) },
    async left (productId) {
      const left = await redis.get(keysOf(productId)[0] ?? '')
      return left === null ? undefined : Number(left)
    },
    async take (productId, buyer) {
      const reply = await runScript(redis, takeScript, keysOf(productId), [buyer, randomUUID()])
      const [what, cartId]: unknown[] = Array.isArray(reply) ? reply : []
      if (what === 'taken' || what === 'had one') return { what, cartId: String(cartId) }
      return { what: what === 'sold out' ? what : 'no sale' }
    },
    async giveBack (productId, buyer, cartId) { await runScript(redis, giveBackScript, keysOf(productId), [buyer, cartId]) }
  }
}

function inMemory (): Sale {
  const sales = new Map<number, { left: number, buyers: Map<number, string>, endsAt: number }>()
  const present = (productId: number) => {
    const found = sales.get(productId)
    return found !== undefined && found.endsAt > Date.now() ? found : undefined
  }
  return {
    async open (productId, pieces) { sales.set(productId, { left: pieces, buyers: new Map(), endsAt: Date.now() + TTL_MS }) },
    left: async productId => present(productId)?.left,
    async take (productId, buyer) {
      const found = present(productId)
      if (found === undefined) return { what: 'no sale' }
      const had = found.buyers.get(buyer)
      if (had !== undefined) return { what: 'had one', cartId: had }
      if (found.left < 1) return { what: 'sold out' }
      found.left--
      const cartId = randomUUID()
      found.buyers.set(buyer, cartId)
      return { what: 'taken', cartId }
    },
    async giveBack (productId, buyer, cartId) {
      const found = present(productId)
      if (found?.buyers.get(buyer) !== cartId) return
      found.buyers.delete(buyer)
      found.left++
    }
  }
}
