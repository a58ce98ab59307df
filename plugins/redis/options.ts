import type { ClusterNode, ClusterOptions, RedisOptions } from 'ioredis'
import { DEFAULT_KEY_PREFIX, KEY_PREFIX, KEY_PREFIX_ALLOWED, type RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { boolean, clock, duration, oneOf, redisTimeout, string, unchecked } from '../shared/plugin/option-kinds.js'
import { readOptions, type OptionTable, type Resolved } from '../shared/plugin/option-table.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import { checkNames } from './known-options.js'
import { checkTarget } from './target.js'

/** Options of the `redis` plugin besides those of ioredis. */
export interface SuiteOptions {
  /** `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS. It takes the place of `host` and `port`. */
  url?: string | undefined
  /**
   * A Redis Cluster: some of its nodes, and the options of ioredis's `Cluster`. It takes the place of `url` or `host`.
   */
  cluster?: { nodes: ClusterNode[], options?: ClusterOptions } | undefined
  /** A client that exists already, of ioredis, iovalkey or node-redis. */
  client?: RedisClient | undefined
  /**
   * The library of the client that is made. `node-redis` needs the package `redis`, and takes of the options of ioredis
   * `host`, `port`, `path`, `family`, `tls`, `username`, `password`, `db` and `connectionName`; for Sentinels also
   * `sentinels`, `name`, `natMap`, `sentinelUsername`, `sentinelPassword` and `sentinelTLS`.
   *
   * @default 'ioredis'
   */
  driver?: 'ioredis' | 'node-redis' | undefined
  /**
   * Further options of node-redis's `createClient`, of each node of a Cluster or the master of Sentinels.
   *
   * @default none
   */
  clientOptions?: Record<string, unknown> | undefined
  /** Whether a given `client` is closed with the app. @default false */
  closeClient?: boolean | undefined
  /**
   * Decorates `fastify.redis[namespace]` in place of `fastify.redis`, as `@fastify/redis` does. Other plugins get such
   * a client by their option `redis`.
   */
  namespace?: string | undefined
  /** The first part of every key that the suite's plugins write through this client. @default 'fastify' */
  prefix?: string | undefined
  /**
   * Whether the boot fails if Redis cannot be reached within `connectTimeout`. Otherwise the app boots after at most
   * this time, and the client connects when it can.
   *
   * @default true
   */
  required?: boolean | undefined
  /** How long one attempt to connect, and the boot, may take. @default 2000 ms */
  connectTimeout?: Duration | undefined
  /** How long one command may take before it is rejected. It may still be executed. @default 1000 ms */
  commandTimeout?: Duration | undefined
  /** How long closing waits for replies before it cuts the connection. @default 1000 ms */
  closeTimeout?: Duration | undefined
  /**
   * The clock for `closeTimeout`, the time limit of the boot and durations in the log. ioredis keeps real time, and the
   * circuit follows the first plugin that uses the client.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md#with-redis)
   */
  clock?: Clock | undefined
}

/** Options of the `redis` plugin: its own, and all of ioredis. */
export type RedisPluginOptions = SuiteOptions & Omit<RedisOptions, keyof SuiteOptions>

export const SUITE_OPTIONS = {
  url: unchecked('string'),
  cluster: unchecked('`{ nodes, options }`'),
  client: unchecked('client'),
  driver: oneOf('ioredis', ['ioredis', 'node-redis']),
  clientOptions: unchecked('options'),
  closeClient: boolean(false),
  namespace: string(),
  prefix: string(DEFAULT_KEY_PREFIX, KEY_PREFIX_ALLOWED, KEY_PREFIX),
  required: boolean(true),
  connectTimeout: duration(2000, { min: 1, max: MAX_TIMER_MS }),
  commandTimeout: duration(1000, { min: 1, max: MAX_TIMER_MS }),
  closeTimeout: duration(1000),
  clock: clock()
} satisfies OptionTable<SuiteOptions>

/** Options of {@link callRedis} and {@link runScript}. */
export interface RedisCallOptions {
  /** The client of the call, such as one with a namespace. @default fastify.redis */
  client?: RedisClient | undefined
  /** How long the call may take. It may still be executed after that. @default 150 ms; over HTTP 1000 ms */
  timeout?: Duration | undefined
  /**
   * Whether the call waits up to 1.5 s longer than `timeout` while Redis is late but reachable, as sessions and locks
   * do. Set it for a call that has no fallback.
   *
   * @default false
   */
  patient?: boolean | undefined
  /**
   * A key of the call: on a Cluster, the call is refused at once while the node of this key is down. A script needs no
   * such option.
   *
   * @default none
   */
  nodeOf?: string | undefined
  /** The clock of the deadline, and of `now` in a script. @default the system's clock */
  clock?: Clock | undefined
}

export const CALL_OPTIONS = {
  client: unchecked('client', '`fastify.redis`'),
  timeout: redisTimeout(),
  patient: boolean(false),
  nodeOf: string(),
  clock: clock()
} satisfies OptionTable<RedisCallOptions>

/** The options, complete and checked. */
export interface ResolvedRedisOptions
  extends Omit<Resolved<typeof SUITE_OPTIONS>, 'url' | 'cluster'> {
  /** The arguments of a new client, without the option `client`. */
  target: {
    url: string | undefined
    redis: RedisOptions
    cluster: { nodes: ClusterNode[], options: ClusterOptions } | undefined
  }
}

// The cache counts on all instances being back within a second of the first one (its RECOVERY_GRACE_MS).
const MAX_RECONNECT_DELAY_MS = 500

/**
 * @param further - names of options that the client library has beyond those that are known here
 * @throws `FST_REDIS_SUITE_REDIS_INVALID_OPTION`
 */
export function resolveRedisOptions (given: RedisPluginOptions, further: readonly string[] = []): ResolvedRedisOptions {
  checkNames(given, Object.keys(SUITE_OPTIONS), further)
  const url = checkTarget(given)
  const options = readOptions('redis', SUITE_OPTIONS, given)
  const { cluster, client, closeClient, connectTimeout, commandTimeout, closeTimeout } = options
  const ioredis = Object.fromEntries(Object.entries(given).filter(([name]) => !Object.hasOwn(SUITE_OPTIONS, name)))
  const redis = {
    ...requestPathDefaults(connectTimeout, commandTimeout),
    disconnectTimeout: closeTimeout,
    ...ioredis,
    connectTimeout,
    commandTimeout
  }
  return {
    ...options,
    closeClient: client === undefined || closeClient,
    target: {
      url, redis, cluster: cluster && { nodes: cluster.nodes, options: clusterOptions(redis, cluster.options) }
    }
  }
}

/**
 * Returns defaults for commands that a request waits for: fail early, log little, reconnect soon. A batch job wants the
 * opposite, so each of them can be overridden.
 */
function requestPathDefaults (connectTimeout: Milliseconds, commandTimeout: Milliseconds): RedisOptions {
  return {
    lazyConnect: true,
    maxRetriesPerRequest: 1,
    enableAutoPipelining: true,
    connectionName: 'fastify-redis-suite',
    clientInfoTag: 'fastify-redis-suite',
    keepAlive: 10_000,
    // A connection without replies (half-open, or a hung server) is replaced.
    socketTimeout: Math.max(connectTimeout, 2 * commandTimeout),
    retryStrategy: reconnectDelay,
    // After this the next Sentinel is asked, if one accepts a connection and never replies.
    sentinelCommandTimeout: Math.ceil(connectTimeout / 4)
  }
}

function clusterOptions (redis: RedisOptions, given: ClusterOptions = {}): ClusterOptions {
  // A Cluster has its own queue, names and pipelining; the other options are those of its nodes.
  const { enableAutoPipelining = true, lazyConnect, retryStrategy, ...redisOptions } = redis
  return {
    enableAutoPipelining,
    slotsRefreshTimeout: 2000,
    // Commands in a pipeline do not report that a slot has moved.
    slotsRefreshInterval: 5000,
    // A Cluster is down for longer than a request waits, so commands fail at once.
    retryDelayOnClusterDown: 0,
    clusterRetryStrategy: reconnectDelay,
    ...given,
    lazyConnect: true,
    redisOptions: { ...redisOptions, ...given.redisOptions }
  }
}

/**
 * Returns the delay before a reconnection: exponential back-off with jitter, without an end. The first attempt is
 * immediate, as a single lost connection can be replaced at once; then 50 to 100 ms, at most 250 to 500 ms.
 */
export function reconnectDelay (attempt: number): Milliseconds {
  const ceiling = attempt <= 1 ? 10 : Math.min(MAX_RECONNECT_DELAY_MS, 100 * 2 ** Math.min(attempt - 2, 10))
  return Math.round(ceiling / 2 + Math.random() * ceiling / 2)
}
