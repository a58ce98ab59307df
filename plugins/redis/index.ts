import type {} from '@fastify/redis'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { setKeyPrefix, type RedisClient } from '../shared/redis/client.js'
import { releaseCircuit } from '../shared/redis/guard.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { logConnection } from './connection-log.js'
import { driverFor } from './drivers/driver.js'
import { AlreadyRegisteredError, isSetupError } from './errors.js'
import { resolveRedisOptions, type RedisPluginOptions } from './options.js'

export type { Duration } from '../shared/plugin/duration.js'
export type { RedisClient } from '../shared/redis/client.js'
export { clusterOf, type IoredisClient, type IovalkeyClient } from '../shared/redis/clients/ioredis.js'
export type { NodeRedis } from '../shared/redis/clients/node-redis/index.js'
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
  const driver = await driverFor(given)
  const options = resolveRedisOptions(given, driver.optionNames)
  refuseSecond(fastify, options.namespace)
  watchRoutes(fastify)
  const { clock } = options
  const client = options.client ?? driver.create(options)
  setKeyPrefix(client, options.prefix)
  const endLog = logConnection(client, driver.addressOf(client), fastify.log, options)
  fastify.addHook('onClose', async () => {
    endLog()
    if (!options.closeClient) return
    releaseCircuit(client)
    await driver.close(client, options.closeTimeout, clock)
  })

  try {
    await driver.waitUntilReady(client, options.connectTimeout, clock)
  } catch (error) {
    if (options.required || isSetupError(error)) {
      if (options.closeClient) driver.disconnect(client)
      throw error
    }
  }
  if (!await driver.decorate(fastify, client, options.namespace)) decorate(fastify, client, options.namespace)
}, { name: 'fastify-redis-suite/redis', fastify: '5.x || 6.x' })

export default redis

function refuseSecond (fastify: FastifyInstance, namespace: string | undefined): void {
  if (!fastify.hasDecorator('redis')) return
  if (namespace === undefined) throw new AlreadyRegisteredError('fastify.redis')
  if (namespace in fastify.redis) throw new AlreadyRegisteredError(`fastify.redis.${namespace}`)
}

function decorate (fastify: FastifyInstance, client: RedisClient, namespace: string | undefined): void {
  if (namespace === undefined) {
    fastify.decorate<unknown>('redis', client)
  } else {
    if (!fastify.hasDecorator('redis')) fastify.decorate<unknown>('redis', Object.create(null))
    Object.assign(fastify.redis, { [namespace]: client })
  }
}
