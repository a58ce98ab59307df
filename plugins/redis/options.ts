import type { Cluster, ClusterNode, ClusterOptions, Redis, RedisOptions } from 'ioredis'
import { DEFAULT_KEY_PREFIX, KEY_PREFIX, KEY_PREFIX_ALLOWED, type RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import type { Duration } from '../shared/plugin/duration.js'
import { invalidOptionError } from '../shared/plugin/errors.js'
import { readOptions } from '../shared/plugin/option-reader.js'
import { checkNames } from './known-options.js'
import { checkTarget } from './target.js'

export interface SuiteOptions {
  /** `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS. Instead of `host` and `port`. */
  url?: string | undefined
  /** A Redis Cluster: some of its nodes, and what ioredis's `Cluster` takes. Instead of `url` or `host`. */
  cluster?: { nodes: ClusterNode[], options?: ClusterOptions } | undefined
  /** A client that exists already. It is closed with the app only if `closeClient` is true. */
  client?: Redis | Cluster | undefined
  /** Close a given `client` with the app. @default false */
  closeClient?: boolean | undefined
  /** Decorates `fastify.redis[namespace]` in place of `fastify.redis`, as `@fastify/redis` does. */
  namespace?: string | undefined
  /** The first part of every key that the suite's plugins write through this client. @default 'fastify' */
  prefix?: string | undefined
  /**
   * `true`: the boot fails within `connectTimeout` if Redis cannot be reached. `false`: the app boots anyway
   * and connects when it can. @default true
   */
  required?: boolean | undefined
  /** How long one attempt to connect, and the boot, may take. @default 2000 ms */
  connectTimeout?: Duration | undefined
  /** How long one command may take before it is rejected. @default 1000 ms */
  commandTimeout?: Duration | undefined
  /** How long closing waits for commands under way before it disconnects by force. @default 1000 ms */
  closeTimeout?: Duration | undefined
  /** The clock for `closeTimeout`, the boot and the log, not for ioredis: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

/** Options of the `redis` plugin: its own, and everything that ioredis takes. */
export type RedisPluginOptions = SuiteOptions & Omit<RedisOptions, keyof SuiteOptions>

/** What was given, complete and checked. */
export interface ResolvedRedisOptions {
  namespace: string | undefined
  prefix: string
  required: boolean
  connectTimeout: number
  closeTimeout: number
  clock: Clock
  /** Given from outside; undefined where a client is to be made of `target`. */
  client: RedisClient | undefined
  closeClient: boolean
  target: { url: string | undefined, redis: RedisOptions, cluster: { nodes: ClusterNode[], options: ClusterOptions } | undefined }
}

// The cache counts on all instances being back within a second of the first one (its SETTLE_MS).
const MAX_RECONNECT_DELAY_MS = 500

export function resolveRedisOptions (options: RedisPluginOptions): ResolvedRedisOptions {
  const read = readOptions('redis', options)
  const { url: _url, cluster, client, closeClient, namespace, prefix, required, closeTimeout: _, clock: __, ...ioredis } = options
  checkNames(options)
  const url = checkTarget(options)

  const connectTimeout = read.duration('connectTimeout', 2000, { min: 1 })
  const commandTimeout = read.duration('commandTimeout', 1000, { min: 1 })
  const closeTimeout = read.duration('closeTimeout', 1000)
  const redis = { ...requestPathDefaults(connectTimeout, commandTimeout), disconnectTimeout: closeTimeout, ...ioredis, connectTimeout, commandTimeout }

  return {
    namespace: namespace === undefined ? undefined : read.string('namespace', ''),
    prefix: checkPrefix(read.string('prefix', DEFAULT_KEY_PREFIX)),
    required: read.boolean('required', true),
    connectTimeout,
    closeTimeout,
    clock: read.clock(),
    client,
    closeClient: client === undefined || read.boolean('closeClient', false),
    target: { url, redis, cluster: cluster && { nodes: cluster.nodes, options: clusterOptions(redis, cluster.options) } }
  }
}

/**
 * Defaults for commands that a request waits for: fail early, say little, come back soon. A batch job would want
 * the opposite, so every one of them can be overridden.
 */
function requestPathDefaults (connectTimeout: number, commandTimeout: number): RedisOptions {
  return {
    lazyConnect: true,
    maxRetriesPerRequest: 1,
    enableAutoPipelining: true,
    connectionName: 'fastify-redis-suite',
    clientInfoTag: 'fastify-redis-suite',
    keepAlive: 10_000,
    // A connection over which nothing comes back (half-open, or a hung server) is closed and replaced.
    socketTimeout: Math.max(connectTimeout, 2 * commandTimeout),
    retryStrategy: reconnectDelay,
    // A Sentinel that accepts a connection and never answers: the next one is asked.
    sentinelCommandTimeout: Math.ceil(connectTimeout / 4)
  }
}

function clusterOptions (redis: RedisOptions, given: ClusterOptions = {}): ClusterOptions {
  // Cluster has its own queue, naming and pipelining; its nodes take the rest.
  const { enableAutoPipelining = true, lazyConnect, retryStrategy, ...redisOptions } = redis
  return {
    enableAutoPipelining,
    slotsRefreshTimeout: 2000,
    // A slot that moved is not learnt of by commands that travel with others.
    slotsRefreshInterval: 5000,
    // It is down for longer than a request waits: what asks learns of it at once.
    retryDelayOnClusterDown: 0,
    clusterRetryStrategy: reconnectDelay,
    ...given,
    lazyConnect: true,
    redisOptions: { ...redisOptions, ...given.redisOptions }
  }
}

/**
 * Exponential back-off with jitter, for ever. At once at first, as a connection that was lost alone is there again by then; then
 * 50 to 100 ms, 250 to 500 ms at most.
 */
export function reconnectDelay (attempt: number): number {
  const ceiling = attempt <= 1 ? 10 : Math.min(MAX_RECONNECT_DELAY_MS, 100 * 2 ** Math.min(attempt - 2, 10))
  return Math.round(ceiling / 2 + Math.random() * ceiling / 2)
}

function checkPrefix (prefix: string): string {
  if (!KEY_PREFIX.test(prefix)) throw invalidOptionError('redis', 'prefix', prefix, KEY_PREFIX_ALLOWED)
  return prefix
}
