import cluster from 'node:cluster'
import type {} from '@fastify/redis'
import type { FastifyInstance } from 'fastify'
import { InWords, invalidOptionError, type PluginName } from '../plugin/errors.js'
import { isPromise } from '../plugin/maybe-promise.js'
import {
  createIoredisPort, isIoredis, isSubscriber, repliesWithText, type IoredisClient, type IovalkeyClient
} from './clients/ioredis.js'
import {
  createNodeRedisPort, isNodeRedis, isPool, isRefusedSubscriber, type NodeRedis
} from './clients/node-redis/index.js'
import { createUpstashPort, isForeignUpstash, isUpstash, type UpstashClient } from './clients/upstash.js'
import type { RedisPort } from './port.js'

/**
 * The client of every plugin: of a single node, also behind Sentinel, or of a Cluster, by ioredis, iovalkey or
 * node-redis; or of `fromUpstash`.
 */
export type RedisClient = IoredisClient | IovalkeyClient | NodeRedis | UpstashClient

export const DEFAULT_KEY_PREFIX = 'fastify'

/** Braces would put all keys into one slot of a Cluster. Pattern characters would break invalidation by pattern. */
export const KEY_PREFIX = /^[\w.:@/-]{1,64}$/
export const KEY_PREFIX_ALLOWED = 'up to 64 letters, digits and . : @ / _ -'

const keyPrefixes = new WeakMap<RedisClient, string>()

/** Sets the first part of all keys that plugins write through this client. */
export function setKeyPrefix (client: RedisClient, prefix: string): void {
  keyPrefixes.set(client, prefix)
}

export function keyPrefixOf (redis: RedisPort | undefined): string {
  return (redis && keyPrefixes.get(redis.client)) ?? DEFAULT_KEY_PREFIX
}

const ports = new WeakMap<RedisClient, RedisPort>()

function createPort (client: RedisClient): RedisPort {
  if (isUpstash(client)) return createUpstashPort(client)
  return isIoredis(client) ? createIoredisPort(client) : createNodeRedisPort(client as NodeRedis)
}

/** Returns the port of a client, which all plugins share. */
export function portOf (client: RedisClient): RedisPort {
  let port = ports.get(client)
  if (port === undefined) ports.set(client, port = createPort(client))
  return port
}

/**
 * Returns the name of a channel in the client's database. Redis delivers a message to the subscribers of all databases,
 * so that the name contains the database's number. Database 0, the only one of a Cluster, is left out.
 */
export function databaseChannel ({ database }: RedisPort, channel: string): string {
  return database === 0 ? channel : `${channel}@${database}`
}

/**
 * Returns the client as {@link findClient} does, for a plugin that otherwise has a memory store, which the log then
 * says. In a worker of `node:cluster` it is a warning: each worker has its own sessions, limits and locks.
 */
export function resolveClient (fastify: FastifyInstance, plugin: PluginName, option: unknown): RedisPort | undefined {
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
 * Returns the port of a plugin's client: its option `redis`, otherwise `fastify.redis` of any plugin; undefined for
 * `false` or `null`.
 */
export function findClient (fastify: FastifyInstance, plugin: PluginName, option: unknown): RedisPort | undefined {
  if (option === false || option === null) return undefined
  if (option !== undefined) {
    if (isRedisClient(option)) return checkedPort(plugin, 'redis', option)
    throw invalidOptionError(
      plugin, 'redis', describeForeign(option), `${CLIENT_ALLOWED}, or false for the memory store`
    )
  }
  const decorated: unknown = fastify.hasDecorator('redis') ? fastify.redis : undefined
  if (decorated === undefined) return undefined
  if (isRedisClient(decorated)) return checkedPort(plugin, 'redis', decorated)
  const foreign = describeForeign(decorated)
  if (foreign instanceof InWords) throw invalidOptionError(plugin, 'fastify.redis', foreign, CLIENT_ALLOWED)
  throw invalidOptionError(plugin, 'redis', undefined,
    `one of the named clients, as fastify.redis holds only these: ${Object.keys(fastify.redis).join(', ')}`)
}

/**
 * Returns the port of a client that an option gives.
 *
 * @throws `FST_REDIS_SUITE_<PLUGIN>_INVALID_OPTION` if the plugins cannot use it
 */
export function checkedPort (plugin: PluginName, option: string, client: RedisClient): RedisPort {
  const unfit = unfitnessOf(client)
  if (unfit !== undefined) throw invalidOptionError(plugin, option, new InWords(unfit.given), unfit.allowed)
  return portOf(client)
}

/** The clients that are allowed, in an error's message. */
export const CLIENT_ALLOWED = 'a client of ioredis or iovalkey (Redis or Cluster), of node-redis (createClient, ' +
  'createCluster or createSentinel) or of fromUpstash'

/** Describes a value that is no client, or one that was not made for the plugins. */
export function describeForeign (option: unknown): unknown {
  if (isPromise(option)) return new InWords('a promise: await it')
  // A URL may have a password.
  if (typeof option === 'string') {
    return new InWords('a string: register the plugin redis with the option url, or make a client of it')
  }
  if (typeof option !== 'object' || option === null) return option
  if (isPool(option)) {
    return new InWords('a pool of createClientPool, whose connections do not keep the order of commands: use ' +
      'createClient, which sends the commands of all requests over one connection')
  }
  return isForeignUpstash(option)
    ? new InWords('a client of @upstash/redis: make it by fromUpstash({ url, token }) of fastify-redis-suite/upstash')
    : option
}

/** Why the plugins cannot use a client, as the parts of an error's message. */
interface Unfitness {
  given: string
  allowed: string
}

/** Returns why the plugins cannot use a client; undefined if they can. */
function unfitnessOf (client: RedisClient): Unfitness | undefined {
  if (isUpstash(client)) return undefined
  return isIoredis(client) ? unfitnessOfIoredis(client) : unfitnessOfNodeRedis(client as NodeRedis)
}

const SUBSCRIBER = {
  given: 'a client that has subscribed to channels',
  allowed: 'a client that sends commands: give the plugins one of its own, and subscribe with client.duplicate()'
}

function unfitnessOfNodeRedis (client: NodeRedis): Unfitness | undefined {
  // Version 4 has other methods, and would return bytes as text.
  if (!('destroy' in client)) {
    return {
      given: 'a client of version 4 or older', allowed: 'a client of node-redis 5 or newer: npm install redis@latest'
    }
  }
  if (!client.isOpen) {
    return { given: 'a client that is not connected', allowed: 'a client that is open: await client.connect() first' }
  }
  return isRefusedSubscriber(client) ? SUBSCRIBER : undefined
}

function unfitnessOfIoredis (client: IoredisClient): Unfitness | undefined {
  if (client.status === 'end') return { given: 'a client that was closed', allowed: 'a client that is open' }
  if (repliesWithText(client)) {
    return {
      given: 'a client with stringNumbers',
      allowed: 'a client without stringNumbers, as numbers in replies would be strings; give the plugins a client of ' +
        'their own'
    }
  }
  return isSubscriber(client) ? SUBSCRIBER : undefined
}

export function isRedisClient (value: unknown): value is RedisClient {
  return typeof value === 'object' && value !== null && (isIoredis(value) || isNodeRedis(value) || isUpstash(value))
}
