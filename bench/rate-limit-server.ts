// One server for `bench/rate-limit.ts`: `tsx bench/rate-limit-server.ts <variant> <max> <redis url>`; prints its
// address.
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { Redis } from 'ioredis'
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'
import type { RateLimitPluginOptions } from '../plugins/rate-limit/options/types.js'
import { peerRateLimit as peer } from './peer-rate-limit.js'
import { compiled } from './frame/compiled.js'
import { serve, tell } from './serve.js'

const { rateLimit, redis: redisPlugin } = await compiled('index') as typeof import('../plugins/index.js')

const [variant = '', max = '', url = ''] = process.argv.slice(2)
// A window of a second: in a window of a minute, a client with so many allowed requests would measure the size of its
// log only.
const limit = { max: Number(max), timeWindow: Number(max) > 1 ? '1 second' : '1 minute' }
let requests = 0
/** Each request is the first one of its client. */
const aKeyARequest = { keyGenerator: () => `${process.pid}-${requests++}` }
// All variants have the same client options, because pipelining is not compared.
const connect = () => new Redis(url, { enableAutoPipelining: true })

const variants: Record<string, (app: FastifyInstance) => Promise<unknown>> = {
  bare: async () => {},
  // The floor of a limiter that is a hook of Fastify, and sends these fields.
  'bare + hook and fields': async app => {
    app.addHook('onRequest', (_request, reply, done) => {
      reply.header('x-ratelimit-limit', limit.max).header('x-ratelimit-remaining', requests++)
        .header('x-ratelimit-reset', 1).header('ratelimit-policy', `"default";q=${limit.max};w=1`)
        .header('ratelimit', `"default";r=${requests};t=1`)
      if (limit.max > 1) return done()
      reply.header('retry-after', 1)
      Error.stackTraceLimit = 0
      done(Object.assign(new Error('Too many requests'), { statusCode: 429 }))
    })
  },
  'bare + GET': async app => {
    const redis = connect()
    app.addHook('onRequest', async () => { await redis.get('key') })
  },
  'this suite, memory': async app => await app.register(rateLimit, limit),
  'this suite, Redis': async app => await suite(app, limit),
  'this suite, Redis, a key a request': async app => await suite(app, { ...limit, ...aKeyARequest }),
  '@fastify/rate-limit, memory': async app => await app.register(peer, limit),
  '@fastify/rate-limit, Redis': async app => await app.register(peer, { ...limit, redis: connect() }),
  '@fastify/rate-limit, Redis, a key a request': async app =>
    await app.register(peer, { ...limit, ...aKeyARequest, redis: connect() }),
  'rate-limiter-flexible, Redis': async app => flexible(app, request => request.ip),
  'rate-limiter-flexible, Redis, a key a request': async app => flexible(app, aKeyARequest.keyGenerator)
}

async function suite (app: FastifyInstance, options: RateLimitPluginOptions): Promise<void> {
  await app.register(redisPlugin, { url })
  await app.register(rateLimit, options)
}

function flexible (app: FastifyInstance, keyOf: (request: FastifyRequest) => string): void {
  const limiter = new RateLimiterRedis({
    storeClient: connect(), points: limit.max, duration: limit.timeWindow === '1 second' ? 1 : 60
  })
  app.addHook('onRequest', async (request, reply) => {
    try {
      const { remainingPoints, msBeforeNext } = await limiter.consume(keyOf(request))
      reply.headers({
        'x-ratelimit-limit': limit.max,
        'x-ratelimit-remaining': remainingPoints,
        'x-ratelimit-reset': Math.ceil(msBeforeNext / 1000)
      })
    } catch (refusal) {
      if (!(refusal instanceof RateLimiterRes)) throw refusal
      reply.header('retry-after', Math.ceil(refusal.msBeforeNext / 1000))
      throw Object.assign(new Error('Too many requests'), { statusCode: 429 })
    }
  })
}

const app = Fastify()
await variants[variant]?.(app)
const body = Buffer.alloc(1024, 'x')
app.get('/', (_request, reply) => { reply.send(body) })
tell(await serve(app))
