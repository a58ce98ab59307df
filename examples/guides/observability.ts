// An app that reports what it does: metrics for Prometheus, spans for OpenTelemetry, structured logs
// with the trace's id, and health checks. Run it with `npx tsx examples/guides/observability.ts`, send
// requests to /products/1, then read /metrics.
import { timingSafeEqual } from 'node:crypto'
import { pathToFileURL } from 'node:url'
import { trace } from '@opentelemetry/api'
import Fastify from 'fastify'
import { Counter } from 'prom-client'
import { cache, events, health, metrics, rateLimit, redis } from '../../plugins/index.js'

export async function build () {
  const app = Fastify({
    logger: {
      level: process.env['LOG_LEVEL'] ?? 'info',
      // Each line of a traced request has the id of its trace.
      mixin () {
        const span = trace.getActiveSpan()?.spanContext()
        return span === undefined ? {} : { trace_id: span.traceId, span_id: span.spanId }
      }
    }
  })
  // Before the plugins and routes that it times.
  const token = process.env['METRICS_TOKEN']
  await app.register(metrics, {
    labels: { service: 'shop' },
    exclude: ['/health*', '/metrics'],
    tracing: true,
    expose: token === undefined
      ? 'loopback'
      : ({ headers }) => isEqual(headers.authorization ?? '', `Bearer ${token}`)
  })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'observed' })
  await app.register(rateLimit, { max: 1000, timeWindow: '1 minute' })
  await app.register(cache, { ttl: '30s' })
  await app.register(events)
  await app.register(health)

  // A figure of the business is worth more than ten of the machine.
  const orders = new Counter({
    name: 'shop_orders_total',
    help: 'Orders by payment',
    labelNames: ['payment'],
    registers: [app.metrics.registry]
  })
  const placed = app.events.stream<{ product: string }>('orders')
  await placed.consume({ group: 'mail', handler: ({ data }) => app.log.info(data, 'mail sent') })

  app.get<{ Params: { id: string } }>('/products/:id', {
    config: { cache: true }
  }, async ({ params }) => ({ id: params.id, name: 'Teapot' }))
  app.post<{ Params: { id: string } }>('/orders/:id', async ({ params }, reply) => {
    const id = await placed.append({ product: params.id })
    orders.inc({ payment: 'card' })
    return await reply.code(201).send({ id })
  })
  return app
}

/** Compares secrets in a time that does not depend on where they differ. */
function isEqual (given: string, expected: string): boolean {
  const [left, right] = [Buffer.from(given), Buffer.from(expected)]
  return left.length === right.length && timingSafeEqual(left, right)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
