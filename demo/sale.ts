import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { systemClock, type Clock } from '../plugins/shared/plugin/clock.js'
import { lua, runScript, timedLua, type Script } from '../plugins/shared/redis/script.js'

declare module 'fastify' {
  interface FastifyInstance {
    sale: Sale
  }
}

/** A piece that is reserved for a buyer. */
export interface Piece {
  /** The id of its order's cart. */
  cartId: string
  /** When it was last taken, in milliseconds since the epoch: only that call may release it. */
  takenAt: number
}

/**
 * - `taken`: the caller orders the piece
 * - `already taken`: the buyer has one, which is ordered or about to be
 * - `sold out`
 * - `no sale`: there is no sale of the product
 */
export type TakeResult = { kind: 'taken', piece: Piece } | { kind: 'already taken', cartId: string } | { kind: 'sold out' } | { kind: 'no sale' }

/** Sells a limited number of pieces of a product, one per buyer. Concurrent buyers never take more than there are. */
export interface Sale {
  /** Opens a sale for a day, and replaces the present one. */
  open (productId: number, pieces: number): Promise<void>
  /** Returns how many pieces are left; undefined if there is no sale. */
  left (productId: number): Promise<number | undefined>
  /** Takes a piece. A buyer whose order may have failed takes the same piece again after some seconds. */
  take (productId: number, buyer: number): Promise<TakeResult>
  /** Returns a piece that could not be ordered. */
  release (productId: number, buyer: number, piece: Piece): Promise<void>
}

const TTL_MS = 24 * 60 * 60 * 1000
/** After this a piece that was taken may be taken again by its buyer. A late order does no harm: a cart is ordered once. */
const GRACE_MS = 2000

/** Adds `fastify.sale`, which refuses most buyers before they reach the database: in Redis, or else in the memory of this process. */
export const sale = fp<{ clock?: Clock | undefined }>(async function sale (fastify, { clock = systemClock }) {
  fastify.decorate('sale', fastify.hasDecorator('redis') ? inRedis(fastify, clock) : inMemory(clock))
}, { name: 'demo/sale' })

/**
 * KEYS[1]  pieces left
 * KEYS[2]  hash of the buyers' pieces
 * ARGV     pieces, TTL (ms)
 */
const openScript = lua`
redis.call('DEL', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
`

/**
 * KEYS     as above
 * ARGV     buyer, cart id, grace (ms)
 * reply    { 'taken', id, time (ms) }, { 'already taken', id }, { 'sold out' } or { 'no sale' }
 */
const takeScript = timedLua`
local left = redis.call('GET', KEYS[1])
if not left then return { 'no sale' } end
local time = redis_time()
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local had = redis.call('HGET', KEYS[2], ARGV[1])
local id = ARGV[2]
if had then
  local takenId, takenAt = string.match(had, '^(%S+) (%d+)$')
  -- The same id: the client repeated the command.
  if takenId ~= id and now - takenAt < tonumber(ARGV[3]) then return { 'already taken', takenId } end
  id = takenId
elseif tonumber(left) < 1 then
  return { 'sold out' }
else
  redis.call('DECR', KEYS[1])
end
local at = string.format('%.0f', now)
redis.call('HSET', KEYS[2], ARGV[1], id .. ' ' .. at)
redis.call('PEXPIRE', KEYS[2], redis.call('PTTL', KEYS[1]))
return { 'taken', id, at }
`

/**
 * Returns a piece once, and only to the sale that it was taken from.
 *
 * KEYS     as above
 * ARGV     buyer, id and time as taken
 */
const releaseScript = lua`
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('INCR', KEYS[1])
`

function inRedis ({ redis, httpErrors }: FastifyInstance, clock: Clock): Sale {
  const keysOf = (productId: number) => [`demo:sale:pieces:{${productId}}`, `demo:sale:buyers:{${productId}}`]

  async function run (script: Script, productId: number, args: Array<string | number>): Promise<unknown[]> {
    const reply = await runScript(redis, script, keysOf(productId), args, clock).catch(unavailable)
    return Array.isArray(reply) ? reply : []
  }

  function unavailable (): never {
    throw httpErrors.serviceUnavailable('the sale is unavailable')
  }

  return {
    async open (productId, pieces) { await run(openScript, productId, [pieces, TTL_MS]) },
    async left (productId) {
      const left = await redis.get(keysOf(productId)[0] ?? '').catch(unavailable)
      return left === null ? undefined : Number(left)
    },
    async take (productId, buyer) {
      const [kind, id, at] = await run(takeScript, productId, [buyer, randomUUID(), GRACE_MS])
      if (kind === 'taken') return { kind, piece: { cartId: String(id), takenAt: Number(at) } }
      if (kind === 'already taken') return { kind, cartId: String(id) }
      return { kind: kind === 'sold out' ? kind : 'no sale' }
    },
    async release (productId, buyer, { cartId, takenAt }) { await run(releaseScript, productId, [buyer, `${cartId} ${takenAt}`]) }
  }
}

function inMemory (clock: Clock): Sale {
  const sales = new Map<number, { left: number, buyers: Map<number, Piece>, endsAt: number }>()
  const present = (productId: number) => {
    const found = sales.get(productId)
    return found !== undefined && found.endsAt > clock.now() ? found : undefined
  }
  return {
    async open (productId, pieces) { sales.set(productId, { left: pieces, buyers: new Map(), endsAt: clock.now() + TTL_MS }) },
    left: async productId => present(productId)?.left,
    async take (productId, buyer) {
      const found = present(productId)
      if (found === undefined) return { kind: 'no sale' }
      const had = found.buyers.get(buyer)
      const takenAt = clock.now()
      if (had !== undefined && takenAt - had.takenAt < GRACE_MS) return { kind: 'already taken', cartId: had.cartId }
      if (had === undefined && found.left < 1) return { kind: 'sold out' }
      if (had === undefined) found.left--
      const piece = { cartId: had?.cartId ?? randomUUID(), takenAt }
      found.buyers.set(buyer, piece)
      return { kind: 'taken', piece }
    },
    async release (productId, buyer, piece) {
      const found = present(productId)
      if (found?.buyers.get(buyer) !== piece) return
      found.buyers.delete(buyer)
      found.left++
    }
  }
}
