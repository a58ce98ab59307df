import { lua } from '../shared/script.js'

/**
 * Publishes to a channel and to its lane, for those who listen by a glob: both are in one slot.
 *
 * KEYS[1]  the channel
 * KEYS[2]  the lane
 * ARGV[1]  the channel's name
 * ARGV[2]  the message
 * reply    how many heard it on this node
 */
export const PUBLISH_SHARDED = lua`
return redis.call('SPUBLISH', KEYS[1], ARGV[2]) + redis.call('SPUBLISH', KEYS[2], ARGV[1] .. '\n' .. ARGV[2])
`
