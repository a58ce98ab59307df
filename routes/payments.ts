import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { ALWAYS, COSTLY } from './live-config.js'
import { idempotencyHeaders, responses, Whole } from './schemas.js'

/** The payments of the live page. */
export const payments: FastifyPluginAsyncTypebox = async function payments (fastify) {
  fastify.post('/live/payments', {
    schema: {
      tags: ['live'],
      summary: 'Charge a card; a retry with the same key gets the first response, and charges nothing',
      headers: idempotencyHeaders('payment-of-today'),
      body: Type.Object(
        { amountCents: Whole({ minimum: 1, maximum: 10 ** 6 }) },
        { additionalProperties: false, examples: [{ amountCents: 2500 }] }
      ),
      response: responses(
        Type.Object({ paymentId: Type.String(), amountCents: Type.Integer(), chargedBy: Type.String() }),
        'The payment.', 409
      )
    },
    // Visitors are anonymous, and the page generates random keys, so one scope is enough. Payments of a real shop
    // belong to a user.
    config: {
      rateLimit: COSTLY,
      session: false,
      idempotency: { required: true, ttl: '10 minutes', scope: () => 'live page' },
      ...ALWAYS
    }
  }, async ({ body: { amountCents } }) => await fastify.bank.charge(amountCents))
}
