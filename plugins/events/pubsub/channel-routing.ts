import { databaseChannel } from '../../shared/redis/client.js'
import type {
  RedisPort, Subscriber, SubscriberListener, SubscribeVerb, Topology
} from '../../shared/redis/port.js'
import { lua, sendScript } from '../../shared/redis/script.js'
import type { Pattern } from './patterns.js'

/** A subscription that Redis is asked for. */
export interface Subscription {
  readonly verb: SubscribeVerb
  readonly channel: string
}

/** Maps patterns to channels of Redis, and channels to the servers that publish them. */
export interface ChannelRouting {
  subscriptionsOf (pattern: Pattern): Subscription[]
  /** Returns the server of a channel, or undefined while it is unknown. */
  serverOf (channel: string): string | undefined
  /** Opens a connection to a server. Returns undefined if there is no such server. */
  connect (server: string, listener: SubscriberListener): Subscriber | undefined
  publish (name: string, text: string): Promise<unknown>
  /** Returns the name and the text of a message. */
  parse (channel: string, message: string): { name: string, text: string }
  /** Call it when a connection is lost: channels may have moved to another server. */
  refresh (): void
}

export function createChannelRouting (client: RedisPort, prefix: string): ChannelRouting {
  return client.topology === undefined
    ? singleServerRouting(client, prefix)
    : clusterRouting(client, client.topology, prefix)
}

/**
 * Uses one channel per name, and Redis's own patterns. No prefix contains `#`, so a name never reaches the channels of
 * another app or database.
 */
function singleServerRouting (client: RedisPort, prefix: string): ChannelRouting {
  const channelPrefix = `${databaseChannel(client, `${prefix}:events:`)}#`
  return {
    subscriptionsOf: ({ text, isGlob }) => [isGlob
      ? { verb: 'psubscribe', channel: channelPrefix + text.replaceAll(/[\\?[\]^-]/g, '\\$&') }
      : { verb: 'subscribe', channel: channelPrefix + text }],
    serverOf: () => client.status === 'end' ? undefined : 'the server',
    connect: (_server, listener) => client.subscriber(listener),
    publish: async (name, text) => await client.send('publish', [channelPrefix + name, text]),
    parse: (channel, text) => ({ name: channel.slice(channelPrefix.length), text }),
    refresh () {}
  }
}

/**
 * Publishes to a channel and to its shard, for subscribers of a glob: both are in one slot.
 *
 * KEYS[1]  the channel, which selects the slot; the client's `keyPrefix` changes keys but not channels
 * ARGV[1]  the channel
 * ARGV[2]  the channel of the shard
 * ARGV[3]  the name
 * ARGV[4]  the message
 * reply    how many subscribers of this node received it
 */
const PUBLISH_SHARDED = lua`
return redis.call('SPUBLISH', ARGV[1], ARGV[4]) + redis.call('SPUBLISH', ARGV[2], ARGV[3] .. '\n' .. ARGV[4])
`

/** The slots of the hash tags `{0}` to `{15}`. */
const SHARD_SLOTS = [13907, 9842, 5649, 1584, 14039, 9974, 5781, 1716, 14171, 10106, 247, 4310, 8373, 12436, 115, 4178]

/**
 * Uses sharded pub/sub, which has no patterns. The first segment of a name selects one of 16 shards. Every message is
 * published to the name's channel and to the shard's channel: an exact name subscribes to the former, a glob to the
 * shards that it can match.
 */
function clusterRouting (client: RedisPort, topology: Topology, prefix: string): ChannelRouting {
  const channelPrefix = `${prefix}:events:`
  const channelOf = (name: string) => `${channelPrefix}{${shardOf(name)}}#${name}`
  const shardChannel = (shard: number) => `${channelPrefix}{${shard}}`
  return {
    subscriptionsOf: ({ text, isGlob, head }) => {
      if (!isGlob) return [{ verb: 'ssubscribe', channel: channelOf(text) }]
      const shards = head.includes(':') ? [shardOf(head)] : SHARD_SLOTS.keys()
      return Array.from(shards, shard => ({ verb: 'ssubscribe', channel: shardChannel(shard) }))
    },
    serverOf (channel) {
      const shard = Number(channel.slice(channelPrefix.length + 1, channel.indexOf('}')))
      return topology.masterOfSlot(SHARD_SLOTS[shard] ?? 0)
    },
    connect: (server, listener) => client.subscriber(listener, server),
    async publish (name, text) {
      const channel = channelOf(name)
      return await sendScript(client, PUBLISH_SHARDED, [channel], [channel, shardChannel(shardOf(name)), name, text])
    },
    parse (channel, message) {
      const hash = channel.indexOf('#', channelPrefix.length)
      if (hash !== -1) return { name: channel.slice(hash + 1), text: message }
      const end = message.indexOf('\n')
      return { name: message.slice(0, end), text: message.slice(end + 1) }
    },
    refresh: () => topology.refresh()
  }
}

/** Hashes the part of a name before its first colon (FNV-1a). */
function shardOf (name: string): number {
  const [segment = ''] = name.split(':', 1)
  let hash = 0x811c9dc5
  for (const byte of Buffer.from(segment)) hash = Math.imul(hash ^ byte, 0x01000193)
  return (hash >>> 0) % SHARD_SLOTS.length
}
