// One server for `bench/session.ts`: `tsx bench/session-server.ts <variant> <redis url>`; prints its address.
import { setTimeout as sleep } from 'node:timers/promises'
import fastifyCookie from '@fastify/cookie'
import fastifySession, { type FastifySessionOptions } from '@fastify/session'
import Fastify, { type FastifyInstance } from 'fastify'
import { Redis } from 'ioredis'
import { createBlobStore } from './blob-store.js'
import { compiled } from './frame/compiled.js'
import { serve, tell } from './serve.js'

declare module 'fastify' {
  interface Session {
    [key: `field${string}`]: unknown
    userId?: string
    visits?: number
  }
}

const { session, redis: redisPlugin } = await compiled('index') as typeof import('../plugins/index.js')

const [variant = '', url = ''] = process.argv.slice(2)
const secret = 'of the bench, thirty-two characters or more'
// All variants pipeline, because pipelining is not compared.
const connect = () => new Redis(url, { enableAutoPipelining: true })

/** Together with `userId`, `visits` and the cookie: 1 KiB of JSON. */
const profile = {
  fieldName: 'Ann Example',
  fieldMail: 'ann@example.com',
  fieldRoles: ['customer', 'reviewer'],
  fieldLocale: 'en-GB',
  fieldTheme: { dark: true, dense: false },
  fieldToken: 't'.repeat(43),
  fieldCart: Array.from({ length: 6 }, (_, i) => ({ product: `product-${i}`, quantity: i + 1, price: 1999 + i })),
  fieldSeen: Array.from({ length: 20 }, (_, i) => `product-${100 + i}`)
}

/** Together with `userId`, as in `bench/scale-kinds.ts`. */
const smallProfile = {
  visits: 0,
  fieldCustomer: {
    name: 'Ann Example',
    mail: 'ann@example.com',
    roles: ['customer'],
    locale: 'en-GB',
    cart: [1, 2, 3].map(product => ({ product, quantity: 1, price: 1999 }))
  }
}

async function peer (app: FastifyInstance, options: Partial<FastifySessionOptions>): Promise<void> {
  await app.register(fastifyCookie)
  // By default the cookie is sent over HTTPS only, and without it no session would be saved here.
  await app.register(
    fastifySession, { secret, store: createBlobStore(connect()), cookie: { secure: false }, ...options }
  )
}

const variants: Record<string, (app: FastifyInstance) => Promise<unknown>> = {
  'this suite': async app => {
    await app.register(redisPlugin, { url, prefix: 'bench' })
    await app.register(session, { secret })
  },
  '@fastify/session, rolling': async app => await peer(app, {}),
  '@fastify/session, rolling: false': async app => await peer(app, { rolling: false })
}

function addSessionRoutes (app: FastifyInstance): void {
  app.get<{ Params: { user: string } }>('/login/:user', async request => {
    await request.session.regenerate()
    Object.assign(request.session, profile, { userId: request.params.user, visits: 0 })
    return { user: request.session.userId }
  })
  app.get<{ Params: { user: string } }>('/login-small/:user', async request => {
    await request.session.regenerate()
    Object.assign(request.session, smallProfile, { userId: request.params.user })
    return {}
  })
  app.get('/logout', async request => { await request.session.destroy(); return {} })
  app.get('/session', async request => ({ ...request.session }))
  // A request without a login counts as a failure of the benchmark.
  app.addHook('preHandler', async (request, reply) => {
    if (!request.url.startsWith('/log') && request.session.userId === undefined) return await reply.code(401).send({})
  })
  app.get('/read', async request => ({ user: request.session.userId }))
  app.get('/write', async request => {
    request.session.visits = (request.session.visits ?? 0) + 1
    return { user: request.session.userId }
  })
  addRaceRoutes(app)
}

function addRaceRoutes (app: FastifyInstance): void {
  app.get<{ Params: { name: string, ms: number } }>('/set/:name/:ms', async request => {
    if (Number(request.params.ms) > 0) await sleep(Number(request.params.ms))
    request.session[`field${request.params.name}`] = true
    return {}
  })
  const held = new Map<string, () => void>()
  process.on('message', (id: string) => { held.get(id)?.() })
  app.get<{ Params: { what: string, id: string } }>('/hold/:what/:id', async ({ session, params: { what, id } }) => {
    await new Promise<void>(resolve => {
      held.set(id, resolve)
      process.send?.(id)
    })
    held.delete(id)
    if (what === 'change') session.fieldHeld = true
    return {}
  })
}

const app = Fastify()
const addVariant = variants[variant]
if (addVariant !== undefined) {
  await addVariant(app)
  addSessionRoutes(app)
} else {
  if (variant === 'bare + GET') {
    const redis = connect()
    await redis.set('blob', JSON.stringify({ ...profile, userId: 'ann' }))
    app.addHook('onRequest', async () => { await redis.get('blob') })
  }
  for (const path of ['/read', '/write', '/login/:user']) app.get(path, async () => ({ user: 'user-0' }))
}
tell(await serve(app))
