// Cached pages for users who are logged in by a JSON Web Token. Run it with
// `npx tsx examples/guides/logged-in-pages-jwt.ts`.
import { pathToFileURL } from 'node:url'
import jwt from '@fastify/jwt'
import Fastify, { type FastifyRequest } from 'fastify'
import { cache, rateLimit, redis } from '../../plugins/index.js'
import type { Clock } from '../../plugins/testing/index.js'

// Set by `jwtVerify()`. An app may declare the type of its tokens instead, as the interface `FastifyJWT` of
// @fastify/jwt.
const subjectOf = ({ user }: FastifyRequest) => (user as { sub: string }).sub

export async function build ({ clock }: { clock?: Clock } = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'pages' })
  await app.register(jwt, { secret: process.env['JWT_SECRET'] ?? 'only for this example, 32 characters' })
  // The limit of a route is checked in `preHandler`, where the user is known.
  await app.register(
    rateLimit, { hook: 'preHandler', max: 100, timeWindow: '1 minute', keyGenerator: subjectOf, clock }
  )
  await app.register(cache, { ttl: '5m', clock })

  app.get('/products', { config: { rateLimit: false, cache: { public: true } } }, async () => ['teapot', 'kettle'])

  await app.register(async account => {
    // An invalid or expired token is a 401, also where a response for its user is stored.
    account.addHook('onRequest', async request => { await request.jwtVerify() })
    account.get('/me', { config: { cache: { private: subjectOf } } }, async request => ({ user: subjectOf(request) }))
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
