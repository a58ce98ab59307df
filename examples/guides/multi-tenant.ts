// A shop for several tenants, each on a host of its own. Run it with `npx tsx examples/guides/multi-tenant.ts`, then
// `curl -H 'Host: acme.localhost' localhost:3000/products`.
import { pathToFileURL } from 'node:url'
import Fastify, { type FastifyRequest } from 'fastify'
import { cache, events, idempotency, lock, rateLimit, redis, session } from '../../plugins/index.js'
import type { Clock } from '../../plugins/testing/index.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
  interface FastifyRequest {
    tenant: string
  }
}

// A name of letters and digits, so that no separator of keys and channels can be in it.
const tenants = new Map([['acme.localhost', 'acme'], ['globex.localhost', 'globex']])
const products = new Map([['acme', ['anvil']], ['globex', ['pendulum']]])

export async function build ({ clock }: { clock?: Clock } = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'tenants' })

  // Responses: the host is a part of each key.
  await app.register(cache, { ttl: '5m', key: { host: true }, clock })
  // The first hook: all later ones, and all options below, know the tenant.
  app.decorateRequest('tenant', '')
  app.addHook('onRequest', async (request, reply) => {
    const tenant = tenants.get(request.hostname)
    if (tenant === undefined) return await reply.code(404).send({ error: 'no such shop' })
    request.tenant = tenant
    reply.cacheTags(`tenant:${tenant}`) // of each response that is cached
  })

  // Limits: each client within a tenant, and each tenant as a whole.
  await app.register(
    rateLimit, { max: 100, timeWindow: '1 minute', keyGenerator: ({ tenant, ip }) => `${tenant} ${ip}`, clock }
  )
  app.addHook(
    'onRequest',
    app.rateLimit({ max: 1000, timeWindow: '1 minute', keyGenerator: ({ tenant }) => tenant, groupId: 'tenant' })
  )
  // Sessions: the user's id contains the tenant. A cookie that was copied to another tenant's host is refused.
  await app.register(
    session, { secret: process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters', clock }
  )
  app.addHook('onRequest', async (request, reply) => {
    const { userId } = request.session
    if (userId !== undefined && !userId.startsWith(`${request.tenant}/`)) {
      return await reply.code(401).send({ error: 'a session of another shop' })
    }
  })
  // Idempotency keys belong to the user, so to the tenant. Locks and channels are named by the tenant.
  await app.register(idempotency, { clock })
  await app.register(lock, { clock })
  await app.register(events)

  const valuesOf = ({ tenant }: FastifyRequest) => app.cache.withPrefix(`tenant-${tenant}`, { ttl: '1h' })

  app.get('/products', { config: { cache: true } }, async ({ tenant }) => products.get(tenant))
  app.get('/report', async request =>
    await valuesOf(request).getOrSet('report', () => ({ products: products.get(request.tenant)?.length })))
  app.post<{ Params: { user: string } }>('/login/:user', async request => {
    await request.login(`${request.tenant}/${request.params.user}`)
    return { welcome: request.params.user }
  })
  app.get('/sessions', async ({ session }) =>
    session.userId === undefined ? [] : await app.sessions.list(session.userId))
  app.post<{ Body: { product: string } }>('/orders', { config: { idempotency: true } }, async ({
    tenant, body: { product }
  }) =>
    await app.locks.using(`stock:${tenant}:${product}`, async () => {
      const order = { product, shop: tenant }
      await app.events.publish(`orders:${tenant}`, order)
      return order
    }))
  app.get('/live', async (request, reply) => await app.events.sse(request, reply, `orders:${request.tenant}`))
  app.post('/cache/clear', async request => {
    await app.cache.invalidateTags([`tenant:${request.tenant}`]) // the responses of this tenant
    await valuesOf(request).clear()                              // and its values
    return { cleared: request.tenant }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
