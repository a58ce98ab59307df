import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    mails: Mails
  }
}

export interface Mail extends Record<string, unknown> {
  orderId: number
  subject: string
  /** RFC 3339. */
  sentAt: string
}

export interface Mails {
  /** Has a buyer told of an order, some time; it never fails. */
  queue (letter: Letter): Promise<void>
  /** What a user was sent, the newest first. */
  of (userId: number, count: number): Promise<Mail[]>
}

export interface Letter {
  userId: number
  orderId: number
  totalCents: number
}

/** What it needs of `fastify.events`. */
interface Events {
  stream<T> (name: string): {
    append (data: T, options?: { key?: string }): Promise<unknown>
    consume (options: { group: string, retries?: number, handler: (event: { data: T }) => Promise<void> }): Promise<unknown>
  }
}

/** Mails of the shop, which end in a table: queued in a stream, so that an order does not wait for them; where there are no streams, sent at once. */
export const mails = fp(async function mails (fastify) {
  const { db, log } = fastify
  const send = await queueOf(fastify, async ({ userId, orderId, totalCents }) => {
    // What is given a second time, as after a crash, is one mail all the same.
    await db.query('INSERT INTO mails (user_id, order_id, subject) VALUES ($1, $2, $3) ON CONFLICT (order_id) DO NOTHING',
      [userId, orderId, `Your order ${orderId}: ${(totalCents / 100).toFixed(2)}`])
  })

  fastify.decorate('mails', {
    async queue (letter) {
      // The order stands: it is not to fail for its mail.
      await send(letter).catch((error: Error) => log.warn({ orderId: letter.orderId, reason: error.message }, 'mails: not queued'))
    },
    async of (userId, count) {
      const rows = await db.query<Mail & { sentAt: Date }>(
        'SELECT order_id AS "orderId", subject, sent_at AS "sentAt" FROM mails WHERE user_id = $1 ORDER BY id DESC LIMIT $2', [userId, count])
      return rows.map(row => ({ ...row, sentAt: row.sentAt.toISOString() }))
    }
  })
}, { name: 'demo/mails', dependencies: ['demo/database'] })

/** @returns what brings a letter to `deliver` */
async function queueOf (fastify: FastifyInstance, deliver: (letter: Letter) => Promise<void>): Promise<(letter: Letter) => Promise<void>> {
  if (!fastify.hasDecorator('events')) return deliver
  const stream = fastify.getDecorator<Events>('events').stream<Letter>('mails')
  await stream.consume({ group: 'mailer', retries: 5, handler: async ({ data }) => await deliver(data) })
  // One buyer's in their order.
  return async letter => { await stream.append(letter, { key: String(letter.userId) }) }
}
