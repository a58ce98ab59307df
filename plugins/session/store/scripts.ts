import { lua, timedLua } from '../../shared/redis/script.js'
import { TOMBSTONE_MS } from './store.js'

/** The life of a key without a TTL, which this plugin does not write. */
const DAY_MS = 86_400_000

/*
 * A session is a hash. Fields that begin with "f:" are its properties (JSON), and `all` is all of them as one JSON
 * object. Its other fields are `created` and `seen` (ms), `version`, `sealed` (0, 1), `user` (the digest of its user's
 * id) and `device`. A destroyed session has the field `dead` only. Times are Redis's own, see `timedLua`.
 */

/** The fields that a read returns. Only the last one may contain spaces. */
export const FIELDS = ['version', 'user', 'created', 'seen', 'sealed', 'all'] as const

/**
 * Reads sessions.
 *
 * KEYS     the sessions
 * reply    for each its fields, with spaces between them, or '' if there is none
 */
export const readScript = lua`
local replies = {}
for i, key in ipairs(KEYS) do
  local stored = redis.pcall('HMGET', key, ${FIELDS.map(name => `'${name}'`).join()})
  if stored.err then
    -- A key of another type fails its own read only. Other errors fail the batch.
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
 * Renews a session's idle time-out, up to the absolute one.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms)
 */
export const renewScript = timedLua`
local created = tonumber(redis.call('HGET', KEYS[1], 'created'))
if not created then return end
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- Redis lets a script that has written go on, even when it is out of memory.
redis.call('PEXPIRE', KEYS[1], math.max(1, math.min(tonumber(ARGV[1]), created + tonumber(ARGV[2]) - now)))
redis.call('HSET', KEYS[1], 'seen', now)
`

/**
 * Returns how long a session lives unless it is used. A user of Redis without PTTL gets a day: the watch checks again
 * after its interval.
 *
 * KEYS[1]  the session
 * reply    milliseconds; 0 if it has ended
 */
export const lifeScript = lua`
if not redis.call('HGET', KEYS[1], 'created') then return 0 end
local ttl = redis.pcall('PTTL', KEYS[1])
return (type(ttl) ~= 'number' or ttl < 0) and ${DAY_MS} or math.max(1, ttl)
`

/**
 * Replaces a session by a tombstone, and publishes its end.
 *
 * KEYS[1]  the session
 * ARGV     the channel, the session's handle
 * reply    the digest of its user's id ('' without a user), or nil if there was no session
 */
export const destroyScript = lua`
local known = redis.call('HMGET', KEYS[1], 'created', 'user')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'dead', 1)
redis.call('PEXPIRE', KEYS[1], ${TOMBSTONE_MS})
if not known[1] then return nil end
-- A user of Redis without PUBLISH destroys sessions as well.
redis.pcall('PUBLISH', ARGV[1], ARGV[2])
return known[2] or ''
`

/**
 * Returns the time by which an index is sorted: that of its node.
 *
 * KEYS[1]  an index
 * reply    the time now (ms)
 */
export const nowScript = timedLua`
local clock = redis_time()
return clock[1] * 1000 + math.floor(clock[2] / 1000)
`

/**
 * Adds a session to a user's index, with the time now as its score, if there is room. The time of its end would be no
 * good score: after the time-out is lowered, older sessions would not be found.
 *
 * KEYS[1]  the index
 * ARGV     handle, absolute time-out (ms), maximum (0: any number)
 * reply    nil; or, if there is no room, the present entries, the oldest first
 */
export const enterScript = timedLua`
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
local max = tonumber(ARGV[3])
if max > 0 and not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= max then
  return redis.call('ZRANGE', KEYS[1], 0, 999)
end
redis.call('ZADD', KEYS[1], 'NX', now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return nil
`
