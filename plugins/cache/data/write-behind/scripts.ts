import { lua, timedLua } from '../../../shared/redis/script.js'
import { createReplayScript } from '../../../shared/work-queue/dead-letter-scripts.js'
import { createPendingScript, entryIdLua, ifOwnedLua, takeNewLua } from '../../../shared/work-queue/queue-scripts.js'

/** The one consumer group of each partition. */
export const GROUP = 'writers'
/** How long an empty stream is kept, in milliseconds. A stream with writes never expires. */
export const IDLE_MS = 24 * 3600 * 1000

/** A replayed write gets a new id, and never expires. */
export const queueScripts = {
  pending: createPendingScript(),
  replay: createReplayScript({ replayedFields: 'k v', onReplayed: "redis.call('PERSIST', KEYS[1])" })
}

/**
 * Accepts a write.
 *
 * KEYS[1]  stream
 * ARGV     key, value, maximum backlog
 * reply    id and backlog; nil where the backlog is full
 */
export const addScript = timedLua`
${entryIdLua}
local backlog = redis.call('XLEN', KEYS[1])
if backlog >= tonumber(ARGV[3]) then return nil end
local id = redis.call('XADD', KEYS[1], entry_id(KEYS[1]), 'k', ARGV[1], 'v', ARGV[2])
if backlog == 0 then redis.call('PERSIST', KEYS[1]) end
return {id, backlog + 1}
`

/**
 * Takes the next writes. A lost group is created again, before the first write. PERSIST comes first: a full server
 * refuses XGROUP, except in a script that has written, and the consumer that empties the server must run.
 *
 * KEYS     owner, stream
 * ARGV     token, group, how many
 * reply    [source, id, fields], …; nil where the lease is lost
 */
export const takeScript = lua`
${takeNewLua}
${ifOwnedLua}
local taken = {}
local entries = take_new(taken, 'log', KEYS[2], ARGV[2], ARGV[3], function ()
  redis.call('PERSIST', KEYS[2])
  redis.call('XGROUP', 'CREATE', KEYS[2], ARGV[2], '0', 'MKSTREAM')
  if redis.call('XLEN', KEYS[2]) == 0 then redis.call('PEXPIRE', KEYS[2], ${IDLE_MS}) end
end)
if entries.err then return entries end
return taken
`

/**
 * KEYS     stream, dead letters
 * reply    backlog, dead letters, first and last id of the backlog (empty: none), time (ms)
 */
export const stateScript = timedLua`
local time = redis_time()
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {
  redis.call('XLEN', KEYS[1]), redis.call('XLEN', KEYS[2]), first and first[1] or '', last and last[1] or '',
  time[1] * 1000 + math.floor(time[2] / 1000)
}
`
