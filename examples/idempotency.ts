// A payment that runs once, however often the request is repeated:
// `curl -X POST localhost:3000/payments -H 'X-Api-Key: ann' -H 'Idempotency-Key: 1'`. Run it with
// `npx tsx examples/idempotency.ts`.
import { setTimeout as sleep } from 'node:timers/promises'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { idempotency, redis } from '../plugins/index.js'

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  // Callers of this app have API keys, which scope the idempotency keys. An app with sessions, tokens or request.user
  // needs no scope.
  await app.register(idempotency, { ttl: '24h', scope: request => request.headers['x-api-key'] })

  let payments = 0
  app.post('/payments', { config: { idempotency: true } }, async (request, reply) => {
    await sleep(500) // the bank is slow: a retry waits for the first request
    request.log.info({ key: request.idempotencyKey }, 'paid')
    return await reply.code(201).send({ payment: ++payments })
  })
  // This route requires a key.
  app.post('/refunds', { config: { idempotency: { required: true } } }, async () => ({ refunded: true }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
