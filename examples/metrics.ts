// Metrics of a shop for Prometheus at /metrics. Run it with `npx tsx examples/metrics.ts`, request /products/1 a few
// times, then /metrics. Prometheus on another machine needs METRICS_TOKEN; without it, only clients on this machine may
// read them.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { Counter } from 'prom-client'
import { cache, health, metrics, rateLimit, redis } from '../plugins/index.js'

export async function build () {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  // Before the plugins whose requests it times; it finds other plugins later.
  const token = process.env['METRICS_TOKEN']
  await app.register(metrics, {
    labels: { service: 'shop' },
    expose: token === undefined ? 'loopback' : request => request.headers.authorization === `Bearer ${token}`
  })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'example' })
  await app.register(rateLimit, { max: 100, timeWindow: '1 minute' })
  await app.register(cache, { ttl: '30s' })
  await app.register(health)

  // A custom metric, exposed with the others.
  const views = new Counter({
    name: 'shop_product_views_total', help: 'Products looked at', registers: [app.metrics.registry]
  })
  app.addHook('onRequest', async request => { if (request.routeOptions.url === '/products/:id') views.inc() })

  app.get<{ Params: { id: string } }>(
    '/products/:id', { config: { cache: { ttl: '5m' } } }, async ({ params: { id } }) => ({ id, name: 'Teapot' })
  )
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
