import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { callRedis, defineScript, runScript, systemClock, type Clock } from '../plugins/redis/index.js'

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
export type TakeResult = { kind: 'taken', piece: Piece } | { kind: 'already taken', cartId: string } |
  { kind: 'sold out' } | { kind: 'no sale' }

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
/**
 * After this a piece that was taken may be taken again by its buyer. A late order does no harm: a cart is ordered once.
 */
const GRACE_MS = 2000

/**
 * Adds `fastify.sale`, which refuses most buyers before they reach the database: in Redis, or else in the memory of
 * this process.
 */
export const sale = fp<{ clock?: Clock | undefined }>(async function sale (fastify, { clock = systemClock }) {
  fastify.decorate('sale', fastify.hasDecorator('redis') ? inRedis(fastify, clock) : inMemory(clock))
}, { name: 'demo/sale' })

const keys = ['pieces', 'buyers'] as const
/** No process can replace Redis here, so the calls wait longer for a Redis that is only late. */
const CALL = { patient: true }

/** `pieces` is how many are left, `buyers` a hash of the buyers' pieces. */
const openScript = defineScript({
  keys,
  args: { count: 'number', ttl: 'number' },
  lua: `
    redis.call('DEL', buyers)
    redis.call('SET', pieces, count, 'PX', ttl)`
})

const takeScript = defineScript({
  keys,
  args: { buyer: 'number', cartId: 'string', grace: 'number' },
  time: true,
  lua: `
    local left = redis.call('GET', pieces)
    if not left then return { 'no sale' } end
    local had = redis.call('HGET', buyers, buyer)
    local id = cartId
    if had then
      local takenId, takenAt = string.match(had, '^(%S+) (%d+)$')
      -- The same id: the client repeated the command.
      if takenId ~= id and now - takenAt < grace then return { 'already taken', takenId } end
      id = takenId
    elseif tonumber(left) < 1 then
      return { 'sold out' }
    else
      redis.call('DECR', pieces)
    end
    local at = string.format('%.0f', now)
    redis.call('HSET', buyers, buyer, id .. ' ' .. at)
    redis.call('PEXPIRE', buyers, redis.call('PTTL', pieces))
    return { 'taken', id, at }`,
  reply: (raw): TakeResult => {
    const [kind, id, at] = raw as string[]
    if (kind === 'taken') return { kind, piece: { cartId: String(id), takenAt: Number(at) } }
    if (kind === 'already taken') return { kind, cartId: String(id) }
    return { kind: kind === 'sold out' ? kind : 'no sale' }
  }
})

/** Returns a piece once, and only to the sale that it was taken from. */
const releaseScript = defineScript({
  keys,
  args: { buyer: 'number', piece: 'string' },
  lua: `
    if redis.call('HGET', buyers, buyer) ~= piece then return end
    redis.call('HDEL', buyers, buyer)
    redis.call('INCR', pieces)`
})

function inRedis (fastify: FastifyInstance, clock: Clock): Sale {
  const options = { ...CALL, clock }
  const keysOf = (productId: number) =>
    ({ pieces: `demo:sale:pieces:{${productId}}`, buyers: `demo:sale:buyers:{${productId}}` })
  return {
    async open (
      productId, pieces
    ) { await runScript(fastify, openScript, keysOf(productId), { count: pieces, ttl: TTL_MS }, options) },
    async left (productId) {
      const { pieces: key } = keysOf(productId)
      const left = await callRedis(fastify, redis => redis.get(key), { ...options, nodeOf: key })
      return left === null ? undefined : Number(left)
    },
    take: async (productId, buyer) =>
      await runScript(
        fastify, takeScript, keysOf(productId), { buyer, cartId: randomUUID(), grace: GRACE_MS }, options
      ),
    async release (productId, buyer, { cartId, takenAt }) {
      await runScript(fastify, releaseScript, keysOf(productId), { buyer, piece: `${cartId} ${takenAt}` }, options)
    }
  }
}

function inMemory (clock: Clock): Sale {
  const sales = new Map<number, { left: number, buyers: Map<number, Piece>, endsAt: number }>()
  const present = (productId: number) => {
    const found = sales.get(productId)
    return found !== undefined && found.endsAt > clock.now() ? found : undefined
  }
  return {
    async open (
      productId, pieces
    ) { sales.set(productId, { left: pieces, buyers: new Map(), endsAt: clock.now() + TTL_MS }) },
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
