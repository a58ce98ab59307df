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
  /** Queues the confirmation of an order. Never rejects. */
  queue (mail: OrderMail): Promise<void>
  /** Returns a user's mails, newest first. */
  of (userId: number, count: number): Promise<Mail[]>
}

export interface OrderMail {
  userId: number
  orderId: number
  totalCents: number
}

/** Sends the shop's mails (to a table), through a stream: an order does not wait for them. */
export const mails = fp(async function mails (fastify) {
  const { db, events, log } = fastify
  const queued = events.stream<OrderMail>('mails')
  await queued.consume({
    group: 'mailer',
    handler: async ({ data: { userId, orderId, totalCents } }) => {
      // An event that is delivered twice, for example after a crash, is one mail.
      await db.query('INSERT INTO mails (user_id, order_id, subject) VALUES ($1, $2, $3) ON CONFLICT (order_id) DO ' +
        'NOTHING',
      [userId, orderId, `Your order ${orderId}: ${(totalCents / 100).toFixed(2)}`])
    }
  })

  fastify.decorate('mails', {
    async queue (mail) {
      // The key preserves the order of a user's mails. An order does not fail because of its mail.
      await queued.append(mail, { key: String(mail.userId) })
        .catch((error: Error) => log.warn({ orderId: mail.orderId, reason: error.message }, 'mails: not queued'))
    },
    async of (userId, count) {
      const rows = await db.query<Mail & { sentAt: Date }>(
        `SELECT order_id AS "orderId", subject, sent_at AS "sentAt" FROM mails
         WHERE user_id = $1 ORDER BY id DESC LIMIT $2`, [userId, count])
      return rows.map(row => ({ ...row, sentAt: row.sentAt.toISOString() }))
    }
  })
}, { name: 'demo/mails', dependencies: ['demo/database', 'fastify-redis-suite/events'] })
