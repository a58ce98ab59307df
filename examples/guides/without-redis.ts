// One app that runs with and without Redis. Run it with `npx tsx examples/guides/without-redis.ts`, and with REDIS_URL
// set.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { cache, events, idempotency, lock, rateLimit, redis, session } from '../../plugins/index.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
}

export async function build (
  {
    url = process.env['REDIS_URL'], instances = process.env['INSTANCES'] ?? '1'
  }: { url?: string | undefined, instances?: string } = {}
) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  // The only line that depends on Redis. All plugins below use it, or the memory of this process.
  if (url) await app.register(redis, { url, prefix: 'shop' })
  else if (Number(instances) > 1) throw new Error('REDIS_URL is required for more than one instance')

  await app.register(session, { secret: process.env['SESSION_SECRET'] ?? 'only for this example, 32 characters' })
  await app.register(rateLimit, { max: 3, timeWindow: '1 minute' })
  await app.register(cache, { ttl: '5m' })
  await app.register(idempotency)
  await app.register(lock)
  await app.register(events)

  let reports = 0
  let payments = 0
  const heard: unknown[] = []
  await app.events.subscribe('news', message => { heard.push(message) })

  app.get('/limited', async () => 'hello')
  app.get('/report', { config: { rateLimit: false, cache: true } }, async () => ({ report: ++reports }))
  app.post<{ Params: { user: string } }>('/login/:user', { config: { rateLimit: false } }, async request => {
    await request.login(request.params.user)
    return { welcome: request.params.user }
  })
  app.get('/me', { config: { rateLimit: false } }, async request => ({ user: request.session.userId ?? null }))
  app.post('/payments', { config: { rateLimit: false, idempotency: true } }, async () => ({ payment: ++payments }))
  app.post('/jobs', { config: { rateLimit: false } }, async () =>
    await app.locks.using('job', { wait: 0 }, async () => {
      await app.events.publish('news', 'the job is done')
      return { done: true }
    }))
  app.get('/news', { config: { rateLimit: false } }, async () => heard)
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
