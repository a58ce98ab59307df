// Shops for tests of the demo: all apps of a test file share one embedded database, which takes a second of CPU to open.
import type { FastifyInstance } from 'fastify'
import type { Cluster, Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { buildApp, type ShopOptions } from '../../../app.js'
import type { Database } from '../../../demo/query.js'
import { openEmbedded } from '../../../demo/embedded.js'
import type { Clock } from '../../../plugins/shared/plugin/clock.js'
import type { TestClock } from '../../../plugins/testing/index.js'
import { closeApp } from '../app/test-app.js'
import { waitForReplies } from '../app/store.js'
import { sharedCluster, sharedRedis } from '../servers/shared.js'
import { DATABASE_SNAPSHOT, shopConfig } from './shop.js'

let shared: Promise<Database> | undefined

/** The embedded database of this test file. */
export function sharedDatabase (): Promise<Database> {
  if (shared === undefined) {
    shared = openEmbedded(DATABASE_SNAPSHOT)
    t.teardown(async () => await (await shared)?.close())
  }
  return shared
}

export interface StartShopOptions extends ShopOptions {
  env?: NodeJS.ProcessEnv
  /** How many apps share the store and the database. @default 1 */
  instances?: number
  /** Called before an app is ready. */
  routes?: (app: FastifyInstance) => unknown
}

/** Starts apps of one shop, and closes them with the test; the rate limit does not apply unless `env` sets it. */
export async function startShop (t: Test, { env, instances = 1, routes, clock, ...options }: StartShopOptions = {}): Promise<[FastifyInstance, ...FastifyInstance[]]> {
  const db = await sharedDatabase()
  const config = shopConfig({ SESSION_SECRET: 'one secret for all the instances of it', RATE_LIMIT_MAX: '100000', ...env })
  const apps: FastifyInstance[] = []
  if (isTestClock(clock)) waitForReplies(t, clock, () => apps.flatMap(app => app.hasDecorator('redis') ? [app.redis as Redis | Cluster] : []))
  const start = async () => {
    const app = await buildApp(config, { db, clock, ...options })
    t.teardown(async () => { await (isTestClock(clock) ? closeApp(app, clock) : app.close()) })
    await routes?.(app)
    await app.ready()
    apps.push(app)
    return app
  }
  const first = await start()
  const others: FastifyInstance[] = []
  while (others.length < instances - 1) others.push(await start())
  return [first, ...others]
}

function isTestClock (clock: Clock | undefined): clock is TestClock {
  return clock !== undefined && 'advance' in clock
}

/** The environment variables for each store of the demo, on shared servers. */
export async function shopStores (): Promise<Record<'memory' | 'Redis' | 'Cluster', NodeJS.ProcessEnv>> {
  const { url } = await sharedRedis()
  const { startupNodes } = await sharedCluster()
  return { memory: {}, Redis: { REDIS_URL: url }, Cluster: { REDIS_CLUSTER: startupNodes.map(({ host, port }) => `${host}:${port}`).join(',') } }
}
