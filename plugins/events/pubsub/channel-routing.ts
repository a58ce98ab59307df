import type { Cluster, Redis } from 'ioredis'
import { databaseChannel, isCluster, type RedisClient } from '../../shared/redis/client.js'
import { runScript } from '../../shared/redis/script.js'
import type { Pattern } from './patterns.js'
import { PUBLISH_SHARDED } from './scripts.js'

export type Verb = 'subscribe' | 'psubscribe' | 'ssubscribe'

/** What a server is asked to send. */
export interface Subscription {
  readonly verb: Verb
  readonly channel: string
}

/** Which channels of Redis carry which messages, and which server sends them. */
export interface ChannelRouting {
  subscriptionsOf (pattern: Pattern): Subscription[]
  /** The server of a channel, or undefined while it is not known. */
  placeOf (channel: string): string | undefined
  /** A connection to it that has not begun to connect, or undefined where there is no such server. */
  connect (place: string): Redis | undefined
  publish (name: string, text: string): Promise<unknown>
  /** The name and the text of what came on a channel. */
  read (channel: string, message: string): { name: string, text: string }
  /** Call it when a server was lost: where channels are may have changed. */
  refresh (): void
}

/** How a connection for listening differs from its client's: it lives once, and is made anew by the transport. */
const ONCE = {
  // It would change channels of sharded pub/sub, which are keys to ioredis.
  keyPrefix: '',
  lazyConnect: true,
  enableAutoPipelining: false,
  enableOfflineQueue: false,
  autoResubscribe: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: 0,
  retryStrategy: () => null,
  reconnectOnError: null
} as const

export function createChannelRouting (client: RedisClient, prefix: string): ChannelRouting {
  return isCluster(client) ? clusterRouting(client, prefix) : singleNodeRouting(client, prefix)
}

/** One server: a channel each, and patterns of Redis's own. `#` is in no prefix, so no name reaches another app or database. */
function singleNodeRouting (client: Redis, prefix: string): ChannelRouting {
  const space = `${databaseChannel(client, `${prefix}:events:`)}#`
  return {
    subscriptionsOf: ({ text, isGlob }) => [isGlob
      ? { verb: 'psubscribe', channel: space + text.replaceAll(/[\\?[\]^-]/g, '\\$&') }
      : { verb: 'subscribe', channel: space + text }],
    placeOf: () => client.status === 'end' ? undefined : 'the server',
    connect: () => client.duplicate(ONCE),
    publish: async (name, text) => await client.publish(space + name, text),
    read: (channel, text) => ({ name: channel.slice(space.length), text }),
    refresh () {}
  }
}

/** The slots of the hash tags `{0}` to `{15}`. */
const SHARD_SLOTS = [13907, 9842, 5649, 1584, 14039, 9974, 5781, 1716, 14171, 10106, 247, 4310, 8373, 12436, 115, 4178]

/**
 * Sharded pub/sub, which knows no patterns. A channel belongs to one of 16 lanes, by its first segment, and what is published
 * goes to the channel and to its lane. An exact name is heard on the channel, a glob on the lanes that it can match.
 */
function clusterRouting (cluster: Cluster, prefix: string): ChannelRouting {
  const space = `${prefix}:events:`
  const channelOf = (name: string) => `${space}{${shardOf(name)}}#${name}`
  const laneChannel = (lane: number) => `${space}{${lane}}`
  return {
    subscriptionsOf: ({ text, isGlob, head }) => {
      if (!isGlob) return [{ verb: 'ssubscribe', channel: channelOf(text) }]
      const lanes = head.includes(':') ? [shardOf(head)] : SHARD_SLOTS.keys()
      return Array.from(lanes, lane => ({ verb: 'ssubscribe', channel: laneChannel(lane) }))
    },
    placeOf (channel) {
      const lane = Number(channel.slice(space.length + 1, channel.indexOf('}')))
      return cluster.slots[SHARD_SLOTS[lane] ?? 0]?.[0]
    },
    connect: place => cluster.nodes('all').find(node => addressOf(node) === place)?.duplicate(ONCE),
    async publish (name, text) {
      const channel = channelOf(name)
      return await runScript(cluster, PUBLISH_SHARDED, [channel], [channel, laneChannel(shardOf(name)), name, text])
    },
    read (channel, message) {
      const hash = channel.indexOf('#', space.length)
      if (hash !== -1) return { name: channel.slice(hash + 1), text: message }
      const end = message.indexOf('\n')
      return { name: message.slice(0, end), text: message.slice(end + 1) }
    },
    refresh: () => cluster.refreshSlotsCache()
  }
}

export function addressOf (node: Redis): string {
  return `${node.options.host}:${node.options.port}`
}

/** FNV-1a of what comes before the first colon. */
function shardOf (name: string): number {
  const [segment = ''] = name.split(':', 1)
  let hash = 0x811c9dc5
  for (const byte of Buffer.from(segment)) hash = Math.imul(hash ^ byte, 0x01000193)
  return (hash >>> 0) % SHARD_SLOTS.length
}
