import { fenceLua } from '../redis/fence.js'
import { lua, timedLua } from '../redis/script.js'

/** How long the last fencing token is kept. */
const FENCE_MS = 24 * 3600 * 1000

/**
 * Registers an instance, and counts the live ones.
 *
 * KEYS[1]  sorted set of instances, by the time until which they count as live
 * ARGV     instance, how long it counts as live (ms)
 * reply    how many instances are live
 */
export const heartbeatScript = timedLua`
local time = redis_time()
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
`

/**
 * Acquires a free lease. The fencing token is the time, or one more than the last token: it increases also where the
 * key was lost. PEXPIRE comes first: a full server refuses SET, except in a script that has written, and the consumer
 * that empties the server must run.
 *
 * KEYS     owner, fence
 * ARGV     token, TTL (ms)
 * reply    fencing token, or nil where the lease is held
 */
export const acquireScript = timedLua`${fenceLua}
if redis.call('EXISTS', KEYS[1]) == 1 then return nil end
local time = redis_time()
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = last_fence(KEYS[2])
if last == math.huge then return redis.error_reply(FENCE_ERROR) end
redis.call('PEXPIRE', KEYS[2], ${FENCE_MS})
local fence = string.format('%.0f', math.max(now, last + 1))
redis.call('SET', KEYS[2], fence, 'PX', ${FENCE_MS})
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return fence
`

/**
 * Renews or releases a lease.
 *
 * KEYS[1]  owner
 * ARGV     token, TTL (ms); 0 releases the lease
 * reply    1, or 0 where another instance holds it
 */
export const renewScript = lua`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
`
