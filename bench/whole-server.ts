// One server for `bench/whole.ts`: `tsx bench/whole-server.ts <variant> <redis url>`; prints its address.
import fastifyCookie from '@fastify/cookie'
import fastifySession, { type FastifySessionOptions } from '@fastify/session'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis'
import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import { Redis } from 'ioredis'
import { createBlobStore } from './blob-store.js'
import { peerRateLimit } from './peer-rate-limit.js'
import { compiled } from './frame/compiled.js'
import { serve, tell } from './serve.js'

declare module 'fastify' {
  interface Session {
    userId?: string
  }
}

const {
  cache, rateLimit, redis: redisPlugin, session
} = await compiled('index') as typeof import('../plugins/index.js')

const [variant = '', url = ''] = process.argv.slice(2)
const secret = 'of the bench, thirty-two characters or more'
// All variants pipeline, because pipelining is not compared.
const connect = () => new Redis(url, { enableAutoPipelining: true })
const limit = { max: 100_000, timeWindow: '1 minute' }
/** 1 KiB, generated in advance: generating it is not compared. */
const body = JSON.stringify(
  {
    orders: Array.from({ length: 12 }, (_, i) =>
      ({ id: `order-${1000 + i}`, total: 19_990 + i, state: 'delivered', items: ['product-1', 'p-2'] }))
  }
)

async function suite (app: FastifyInstance, options: { redis?: false, l1?: false, early?: true }): Promise<void> {
  const { l1, early = false } = options
  if (options.redis !== false) await app.register(redisPlugin, { url, prefix: 'bench' })
  await app.register(rateLimit, { ...limit, early })
  await app.register(session, { secret })
  await app.register(cache, { unkeyed: false, ...(l1 === false && { l1 }) })
  app.get('/orders', {
    config: { cache: { ttl: '1h', private: request => request.session.userId } }, preHandler: requireLogin
  }, (_request, reply) => {
    reply.type('application/json').send(body)
  })
}

type Tiers = 'both' | 'redis' | 'memory'

function bentoOf (tiers: Tiers): BentoCache<{ bench: ReturnType<typeof bentostore> }> {
  const { hostname: host, port } = new URL(url)
  const connection = { host, port: Number(port), enableAutoPipelining: true }
  const store = bentostore()
  if (tiers !== 'redis') store.useL1Layer(memoryDriver({ maxSize: '64mb', maxItems: 100_000 }))
  if (tiers !== 'memory') store.useL2Layer(redisDriver({ connection }))
  if (tiers === 'both') store.useBus(redisBusDriver({ connection }))
  return new BentoCache({ default: 'bench', ttl: '1h', stores: { bench: store } })
}

async function peers (app: FastifyInstance, tiers: Tiers, options: Partial<FastifySessionOptions> = {}): Promise<void> {
  const isShared = tiers !== 'memory'
  await app.register(fastifyCookie)
  // By default the cookie is sent over HTTPS only, and without it no session would be saved here.
  await app.register(
    fastifySession,
    { secret, cookie: { secure: false }, ...(isShared && { store: createBlobStore(connect()) }), ...options }
  )
  await app.register(peerRateLimit, { ...limit, ...(isShared && { redis: connect() }) })
  const bento = bentoOf(tiers)
  app.get('/orders', { preHandler: requireLogin }, async (request, reply) => {
    reply.type('application/json')
    return await bento.getOrSet({ key: `orders:${request.session.userId}`, factory: () => body })
  })
}

async function requireLogin (request: FastifyRequest): Promise<void> {
  if (request.session.userId === undefined) throw Object.assign(new Error('not logged in'), { statusCode: 401 })
}

function ready (app: FastifyInstance): void {
  app.get('/orders', (_request, reply) => { reply.type('application/json').send(body) })
}

const variants: Record<string, (app: FastifyInstance) => Promise<unknown>> = {
  bare: async app => ready(app),
  'bare + GET': async app => {
    const redis = connect()
    app.addHook('onRequest', async () => { await redis.get('key') })
    ready(app)
  },
  'this suite': async app => await suite(app, {}),
  'this suite, early': async app => await suite(app, { early: true }),
  'this suite, without L1, early': async app => await suite(app, { l1: false, early: true }),
  'this suite, without L1': async app => await suite(app, { l1: false }),
  'this suite, memory': async app => await suite(app, { redis: false }),
  peers: async app => await peers(app, 'both'),
  'peers, without L1': async app => await peers(app, 'redis'),
  'peers, rolling: false': async app => await peers(app, 'both', { rolling: false }),
  'peers, rolling: false, without L1': async app => await peers(app, 'redis', { rolling: false }),
  'peers, memory': async app => await peers(app, 'memory')
}

// Each client has its own address in X-Forwarded-For.
const app = Fastify({ trustProxy: true })
await variants[variant]?.(app)
app.get<{ Params: { user: string } }>('/login/:user', async request => {
  if (!variant.startsWith('bare')) Object.assign(request.session, { userId: request.params.user })
  return {}
})
tell(await serve(app))
