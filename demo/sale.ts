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

/** A piece that is a buyer's. */
export interface Piece {
  /** The id to order it under. */
  cartId: string
  /** When it was taken last: only whoever did may give it back. Milliseconds since the epoch. */
  takenAt: number
}

/**
 * - `taken`: to be ordered now
 * - `had one`: taken a moment ago or ordered
 * - `sold out`
 * - `no sale`: there is none now
 */
export type Taken = { what: 'taken', piece: Piece } | { what: 'had one', cartId: string } | { what: 'sold out' } | { what: 'no sale' }

/** Pieces of a product that are sold in a rush, one a buyer. No more are ever taken than there are, by however many at once. */
export interface Sale {
  /** Begins a sale, for a day; in place of one that there may be. */
  open (productId: number, pieces: number): Promise<void>
  /** Pieces that are left; undefined where there is no sale. */
  left (productId: number): Promise<number | undefined>
  /** Who took one before, and may have been unable to order it, takes the same again after some seconds. */
  take (productId: number, buyer: number): Promise<Taken>
  /** Of what was taken, when it could not be ordered. */
  giveBack (productId: number, buyer: number, piece: Piece): Promise<void>
}

const TTL_MS = 24 * 60 * 60 * 1000
/** Whoever has not ordered by then is taken for dead, which does no harm where he is not: under one id there is one order. */
const GRACE_MS = 2000

/** In Redis, which turns the many away before they come to the database; without it in this process. */
export const sale = fp<{ clock?: Clock | undefined }>(async function sale (fastify, { clock = systemClock }) {
  fastify.decorate('sale', fastify.hasDecorator('redis') ? inRedis(fastify, clock) : inMemory(clock))
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
 * ARGV     buyer, id to order under, grace (ms)
 * reply    { 'taken', id, time (ms) }, { 'had one', id }, { 'sold out' } or { 'no sale' }
 */
const takeScript = timedLua`
local left = redis.call('GET', KEYS[1])
if not left then return { 'no sale' } end
local time = redis_time()
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local had = redis.call('HGET', KEYS[2], ARGV[1])
local id = ARGV[2]
if had then
  local hadId, takenAt = string.match(had, '^(%S+) (%d+)$')
  -- The same id: a command that came twice.
  if hadId ~= id and now - takenAt < tonumber(ARGV[3]) then return { 'had one', hadId } end
  id = hadId
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
 * Once, and only to the sale that it was taken from.
 *
 * KEYS     as above
 * ARGV     buyer, id and time as taken
 */
const giveBackScript = lua`
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('INCR', KEYS[1])
`

function inRedis ({ redis, httpErrors }: FastifyInstance, clock: Clock): Sale {
  const keysOf = (productId: number) => [`demo:sale:pieces:{${productId}}`, `demo:sale:buyers:{${productId}}`]

  async function ask (script: Script, productId: number, args: Array<string | number>): Promise<unknown[]> {
    const reply = await runScript(redis, script, keysOf(productId), args, clock).catch(unavailable)
    return Array.isArray(reply) ? reply : []
  }

  function unavailable (): never {
    throw httpErrors.serviceUnavailable('the sale cannot be asked now')
  }

  return {
    async open (productId, pieces) { await ask(openScript, productId, [pieces, TTL_MS]) },
    async left (productId) {
      const left = await redis.get(keysOf(productId)[0] ?? '').catch(unavailable)
      return left === null ? undefined : Number(left)
    },
    async take (productId, buyer) {
      const [what, id, at] = await ask(takeScript, productId, [buyer, randomUUID(), GRACE_MS])
      if (what === 'taken') return { what, piece: { cartId: String(id), takenAt: Number(at) } }
      if (what === 'had one') return { what, cartId: String(id) }
      return { what: what === 'sold out' ? what : 'no sale' }
    },
    async giveBack (productId, buyer, { cartId, takenAt }) { await ask(giveBackScript, productId, [buyer, `${cartId} ${takenAt}`]) }
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
      if (found === undefined) return { what: 'no sale' }
      const had = found.buyers.get(buyer)
      const takenAt = clock.now()
      if (had !== undefined && takenAt - had.takenAt < GRACE_MS) return { what: 'had one', cartId: had.cartId }
      if (had === undefined && found.left < 1) return { what: 'sold out' }
      if (had === undefined) found.left--
      const piece = { cartId: had?.cartId ?? randomUUID(), takenAt }
      found.buyers.set(buyer, piece)
      return { what: 'taken', piece }
    },
    async giveBack (productId, buyer, piece) {
      const found = present(productId)
      if (found?.buyers.get(buyer) !== piece) return
      found.buyers.delete(buyer)
      found.left++
    }
  }
}
