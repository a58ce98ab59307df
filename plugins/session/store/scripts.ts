import { lua, timedLua } from '../../shared/redis/script.js'
import { TOMBSTONE_MS } from './store.js'

/** Of a key without a TTL, which this plugin does not write. */
const DAY_MS = 86_400_000

/*
 * A session is a hash. Its own properties are the fields that begin with "f:" (JSON), and `all` is all of them as one JSON object;
 * beside them stand `created` and `seen` (ms), `version`, `sealed` (0, 1), `user` (digest of whose it is) and `device`, and in place of all of them `dead`
 * where it was destroyed. Times are Redis's own, see `timedLua`.
 */

/** What is read of a session. None but the last has a space in it. */
export const FIELDS = ['version', 'user', 'created', 'seen', 'sealed', 'all'] as const

/**
 * Reads sessions, in one call however many.
 *
 * KEYS     the sessions
 * reply    of each '' where it is not there; else the fields, with spaces between them
 */
export const readScript = lua`
local replies = {}
for i, key in ipairs(KEYS) do
  local stored = redis.pcall('HMGET', key, ${FIELDS.map(name => `'${name}'`).join()})
  if stored.err then
    -- A key that is no session concerns nobody else; all else does.
    if not stored.err:find('WRONGTYPE', 1, true) then return stored end
    replies[i] = stored
  elseif stored[${FIELDS.length}] then
    for n = 1, ${FIELDS.length} do stored[n] = stored[n] or '' end
    replies[i] = table.concat(stored, ' ')
  else
    replies[i] = ''
  end
end
return replies
`

/**
 * Renews a session's idle time-out, which the absolute one bounds.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms)
 */
export const renewScript = timedLua`
local created = tonumber(redis.call('HGET', KEYS[1], 'created'))
if not created then return end
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- Once a script has written, Redis lets it write more even where it is out of memory.
redis.call('PEXPIRE', KEYS[1], math.max(1, math.min(tonumber(ARGV[1]), created + tonumber(ARGV[2]) - now)))
redis.call('HSET', KEYS[1], 'seen', now)
`

/**
 * The life that a session has left unless it is used. A user of Redis without PTTL gets that of a session without a TTL: the watch
 * looks again after its interval.
 *
 * KEYS[1]  the session
 * reply    milliseconds, 0 where it has ended
 */
export const lifeScript = lua`
if not redis.call('HGET', KEYS[1], 'created') then return 0 end
local ttl = redis.pcall('PTTL', KEYS[1])
return (type(ttl) ~= 'number' or ttl < 0) and ${DAY_MS} or math.max(1, ttl)
`

/**
 * Puts a tombstone in place of a session, and publishes that it has ended.
 *
 * KEYS[1]  the session
 * ARGV     the channel, the session's handle
 * reply    whose it was ('' for nobody's), or nil where there was none
 */
export const destroyScript = lua`
local known = redis.call('HMGET', KEYS[1], 'created', 'user')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'dead', 1)
redis.call('PEXPIRE', KEYS[1], ${TOMBSTONE_MS})
if not known[1] then return nil end
-- A user of Redis who may not publish ends sessions all the same.
redis.pcall('PUBLISH', ARGV[1], ARGV[2])
return known[2] or ''
`

/**
 * KEYS[1]  an index, which is only to say whose clock is asked: its entries bear the time of the node that it lies on
 * reply    the time now (ms)
 */
export const nowScript = timedLua`
local clock = redis_time()
return clock[1] * 1000 + math.floor(clock[2] / 1000)
`

/**
 * Enters a session into a user's index, by the time now, if there is room. (Not by that at which
 * it ends: who lowers the time-out would not find those that were entered before.)
 *
 * KEYS[1]  the index
 * ARGV     handle, absolute time-out (ms), most (0: any number)
 * reply    nil; or where there is no room those that are in it, the oldest first
 */
export const enterScript = timedLua`
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
local most = tonumber(ARGV[3])
if most > 0 and not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= most then
  return redis.call('ZRANGE', KEYS[1], 0, 999)
end
redis.call('ZADD', KEYS[1], 'NX', now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return nil
`
