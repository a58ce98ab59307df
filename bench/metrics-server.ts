// One server for `bench/metrics.ts`: `tsx bench/metrics-server.ts <variant> <redis url>`; prints its address.
import Fastify from 'fastify'
import { compiled } from './frame/compiled.js'
import { serve, tell } from './serve.js'

const { cache, metrics, rateLimit, redis, session } = await compiled('index') as typeof import('../plugins/index.js')

declare module 'fastify' {
  interface Session {
    visits?: number
  }
}

const [variant = '', url = ''] = process.argv.slice(2)
const app = Fastify()
if (variant !== 'this suite, without metrics') {
  await app.register(metrics, { tracing: variant === 'this suite, metrics, tracing' })
}
await app.register(redis, { url, prefix: 'bench' })
await app.register(rateLimit, { max: 100_000, timeWindow: '1 second' })
await app.register(session, { secret: 'a secret of at least thirty-two characters' })
await app.register(cache, { unkeyed: false })
const body = Buffer.alloc(1024, 'x')
app.post('/visit', { config: { rateLimit: false } }, async request => { request.session.visits = 1 })
// The decision and the session are read from Redis, the response from L1.
app.get(
  '/cached/:id', { config: { cache: { ttl: '1 hour', private: request => request.session.visits } } },
  (_request, reply) => { reply.send(body) }
)
app.get(
  '/plain', { config: { cache: false, rateLimit: false, session: false } }, (_request, reply) => { reply.send(body) }
)
tell(await serve(app))
