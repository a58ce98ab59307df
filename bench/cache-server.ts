// One server for `bench/cache.ts`: `tsx bench/cache-server.ts <variant> <bytes> <redis url>`; prints its address.
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { startNginx } from './nginx.js'
import { compiled } from './frame/compiled.js'
import { measureAlso, serve, tell } from './serve.js'

const { cache, redis: redisPlugin } = await compiled('index') as typeof import('../plugins/index.js')

const [variant = '', bytes = '', url = ''] = process.argv.slice(2)
const body = Buffer.alloc(Number(bytes), 'x')

/**
 * Rewrites a URL, so that each request is a new one. A load generator that made URLs would be part of the measurement.
 */
let count = 0
const urls: Record<string, () => string> = {
  'this suite, L2 hit, 100 keys': () => `/?${count++ % 100}`,
  'this suite, miss': () => `/?${process.pid}-${count++}`
}

async function suite (app: FastifyInstance, l1?: false): Promise<void> {
  await app.register(redisPlugin, { url })
  const ttl = variant === 'this suite, miss' ? '10s' : '1h'
  await app.register(cache, { global: true, ttl, unkeyed: false, ...(l1 === false && { l1 }) })
}

async function bareWithGet (app: FastifyInstance, key: string, value: Buffer): Promise<void> {
  const redis = new Redis(url, { enableAutoPipelining: true })
  await redis.set(key, value)
  app.get('/', async () => await redis.getBuffer(key))
}

const ready = (app: FastifyInstance) => app.get('/', (_request, reply) => { reply.send(body) })

const variants: Record<string, (app: FastifyInstance) => Promise<unknown>> = {
  bare: async app => ready(app),
  // The floor of a cache that is made of hooks of Fastify, and sends these fields.
  'bare + hooks and fields': async app => {
    const date = new Date().toUTCString()
    app.addHook('onRequest', (_request, reply) => {
      reply.header('content-type', 'application/octet-stream').header('date', date).code(200).header('age', 1)
      reply.send(body)
    })
    app.addHook('onSend', (_request, _reply, payload, done) => done(null, payload))
    app.addHook('onSend', (_request, reply, payload, done) => {
      reply.header('x-cache', 'HIT').header('cache-status', 'fastify;hit;ttl=3599')
      done(null, payload)
    })
    ready(app)
  },
  'bare + GET, small': async app => {
    const redis = new Redis(url, { enableAutoPipelining: true })
    app.addHook('onRequest', async () => { await redis.get('small') })
    ready(app)
  },
  'bare + GET, the body': async app => await bareWithGet(app, `body:${bytes}`, body),
  'this suite, L1 hit': async app => { await suite(app); ready(app) },
  'this suite, L2 hit': async app => { await suite(app, false); ready(app) },
  'this suite, L2 hit, 100 keys': async app => { await suite(app, false); ready(app) },
  'this suite, miss': async app => { await suite(app); ready(app) },
  'nginx, hit': async app => ready(app)
}

const rewrite = urls[variant]
const app = Fastify({ ...(rewrite !== undefined && { rewriteUrl: rewrite }) })
await variants[variant]?.(app)
const own = await serve(app)
const nginx = variant === 'nginx, hit' ? await startNginx(own) : undefined
if (nginx !== undefined) measureAlso(nginx.cpuMicros)
process.on('exit', () => nginx?.stop())
process.on(
  'message', message => { if (message === 'stats') process.send?.(app.hasDecorator('cache') ? app.cache.stats() : {}) }
)
tell(nginx?.url ?? own)
