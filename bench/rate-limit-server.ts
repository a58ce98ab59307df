// One server for `bench/rate-limit.ts`: `tsx bench/rate-limit-server.ts <variant> <max> <redis url>`; tells its port.
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { RateLimiterRedis, RateLimiterRes } from 'rate-limiter-flexible'
import { rateLimit } from '../plugins/rate-limit/index.js'
import { redis as redisPlugin } from '../plugins/redis/index.js'
import { peerRateLimit as peer } from './peer-rate-limit.js'

const [variant = '', max = '', url = ''] = process.argv.slice(2)
const limit = { max: Number(max), timeWindow: '1 minute' }
const NO_HEADERS = Object.fromEntries(['x-ratelimit-limit', 'x-ratelimit-remaining', 'x-ratelimit-reset', 'retry-after', 'ratelimit', 'ratelimit-policy'].map(name => [name, false]))
// All of them get the same client options, as pipelining is not what is compared.
const connect = () => new Redis(url, { enableAutoPipelining: true })

const variants: Record<string, (app: FastifyInstance) => Promise<unknown>> = {
  bare: async () => {},
  'bare + GET': async app => {
    const redis = connect()
    app.addHook('onRequest', async () => { await redis.get('key') })
  },
  'suite, memory': async app => await app.register(rateLimit, limit),
  'suite, memory, no headers': async app => await app.register(rateLimit, { ...limit, addHeadersOnExceeding: NO_HEADERS, addHeaders: NO_HEADERS }),
  'suite, Redis': async app => {
    await app.register(redisPlugin, { url })
    await app.register(rateLimit, limit)
  },
  '@fastify/rate-limit, memory': async app => await app.register(peer, limit),
  '@fastify/rate-limit, Redis': async app => await app.register(peer, { ...limit, redis: connect() }),
  'rate-limiter-flexible, Redis': async app => {
    const limiter = new RateLimiterRedis({ storeClient: connect(), points: limit.max, duration: 60 })
    app.addHook('onRequest', async (request, reply) => {
      try {
        const { remainingPoints, msBeforeNext } = await limiter.consume(request.ip)
        reply.headers({ 'x-ratelimit-limit': limit.max, 'x-ratelimit-remaining': remainingPoints, 'x-ratelimit-reset': Math.ceil(msBeforeNext / 1000) })
      } catch (refusal) {
        if (!(refusal instanceof RateLimiterRes)) throw refusal
        reply.header('retry-after', Math.ceil(refusal.msBeforeNext / 1000))
        throw Object.assign(new Error('Too many requests'), { statusCode: 429 })
      }
    })
  }
}

const app = Fastify()
await variants[variant]?.(app)
const body = Buffer.alloc(1024, 'x')
app.get('/', (_request, reply) => { reply.send(body) })
const address = await app.listen({ port: 0, host: '127.0.0.1' })
process.send?.(address)
process.once('SIGINT', () => process.exit())
