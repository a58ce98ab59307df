// A payment that charges the card once, however often the client repeats the request. Start the
// stand-in of the provider, `npx tsx examples/guides/stand-in.ts`, then
// `npx tsx examples/guides/payments.ts`.
import { createHash } from 'node:crypto'
import { pathToFileURL } from 'node:url'
import Fastify, { type FastifyRequest } from 'fastify'
import { idempotency, redis } from '../../plugins/index.js'

declare module 'fastify' {
  interface FastifyRequest {
    customer: string
  }
}

/** Stands for a table of customers, by API key. */
const customers = new Map([['key-of-ann', 'ann'], ['key-of-bob', 'bob']])

/** Stands for `INSERT INTO payments (charge, customer, cents) VALUES … ON CONFLICT (charge) DO NOTHING`. */
const payments = new Map<string, { customer: string, cents: number }>()

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const provider = process.env['PROVIDER_URL'] ?? 'http://localhost:8000'
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'payments' })

  app.decorateRequest('customer', '')
  app.addHook('onRequest', async (request, reply) => {
    const customer = customers.get(String(request.headers['x-api-key']))
    if (customer === undefined) return await reply.code(401).send({ error: 'send an API key' })
    request.customer = customer
  })
  await app.register(idempotency, { scope: request => request.customer })

  app.post<{ Body: { cents: number, card: string } }>('/payments', {
    config: { idempotency: { required: true, ttl: '7 days' } },
    schema: {
      body: {
        type: 'object',
        required: ['cents', 'card'],
        properties: { cents: { type: 'integer', minimum: 1 }, card: { type: 'string' } }
      }
    }
  }, async (request, reply) => {
    const { cents, card } = request.body
    const response = await fetch(`${provider}/charges`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': providerKeyOf(request) },
      body: JSON.stringify({ cents, card }),
      signal: AbortSignal.timeout(30_000)
    })
    // Decided: the response is stored, and a retry with the same key receives it again.
    if (response.status === 402) return await reply.code(402).send({ error: 'the card was declined' })
    // Unknown: an error that is thrown is not stored, and the retry asks the provider with the same key.
    if (!response.ok) {
      const error = new Error('the payment provider failed; try again with the same key')
      throw Object.assign(error, { statusCode: 502 })
    }

    const { id: charge } = await response.json() as { id: string }
    payments.set(charge, { customer: request.customer, cents })
    return await reply.code(201).send({ charge, cents })
  })

  // All customers share this app's account at the provider, so its key contains the customer too.
  function providerKeyOf ({ customer, idempotencyKey }: FastifyRequest): string {
    return createHash('sha256').update(JSON.stringify([customer, idempotencyKey])).digest('hex')
  }
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
