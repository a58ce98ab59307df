import type { RedisPort } from '../../port.js'
import { ClusterPort } from './cluster.js'
import { SentinelPort } from './sentinel.js'
import { SinglePort } from './single.js'
import type { NodeRedis, NodeRedisClient, NodeRedisCluster, NodeRedisSentinel } from './types.js'

export { isConnectionError, named } from './commands.js'
export { destroy } from './subscriber.js'
export type { NodeRedis, NodeRedisClient, NodeRedisSentinel } from './types.js'

/** Whether a value is a client of node-redis: of `createClient`, `createCluster` or `createSentinel`. */
export function isNodeRedis (value: object): value is NodeRedis {
  return 'sendCommand' in value && typeof value.sendCommand === 'function' && 'isOpen' in value &&
    ('duplicate' in value || isSentinel(value)) && !isPool(value)
}

function isSentinel (value: object): value is NodeRedisSentinel {
  return 'getMasterNode' in value && '_execute' in value
}

/** Whether a value is a client of `createClientPool`, which the plugins do not use. */
export function isPool (value: object): boolean {
  return 'totalClients' in value && 'sendCommand' in value
}

/** Whether the client has subscribed to channels with RESP 2, so that Redis refuses other commands of it. */
export function isRefusedSubscriber (client: NodeRedis): boolean {
  const { isPubSubActive, options } = client as Partial<NodeRedisClient>
  // By default a client of version 5 uses RESP 2, and one of version 6 RESP 3, which has these notifications.
  const version = options?.RESP ?? (options?.maintNotifications === 'disabled' ? 2 : 3)
  return isPubSubActive === true && version === 2
}

export function createNodeRedisPort (given: NodeRedis): RedisPort {
  const client = detailed(given)
  if (isSentinel(client)) return new SentinelPort(client)
  return 'masters' in client ? new ClusterPort(client) : new SinglePort(client)
}

/** Returns the client as what it is. */
export function detailed (client: NodeRedis): NodeRedisClient | NodeRedisCluster | NodeRedisSentinel {
  return client as unknown as NodeRedisClient | NodeRedisCluster | NodeRedisSentinel
}
