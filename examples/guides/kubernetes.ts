// An app for Kubernetes: probes, a drain before it closes, and an exit before the grace period is
// over. Its manifest is `kubernetes.yaml`. Run it with `npx tsx examples/guides/kubernetes.ts`, and
// end it with Ctrl+C: `/health/ready` fails for DRAIN_DELAY, and requests are still served.
import { pathToFileURL } from 'node:url'
import closeWithGrace from 'close-with-grace'
import Fastify from 'fastify'
import { health, redis } from '../../plugins/index.js'

export async function build () {
  const logger = { level: process.env['LOG_LEVEL'] ?? 'info' }
  const app = Fastify({ logger, handlerTimeout: 15_000 })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'shop' })
  await app.register(health, { drainDelay: process.env['DRAIN_DELAY'] ?? '10s' })
  app.get('/', async () => ({ pod: process.env['POD_NAME'] ?? 'none' }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  // Exits after this time in any case: DRAIN_DELAY, the longest request, and what closing takes. The
  // grace period of the pod is longer.
  closeWithGrace({ delay: 35_000 }, async ({ signal, err }) => {
    if (err) app.log.error({ err }, 'closing after an error')
    else app.log.info({ signal }, 'draining')
    await app.health.drain()
    await app.close()
  })
  await app.listen({ host: '0.0.0.0', port: Number(process.env['PORT'] ?? 3000) })
}
