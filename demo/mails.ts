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

/** Mails of the shop, which end in a table: queued in a stream, so that an order does not wait for them. */
export const mails = fp(async function mails (fastify) {
  const { db, events, log } = fastify
  const letters = events.stream<Letter>('mails')
  await letters.consume({
    group: 'mailer',
    handler: async ({ data: { userId, orderId, totalCents } }) => {
      // What is given a second time, as after a crash, is one mail all the same.
      await db.query('INSERT INTO mails (user_id, order_id, subject) VALUES ($1, $2, $3) ON CONFLICT (order_id) DO NOTHING',
        [userId, orderId, `Your order ${orderId}: ${(totalCents / 100).toFixed(2)}`])
    }
  })

  fastify.decorate('mails', {
    async queue (letter) {
      // One buyer's in their order. The order of goods stands: it is not to fail for its mail.
      await letters.append(letter, { key: String(letter.userId) }).catch((error: Error) => log.warn({ orderId: letter.orderId, reason: error.message }, 'mails: not queued'))
    },
    async of (userId, count) {
      const rows = await db.query<Mail & { sentAt: Date }>(
        'SELECT order_id AS "orderId", subject, sent_at AS "sentAt" FROM mails WHERE user_id = $1 ORDER BY id DESC LIMIT $2', [userId, count])
      return rows.map(row => ({ ...row, sentAt: row.sentAt.toISOString() }))
    }
  })
}, { name: 'demo/mails', dependencies: ['demo/database', 'fastify-redis-suite/events'] })
