import { lua, timedLua } from '../../shared/redis/script.js'
import { TOMBSTONE_MS } from './store.js'

/** The life of a key without a TTL, which this plugin does not write. */
const DAY_MS = 86_400_000

/*
 * A session is one string: a head of fixed width, three lines, and its properties as one JSON object. A destroyed
 * session is `dead`. Times are Redis's own in milliseconds, see `timedLua`.
 *
 * offset  bytes
 *      0      2  `s1`, the version of this form
 *      2     15  creation
 *     17     15  last renewal
 *     32      1  whether the properties are sealed (0, 1)
 *     33         version, digest of the user's id, device: a line each
 */
export const MARK = 's1'
export const CREATED = 2
export const SEEN = 17
export const SEALED = 32
export const LINES = 33

/** Whether `stored` begins as a session. */
export const IS_SESSION = `string.sub(stored, 1, 2) == '${MARK}'`

/** Sets `now` to the time in milliseconds. */
export const NOW = `
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
`

/**
 * Renews a session's idle time-out, up to the absolute one.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms)
 */
export const renewScript = timedLua`
local stored = redis.call('GETRANGE', KEYS[1], 0, ${SEEN - 1})
if not (${IS_SESSION}) then return end
${NOW}
local created = tonumber(string.sub(stored, ${CREATED + 1}))
-- Redis lets a script that has written go on, even when it is out of memory.
redis.call('PEXPIRE', KEYS[1], math.max(1, math.min(tonumber(ARGV[1]), created + tonumber(ARGV[2]) - now)))
redis.call('SETRANGE', KEYS[1], ${SEEN}, string.format('%015d', now))
`

/**
 * Returns how long a session lives unless it is used. A user of Redis without PTTL gets a day: the watch checks again
 * after its interval.
 *
 * KEYS[1]  the session
 * reply    milliseconds; 0 if it has ended
 */
export const lifeScript = lua`
local stored = redis.call('GETRANGE', KEYS[1], 0, 1)
if not (${IS_SESSION}) then return 0 end
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
local stored = redis.pcall('GET', KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], 'dead', 'PX', ${TOMBSTONE_MS})
if type(stored) ~= 'string' or not (${IS_SESSION}) then return nil end
-- A user of Redis without PUBLISH destroys sessions as well.
redis.pcall('PUBLISH', ARGV[1], ARGV[2])
return string.match(stored, '^%d+\n([^\n]*)\n', ${LINES + 1}) or ''
`

/**
 * Returns the time by which an index is sorted: that of its node.
 *
 * KEYS[1]  an index
 * reply    the time now (ms)
 */
export const nowScript = timedLua`
${NOW}
return now
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
${NOW}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
local max = tonumber(ARGV[3])
if max > 0 and not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= max then
  return redis.call('ZRANGE', KEYS[1], 0, 999)
end
redis.call('ZADD', KEYS[1], 'NX', now, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return nil
`
