// An app behind nginx, Cloudflare or another proxy. Run it with
// `TRUST_PROXY=127.0.0.1 npx tsx examples/guides/in-front.ts`.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { events, health, metrics, rateLimit, redis, session } from '../../plugins/index.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
}

export async function build (
  { trustProxy = process.env['TRUST_PROXY'] ?? false }: { trustProxy?: string | false } = {}
) {
  // The addresses of the proxies: '127.0.0.1' for nginx on this machine, or '10.0.0.0/8,fd00::/8' for a network.
  const app = Fastify({ trustProxy, logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'in-front' })
  await app.register(metrics)
  await app.register(session, { secret: process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters' })
  await app.register(rateLimit, { max: 5, timeWindow: '1 minute' })
  await app.register(health)
  await app.register(events)

  // The client, as all plugins see it.
  app.get('/client', async ({ ip, protocol, host }) => ({ ip, protocol, host }))
  // The cookie is `Secure`, as the client's protocol is https.
  app.post<{ Params: { user: string } }>('/login/:user', async request => {
    await request.login(request.params.user)
    return { welcome: request.params.user }
  })
  app.get(
    '/live', { config: { rateLimit: false } }, async (request, reply) => await app.events.sse(request, reply, 'news')
  )
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
