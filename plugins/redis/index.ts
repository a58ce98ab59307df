import fastifyRedis from '@fastify/redis'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { setKeyPrefix, type RedisClient } from '../shared/redis/client.js'
import { releaseCircuit } from '../shared/redis/guard.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { beginConnecting, closeClient, createClient, rememberNodes, waitUntilReady } from './connect.js'
import { logConnection } from './connection-log.js'
import { AlreadyRegisteredError, isSetupError } from './errors.js'
import { resolveRedisOptions, type RedisPluginOptions } from './options.js'

export type { Duration } from '../shared/plugin/duration.js'
export { clusterOf, type RedisClient } from '../shared/redis/client.js'
// Users compile with its declaration of `fastify.redis`.
export type { FastifyRedis } from '@fastify/redis'
export type { CircuitStatus } from '../shared/redis/circuit-breaker.js'
export { circuitOf } from '../shared/redis/guard.js'
export { systemClock, type Clock, type Timer } from '../shared/plugin/clock.js'
export { callRedis, type AppWithRedis } from './call.js'
export { defineScript, runScript } from './script.js'
export type { RedisScript, ScriptArguments, ScriptArgumentType, ScriptDefinition } from './script.js'
export type { RedisCallOptions, RedisPluginOptions, SuiteOptions } from './options.js'

/**
 * Connects to Redis: decorates `fastify.redis`, or `fastify.redis[namespace]`, with an ioredis client whose defaults
 * fit commands that a request waits for.
 *
 * @throws `FST_REDIS_SUITE_REDIS_CONNECT_*` if Redis is `required` (default) and unreachable,
 * `FST_REDIS_SUITE_REDIS_INVALID_OPTION`, `FST_REDIS_SUITE_REDIS_ALREADY_REGISTERED`
 * @example
 * ```typescript
 * await app.register(redis, { url: 'redis://127.0.0.1:6379' })
 * ```
 */
export const redis = fp<RedisPluginOptions>(async function redis (fastify, given) {
  const options = resolveRedisOptions(given)
  refuseSecond(fastify, options.namespace)
  watchRoutes(fastify)
  const { clock } = options
  const client = options.client ?? createClient(options)
  rememberNodes(client, options.target.cluster?.nodes)
  setKeyPrefix(client, options.prefix)
  const endLog = logConnection(client, fastify.log, options)
  if (options.closeClient) {
    fastify.addHook('onClose', async () => {
      endLog()
      releaseCircuit(client)
      await closeClient(client, options.closeTimeout, clock)
    })
  }

  beginConnecting(client)
  try {
    await waitUntilReady(client, options.connectTimeout, clock)
  } catch (error) {
    if (options.required || isSetupError(error)) {
      if (options.closeClient) client.disconnect()
      throw error
    }
  }
  await decorate(fastify, client, options.namespace)
}, { name: 'fastify-redis-suite/redis', fastify: '5.x' })

export default redis

function refuseSecond (fastify: FastifyInstance, namespace: string | undefined): void {
  if (!fastify.hasDecorator('redis')) return
  if (namespace === undefined) throw new AlreadyRegisteredError('fastify.redis')
  if (namespace in fastify.redis) throw new AlreadyRegisteredError(`fastify.redis.${namespace}`)
}

/**
 * Has `@fastify/redis` decorate the app, unless the client is not ready: it would wait for that until the boot times
 * out.
 */
async function decorate (fastify: FastifyInstance, client: RedisClient, namespace: string | undefined): Promise<void> {
  if (client.status === 'ready') {
    await fastify.register(fastifyRedis, { client, namespace })
  } else if (namespace === undefined) {
    fastify.decorate<unknown>('redis', client)
  } else {
    if (!fastify.hasDecorator('redis')) fastify.decorate<unknown>('redis', Object.create(null))
    Object.assign(fastify.redis, { [namespace]: client })
  }
}
