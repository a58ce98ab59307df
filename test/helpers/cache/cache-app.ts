import Fastify, { type FastifyInstance, type FastifyServerOptions, type InjectOptions } from 'fastify'
import t, { type Test } from 'tap'
import { cache, type CachePluginOptions } from '../../../plugins/cache/index.js'
import { redis, type RedisPluginOptions } from '../../../plugins/redis/index.js'
import type { RedisServer } from '../servers/redis-server.js'

export interface CacheApp {
  connection?: RedisPluginOptions | undefined
  options?: CachePluginOptions
  server?: FastifyServerOptions
  /** What is registered before the cache. */
  before?: (app: FastifyInstance) => unknown
}

/** An app with the cache, to which a test adds its routes. */
export async function buildCacheApp (t: Test, { connection, options = {}, server = {}, before }: CacheApp = {}): Promise<FastifyInstance> {
  const app = Fastify(server)
  t.teardown(() => app.close())
  await before?.(app)
  if (connection) await app.register(redis, connection)
  await app.register(cache, { unkeyed: false, ...options })
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

/** Asks twice, and lets what is stored be stored. @returns both answers */
export async function askTwice (app: FastifyInstance, url: string, headers: Record<string, string> = {}, others = headers): Promise<[Answer, Answer]> {
  const first = await ask(app, url, headers)
  await settled()
  return [first, await ask(app, url, others)]
}

/** Long enough for what is stored in the background. */
export const settled = () => new Promise(resolve => setTimeout(resolve, 15))

/** Defines a test for each store. */
export function onEachStore (server: RedisServer) {
  let prefixes = 0
  return (name: string, test: (t: Test, connection: RedisPluginOptions | undefined) => Promise<unknown>) => {
    for (const store of ['memory', 'Redis']) {
      t.test(`${store}: ${name}`, t => test(t, store === 'Redis' ? { url: server.url, prefix: `s${++prefixes}` } : undefined))
    }
  }
}
