// An API whose limits depend on the plan of the key. Run it with `npx tsx examples/guides/api-keys.ts`.
import { createHash } from 'node:crypto'
import { pathToFileURL } from 'node:url'
import Fastify, { type FastifyRequest } from 'fastify'
import { cache, rateLimit, redis } from '../../plugins/index.js'
import type { Clock } from '../../plugins/testing/index.js'

interface ApiKey {
  id: string
  account: string
  plan: 'free' | 'pro'
}

declare module 'fastify' {
  interface FastifyRequest {
    caller: ApiKey | null
  }
}

const digest = (key: string) => createHash('sha256').update(key).digest('base64url')

const plans = {
  none: { perMinute: 5, perDay: 50 }, // requests without a valid key, per address
  free: { perMinute: 60, perDay: 1000 },
  pro: { perMinute: 600, perDay: 50_000 }
}
const planOf = ({ caller }: FastifyRequest) => plans[caller?.plan ?? 'none']

/** A stand-in for the table of keys, which holds digests and no keys. */
export const keys = new Map<string, ApiKey>([
  [digest('free-key'), { id: 'k1', account: 'a1', plan: 'free' }],
  [digest('pro-key'), { id: 'k2', account: 'a2', plan: 'pro' }]
])
export const database = {
  lookups: 0,
  async findKey (hash: string): Promise<ApiKey | null> {
    database.lookups++
    return keys.get(hash) ?? null
  }
}

export async function build ({ clock }: { clock?: Clock } = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'api-keys' })
  await app.register(cache, { clock })

  // Looks the key up in the cache: one query per key and minute for all instances.
  app.decorateRequest('caller', null)
  app.addHook('onRequest', async request => {
    const key = request.headers['x-api-key']
    if (typeof key !== 'string') return
    const hash = digest(key)
    request.caller = await app.cache.getOrSet(`api-key:${hash}`, () => database.findKey(hash), {
      ttl: '1m',
      negativeTtl: '10s',
      staleIfError: '1h',
      tags: found =>
        found === null ? [] : [`account:${found.account}`]
    })
  })

  await app.register(rateLimit, {
    groupId: 'api',
    timeWindow: '1 minute',
    max: request => planOf(request).perMinute,
    keyGenerator: request => request.caller === null ? `address ${request.ip}` : `key ${request.caller.id}`,
    clock
  })
  const perDay = app.rateLimit({
    groupId: 'api-day', timeWindow: '1 day', max: request => planOf(request).perDay, algorithm: 'sliding-counter'
  })

  await app.register(async api => {
    // A preHandler runs after the limits, so that guesses are limited too.
    api.addHook('preHandler', async (request, reply) => {
      if (request.caller === null) return await reply.code(401).send({ error: 'send a valid key as X-Api-Key' })
    })
    api.addHook('onRequest', perDay)
    // The response is the same for all keys.
    api.get(
      '/products', { config: { cache: { ttl: '1m', harmless: ['x-api-key'] } } }, async () => ['teapot', 'kettle']
    )
    api.get('/search', { config: { rateLimit: { cost: 10 } } }, async () => ['teapot'])
    api.get('/plan', async ({ caller, rateLimit: state }) => ({ plan: caller?.plan, remaining: state?.remaining }))
  })

  // The billing system calls this when an account changes its plan.
  const internal = { config: { rateLimit: false } } as const
  app.post<{ Params: { account: string } }>('/internal/accounts/:account/changed', internal, async request => {
    await app.cache.invalidateTags([`account:${request.params.account}`])
    return { applied: true }
  })
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
