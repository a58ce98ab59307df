import sensible from '@fastify/sensible'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { bank } from './demo/bank.js'
import { changes } from './demo/changes.js'
import { checkout } from './demo/checkout.js'
import { database } from './demo/database.js'
import type { Database } from './demo/query.js'
import { docs } from './demo/docs.js'
import { document } from './demo/document.js'
import { errors } from './demo/errors.js'
import { fallbacks } from './demo/fallbacks.js'
import { leaderboard } from './demo/leaderboard.js'
import { live } from './demo/live.js'
import { page } from './demo/page.js'
import type { Config } from './demo/config.js'
import { mails } from './demo/mails.js'
import { exposeByToken } from './demo/metrics-token.js'
import type { OwnRedis } from './demo/own-redis.js'
import { parcels } from './demo/parcels.js'
import { verifyPassword } from './demo/password.js'
import { sale as saleStore } from './demo/sale.js'
import { unusedConnections } from './demo/unused-connections.js'
import { views } from './demo/views.js'
import { visitors } from './demo/visitors.js'
import { cache, events, health, idempotency, lock, metrics, rateLimit, redis, session } from './plugins/index.js'
import type { Clock } from './plugins/testing/index.js'
import { breakRedis } from './routes/break-redis.js'
import { cart } from './routes/cart.js'
import { home } from './routes/home.js'
import { liveRoutes } from './routes/live.js'
import { login } from './routes/login.js'
import { me } from './routes/me.js'
import { orders } from './routes/orders.js'
import { products } from './routes/products.js'
import { sale } from './routes/sale.js'
import { statistics } from './routes/statistics.js'

declare module 'fastify' {
  interface FastifyInstance {
    verifyPassword: typeof verifyPassword
  }
}

export interface ShopOptions extends FastifyServerOptions {
  /** The clock of all plugins, sales and the live page. @default the system's clock */
  clock?: Clock | undefined
  /** An open database in place of the configured one; the caller closes it. */
  db?: Database | undefined
  /** Whether the progress of a long start is logged on the standard output. @default false */
  logProgress?: boolean | undefined
  /**
   * A Redis that the demo has started, in place of the configured one: the live page may break it. The caller stops it.
   */
  ownRedis?: OwnRedis | undefined
}

/** Composes the demo shop from plugins and routes. It does not listen. */
export async function buildApp (
  config: Config, { clock, db, logProgress, ownRedis, ...options }: ShopOptions = {}
): Promise<FastifyInstance> {
  const app = Fastify({
    trustProxy: config.TRUST_PROXY,
    // The first start fills the database, which may take longer than Fastify's default.
    pluginTimeout: 120_000,
    // Unknown properties are refused, and not silently removed.
    // The named examples of a body are for the documentation only.
    ajv: { customOptions: { removeAdditional: false, keywords: ['x-examples'] } },
    ...options
  }).withTypeProvider<TypeBoxTypeProvider>()

  await app.register(unusedConnections)
  await app.register(sensible)
  // Before the rate limiter and sessions, which the documentation does not need.
  await app.register(docs)
  await registerRedis(
    app, ownRedis === undefined ? config : { REDIS_URL: ownRedis.url, clusterNodes: undefined }, clock
  )
  const isLimited = config.RATE_LIMIT_MAX > 0
  await app.register(
    rateLimit, { global: isLimited, max: isLimited ? config.RATE_LIMIT_MAX : undefined, timeWindow: '1 minute', clock }
  )
  await app.register(session, { secret: config.SESSION_SECRET, maxPerUser: 20, clock })
  await app.register(cache, { ttl: '30s', staleWhileRevalidate: '5m', clock })
  await app.register(idempotency, { clock })
  await app.register(events, { clock })
  await app.register(lock, { clock })
  await app.register(metrics, { expose: exposeByToken(config.METRICS_TOKEN), clock })
  await app.register(errors, { isLimited })

  await app.register(database, { url: config.DATABASE_URL, snapshot: config.DATABASE_SNAPSHOT, db, logProgress })
  // After the database: filling it blocks the event loop, which health would report as pressure.
  await app.register(
    health,
    {
      drainDelay: config.DRAIN_DELAY,
      serviceId: 'shop',
      clock,
      underPressure: { maxEventLoopDelay: config.MAX_EVENT_LOOP_DELAY }
    }
  )
  await app.register(live, { clock })
  await app.register(changes)
  await app.register(leaderboard)
  await app.register(mails)
  await app.register(checkout)
  await app.register(saleStore, { clock })
  await app.register(views, { clock })
  await app.register(visitors)
  for (const plugin of [document, bank, parcels]) await app.register(plugin, { clock })
  if (ownRedis !== undefined) await app.register(fallbacks, { ownRedis, clock })
  app.decorate('verifyPassword', verifyPassword)
  app.health.addCheck('database', async () => { await app.db.query('SELECT 1') })
  // In a context of their own: other routes send no documents, and need no security headers for them.
  await app.register(async child => {
    for (const plugin of [page, home, liveRoutes]) await child.register(plugin)
  })
  if (ownRedis !== undefined) await app.register(breakRedis)
  for (const routes of [products, login, me, cart, orders, sale, statistics]) await app.register(routes)
  return app
}

/** Without Redis, the other plugins use their memory stores. */
async function registerRedis (
  app: FastifyInstance,
  { REDIS_URL, REDIS_PASSWORD, clusterNodes }: Pick<Config, 'REDIS_URL' | 'REDIS_PASSWORD' | 'clusterNodes'>,
  clock: Clock | undefined
): Promise<void> {
  const common = { prefix: 'shop', clock, ...(REDIS_PASSWORD === undefined ? {} : { password: REDIS_PASSWORD }) }
  if (clusterNodes) await app.register(redis, { ...common, cluster: { nodes: clusterNodes } })
  else if (REDIS_URL !== undefined) await app.register(redis, { ...common, url: REDIS_URL })
}
