import cluster from 'node:cluster'
import type {} from '@fastify/redis'
import type { FastifyInstance } from 'fastify'
import type { Cluster, Redis } from 'ioredis'
import { InWords, invalidOptionError, type PluginName } from '../plugin/errors.js'

/** The client of every plugin: of a single node, also behind Sentinel, or of a Cluster. */
export type RedisClient = Redis | Cluster

export const DEFAULT_KEY_PREFIX = 'fastify'

/** Braces would put all keys into one slot of a Cluster. Pattern characters would break invalidation by pattern. */
export const KEY_PREFIX = /^[\w.:@/-]{1,64}$/
export const KEY_PREFIX_ALLOWED = 'up to 64 letters, digits and . : @ / _ -'

const keyPrefixes = new WeakMap<RedisClient, string>()

/** Sets the first part of all keys that plugins write through this client. */
export function setKeyPrefix (client: RedisClient, prefix: string): void {
  keyPrefixes.set(client, prefix)
}

export function keyPrefixOf (client: RedisClient | undefined): string {
  return (client && keyPrefixes.get(client)) ?? DEFAULT_KEY_PREFIX
}

/**
 * Returns the name of a channel in the client's database. Redis delivers a message to the subscribers of all databases,
 * so that the name contains the database's number. Database 0, the only one of a Cluster, is left out.
 */
export function databaseChannel (client: RedisClient, channel: string): string {
  const db = isCluster(client) ? 0 : client.options.db ?? 0
  return db === 0 ? channel : `${channel}@${db}`
}

/** @returns whether the client talks to a Redis Cluster */
export function isCluster (client: RedisClient): client is Cluster {
  return client.isCluster
}

/**
 * Returns a client as a Cluster; undefined if it is none. `fastify.redis` has the type that `@fastify/redis` declares,
 * which excludes a Cluster.
 */
export function clusterOf (client: RedisClient): Cluster | undefined {
  return isCluster(client) ? client : undefined
}

/**
 * Returns the client as {@link findClient} does, for a plugin that otherwise has a memory store, which the log then
 * says. In a worker of `node:cluster` it is a warning: each worker has its own sessions, limits and locks.
 */
export function resolveClient (fastify: FastifyInstance, plugin: PluginName, option: unknown): RedisClient | undefined {
  const client = findClient(fastify, plugin, option)
  if (client === undefined) {
    const level = cluster.isWorker && option === undefined ? 'warn' : 'info'
    const hint = level === 'warn'
      ? ', and each worker of the cluster has its own: register redis first, or set the option redis to false'
      : ''
    fastify.log[level](
      { plugin, store: 'memory' }, `${plugin}: no Redis, the store is in the memory of this process${hint}`
    )
    if (option === undefined) warnOfLateClient(fastify, plugin, 'the store is in the memory of this process')
  }
  return client
}

/**
 * Warns when the app is ready if `fastify.redis` was decorated after the calling plugin, which then does not use it.
 *
 * @param effect - the consequence for the plugin, as a clause
 */
export function warnOfLateClient (fastify: FastifyInstance, plugin: PluginName, effect: string): void {
  fastify.addHook('onReady', async () => {
    if (!fastify.hasDecorator('redis') || !isRedisClient(fastify.redis)) return
    fastify.log.warn({ plugin },
      `${plugin}: fastify.redis was registered after this plugin, so ${effect}: register redis first, or set the ` +
      'option redis to false')
  })
}

/**
 * Returns the client of a plugin: its option `redis`, otherwise `fastify.redis` of any plugin; undefined for `false` or
 * `null`.
 */
export function findClient (fastify: FastifyInstance, plugin: PluginName, option: unknown): RedisClient | undefined {
  if (option === false || option === null) return undefined
  if (option !== undefined) {
    if (isRedisClient(option) && option.status === 'end') {
      throw invalidOptionError(plugin, 'redis', new InWords('a client that was closed'), 'a client that is open')
    }
    if (isRedisClient(option)) return checkReplies(plugin, option)
    throw invalidOptionError(
      plugin, 'redis', option, 'an ioredis client (Redis or Cluster), or false for the memory store'
    )
  }
  const decorated: unknown = fastify.hasDecorator('redis') ? fastify.redis : undefined
  if (decorated === undefined) return undefined
  if (isRedisClient(decorated)) return checkReplies(plugin, decorated)
  throw invalidOptionError(plugin, 'redis', undefined,
    `one of the named clients, as fastify.redis holds only these: ${Object.keys(fastify.redis).join(', ')}`)
}

/** @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` */
function checkReplies (plugin: PluginName, client: RedisClient): RedisClient {
  if (repliesWithText(client)) {
    throw invalidOptionError(plugin, 'redis', new InWords('a client with stringNumbers'), REPLIES_ALLOWED)
  }
  return client
}

export const REPLIES_ALLOWED = 'a client without stringNumbers, as numbers in replies would be strings; ' +
  'give the plugins a client of their own'

/** Whether the client returns numbers as strings, so that `reply === 1` never holds. */
export function repliesWithText (client: RedisClient): boolean {
  const { stringNumbers } = isCluster(client) ? client.options.redisOptions ?? {} : client.options
  return stringNumbers === true
}

export function isRedisClient (value: unknown): value is RedisClient {
  return typeof value === 'object' && value !== null &&
    'evalsha' in value && typeof value.evalsha === 'function' && 'duplicate' in value && 'status' in value
}
