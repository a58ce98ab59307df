import { lua } from '../../shared/redis/script.js'

/**
 * Publishes to a channel and to its lane, for those who listen by a glob: both are in one slot.
 *
 * KEYS[1]  the channel, which leads to the slot; an option `keyPrefix` of the client's changes keys, but no channels
 * ARGV[1]  the channel
 * ARGV[2]  the lane
 * ARGV[3]  the channel's name
 * ARGV[4]  the message
 * reply    how many heard it on this node
 */
export const PUBLISH_SHARDED = lua`
return redis.call('SPUBLISH', ARGV[1], ARGV[4]) + redis.call('SPUBLISH', ARGV[2], ARGV[3] .. '\n' .. ARGV[4])
`
