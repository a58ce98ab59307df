import type { Http2ServerRequest } from 'node:http2'
import Fastify from 'fastify'
import { cache, events, health, idempotency, metrics, rateLimit, session } from 'fastify-redis-suite'
import { expectType } from 'tsd'

// An app over HTTP/2 has other types of requests and replies than one over HTTP/1.1.
const app = Fastify({ http2: true, https: { allowHTTP1: true } })

app.register(metrics, { expose: request => request.ip === '10.0.0.1' })
app.register(events)
app.register(session, { secret: 'x' })
app.register(rateLimit, { max: request => request.url.length, keyGenerator: request => request.ip })
app.register(cache, { explain: request => request.ip === '10.0.0.1' })
app.register(health, { details: request => request.ip === '10.0.0.1' })
app.register(idempotency, { scope: request => request.ip })

app.addHook('onRequest', app.rateLimit())
app.addHook('preParsing', app.rateLimit())
const limit = app.rateLimit({ max: 3 })
app.get<{ Params: { id: string } }>('/live/:id', {
  preHandler: limit,
  preParsing: [limit],
  config: { cache: { private: request => request.ip, tags: request => [request.ip] }, rateLimit: { cost: request => request.url.length } }
}, async (request, reply) => {
  expectType<Http2ServerRequest>(request.raw)
  expectType<Promise<void>>(limit(request, reply))
  await app.createRateLimit()(request)
  await app.sessions.login(request, 'ann')
  await app.sessions.logout(request)
  await request.login('ann')
  expectType<() => void>(app.sessions.watch(request, () => {}))
  await reply.noCache().cacheTags('a')
  await app.events.sse(request, reply, 'order:*', { heartbeat: '1s' })
})
