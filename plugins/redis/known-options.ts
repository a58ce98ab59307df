import type { ClusterOptions, RedisOptions } from 'ioredis'
import { unknownOptionError } from '../shared/plugin/errors.js'
import { FASTIFY_OPTIONS } from '../shared/plugin/option-table.js'
import type { RedisPluginOptions } from './options.js'

/** Returns the names of the options `T`. The compiler refuses a list that lacks one. */
function namesOf<T> () {
  return <const N extends keyof T & string>(
    names: [keyof T] extends [N] ? readonly N[] : never
  ): readonly string[] => names
}

const IOREDIS = namesOf<RedisOptions>()([
  'Connector', 'autoPipeliningIgnoredCommands', 'autoResendUnfulfilledCommands', 'autoResubscribe',
  'blockingTimeout', 'blockingTimeoutGrace', 'clientInfoTag', 'commandQueue', 'commandTimeout', 'connectTimeout',
  'connectionName', 'db', 'disableClientInfo', 'disconnectTimeout', 'enableAutoPipelining', 'enableOfflineQueue',
  'enableReadyCheck', 'enableTLSForSentinelMode', 'failoverDetector', 'family', 'himportFieldsets', 'host',
  'keepAlive', 'keyPrefix', 'lazyConnect', 'maxLoadingRetryTime', 'maxRetriesPerRequest', 'monitor', 'name',
  'natMap', 'noDelay', 'offlineQueue', 'password', 'path', 'port', 'preferredSlaves', 'protocol', 'readOnly',
  'reconnectOnError', 'replyMapping', 'retryStrategy', 'role', 'scripts', 'sentinelCommandTimeout',
  'sentinelMaxConnections', 'sentinelPassword', 'sentinelReconnectStrategy', 'sentinelRetryStrategy', 'sentinelTLS',
  'sentinelUsername', 'sentinels', 'showFriendlyErrorStack', 'socketTimeout', 'stringNumbers', 'tls',
  'updateSentinels', 'username'
])
const CLUSTER = namesOf<ClusterOptions>()([
  'autoPipeliningIgnoredCommands', 'clusterNodeRetryStrategy', 'clusterRetryStrategy', 'dnsLookup',
  'enableAutoPipelining', 'enableOfflineQueue', 'enableReadyCheck', 'himportFieldsets', 'keyPrefix', 'lazyConnect',
  'maxRedirections', 'natMap', 'redisOptions', 'resolveSrv', 'retryDelayOnClusterDown', 'retryDelayOnFailover',
  'retryDelayOnMoved', 'retryDelayOnTryAgain', 'scaleReads', 'scripts', 'shardedSubscribers',
  'showFriendlyErrorStack', 'slotsRefreshInterval', 'slotsRefreshTimeout', 'useSRVRecords'
])

/** The options of ioredis that `driver: 'node-redis'` takes as well. */
const FOR_NODE_REDIS = [
  'host', 'port', 'path', 'family', 'tls', 'username', 'password', 'db', 'connectionName',
  'sentinels', 'name', 'natMap', 'sentinelUsername', 'sentinelPassword', 'sentinelTLS'
]

/**
 * Refuses options that neither the plugin nor ioredis knows: they would have no effect.
 *
 * @param own - the plugin's options
 * @param further - options that a newer ioredis knows than the types: those that have a default
 * @throws `FST_REDIS_SUITE_REDIS_INVALID_OPTION`
 */
export function checkNames (options: RedisPluginOptions, own: readonly string[], further: readonly string[]): void {
  if (options.driver === 'node-redis') {
    const known = [...own, ...FOR_NODE_REDIS]
    const allowed = `${known.join(', ')}, and the options of node-redis in clientOptions`
    refuseUnknown(options, [...known, ...FASTIFY_OPTIONS], '', allowed)
    refuseUnknown(options.cluster, ['nodes'], 'cluster.')
    return
  }
  const ioredis = [...IOREDIS, ...further]
  refuseUnknown(
    options, [...own, ...ioredis, ...FASTIFY_OPTIONS], '',
    `${own.join(', ')}, and the options of ioredis; those of a Cluster in cluster.options`
  )
  const { cluster } = options
  refuseUnknown(cluster, ['nodes', 'options'], 'cluster.')
  refuseUnknown(cluster?.options, CLUSTER, 'cluster.options.')
  refuseUnknown(cluster?.options?.redisOptions, ioredis, 'cluster.options.redisOptions.', 'the options of ioredis')
}

function refuseUnknown (options: object | undefined, known: readonly string[], path: string, allowed?: string): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) return
  const unknown = Object.keys(options).find(name => !known.includes(name))
  if (unknown !== undefined) {
    throw unknownOptionError('redis', `${path}${unknown}`, known.map(name => `${path}${name}`), 'option', allowed)
  }
}
