import type { FastifyInstance, FastifyServerOptions, InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import type { CachePluginOptions } from '../../../plugins/cache/index.js'
import type { RedisClient, RedisPluginOptions } from '../../../plugins/redis/index.js'
import { portOf } from '../../../plugins/shared/redis/client.js'
import { mastersOf } from '../../../plugins/shared/redis/info.js'
import { createTestApp, type TestApp, type TestAppOptions } from '../app/test-app.js'
import { forEachStore, newPrefix, type StoreName } from '../app/store.js'
import type { RedisServer } from '../servers/redis-server.js'

export interface CacheAppOptions extends Omit<TestAppOptions, 'plugins'> {
  /** Options of the cache. */
  options?: CachePluginOptions
}

/** Starts apps with the cache. Without `routes`, a test adds its own. */
export async function createCacheApp (t: Test, { options, ...rest }: CacheAppOptions = {}): Promise<TestApp> {
  return await createTestApp(t, { ready: rest.routes !== undefined, ...rest, plugins: { cache: { unkeyed: false, ...options } } })
}

export interface CacheApp {
  connection?: RedisPluginOptions | undefined
  options?: CachePluginOptions
  server?: FastifyServerOptions
  /** Registers other plugins before the cache. */
  before?: (app: FastifyInstance) => unknown
}

/** Starts an app with the cache and the system's clock, to which a test adds its routes. */
export async function buildCacheApp (t: Test, { connection, ...rest }: CacheApp = {}): Promise<FastifyInstance> {
  const store = connection?.url === undefined ? 'memory' : { url: connection.url }
  const { app } = await createCacheApp(t, { ...rest, clock: 'real', store, prefix: connection?.prefix ?? newPrefix() })
  return app
}

export interface Answer {
  status: number
  /** `X-Cache`. */
  cache: string
  headers: Record<string, unknown>
  body: string
  bytes: Buffer
}

export async function ask (app: FastifyInstance, url: string, headers: Record<string, string | string[]> = {}, more: InjectOptions = {}): Promise<Answer> {
  const response = await app.inject({ url, headers, ...more })
  return { status: response.statusCode, cache: String(response.headers['x-cache']), headers: response.headers, body: response.body, bytes: response.rawPayload }
}

/** Sends a request twice, with time in between to store the response. @returns both responses */
export async function askTwice (app: FastifyInstance, url: string, headers: Record<string, string> = {}, others = headers): Promise<[Answer, Answer]> {
  const first = await ask(app, url, headers)
  await settled(app)
  return [first, await ask(app, url, others)]
}

/** More turns than any background work of an app takes. */
const STEPS = 20

/**
 * Resolves when the background work of the apps, such as storing, has ended. Each step of it takes some turns of the event loop and a round trip to
 * Redis, on the connection that the app uses itself.
 */
export async function settled (...apps: FastifyInstance[]): Promise<void> {
  for (let step = 0; step < STEPS; step++) {
    for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
    await Promise.all(apps.map(ping))
  }
}

async function ping (app: FastifyInstance): Promise<void> {
  if (!app.hasDecorator('redis')) return
  await Promise.all(mastersOf(portOf(app.redis as RedisClient)).map(node => node.send('ping', [])))
}

/** Creates a gate that holds handlers until it is opened. */
export function gate (): { opened: Promise<void>, open: () => void } {
  let open = (): void => {}
  const opened = new Promise<void>(resolve => { open = resolve })
  return { opened, open }
}

/** Defines a test for the memory store and one for Redis. */
export function onBothStores (name: string, test: (t: Test, store: StoreName) => Promise<unknown>): void {
  forEachStore(['memory', 'redis'], store => { t.test(`${store}: ${name}`, t => test(t, store)) })
}

/** Defines a test for each store, with the system's clock. */
export function onEachStore (server: RedisServer) {
  return (name: string, test: (t: Test, connection: RedisPluginOptions | undefined) => Promise<unknown>) => {
    for (const store of ['memory', 'Redis']) {
      t.test(`${store}: ${name}`, t => test(t, store === 'Redis' ? { url: server.url, prefix: newPrefix() } : undefined))
    }
  }
}
