import { fenceLua } from '../shared/redis/fence.js'
import { lua, timedLua } from '../shared/redis/script.js'

/*
 * The lock of a resource is a key with the id of its owner and the lock's TTL. Beside it are `fence`, the last token,
 * and for waiters two sorted sets of owners: `line` (the queue) by the time of arrival (µs), and `seen` by the time at
 * which each leaves unless it asks again (ms). All times are Redis's own. `fence.ts` has the rules for a damaged fence.
 * A queue of another type is removed, as it only orders the waiters; a lock of another type is foreign data, and the
 * script fails.
 */

/** Lua: enters and leaves the queue of a resource, and removes a queue of another type. */
const queueLua = `
local function on_line (line, seen, command, ...)
  local reply = redis.pcall(command, line, ...)
  if type(reply) ~= 'table' then return reply end
  redis.call('DEL', line, seen)
  return redis.call(command, line, ...)
end
local function leave_line (line, seen, owner)
  if on_line(line, seen, 'ZREM', owner) == 1 then on_line(seen, line, 'ZREM', owner) end
end
`

/**
 * Acquires a lock. Its token is above all tokens before it, and not below the time in microseconds: it also grows if
 * the last token was lost.
 *
 * KEYS[1..4]  lock, fence, line, seen
 * ARGV        owner, TTL of the lock, TTL of the fence, TTL of the owner in the queue (ms; 0: the owner does not queue)
 * reply       [1, token], or [0, remaining TTL of the lock (ms), its owner]
 */
export const acquireScript = timedLua`${fenceLua}${queueLua}
local clock = redis_time()
local now = clock[1] * 1000000 + clock[2]
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  local queue_ttl = tonumber(ARGV[4])
  if queue_ttl > 0 then
    on_line(KEYS[3], KEYS[4], 'ZADD', 'NX', now, ARGV[1])
    on_line(KEYS[4], KEYS[3], 'ZADD', math.floor(now / 1000) + queue_ttl, ARGV[1])
    redis.call('PEXPIRE', KEYS[3], math.max(queue_ttl, redis.call('PTTL', KEYS[3])))
    redis.call('PEXPIRE', KEYS[4], math.max(queue_ttl, redis.call('PTTL', KEYS[4])))
  end
  return { 0, redis.call('PTTL', KEYS[1]), holder }
end
local fence = math.max(last_fence(KEYS[2]) + 1, now)
if fence == math.huge then return redis.error_reply(FENCE_ERROR) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[3])
leave_line(KEYS[3], KEYS[4], ARGV[1])
return { 1, fence }
`

/**
 * Extends a lock, and raises its fence to the owner's token if the fence is below.
 *
 * KEYS[1..2]  lock, fence
 * ARGV        owner, TTL of the lock, TTL of the fence, token
 * reply       1; 0 if the owner does not have the lock
 */
export const extendScript = lua`${fenceLua}
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local last = last_fence(KEYS[2])
if last < tonumber(ARGV[4]) then redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[3])
else redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return 1
`

/**
 * Records that the job under a lock has run, if the owner still has the lock.
 *
 * KEYS[1..2]  lock, done
 * ARGV        owner, TTL of the record (ms)
 * reply       1; 0 if the owner does not have the lock
 */
export const markDoneScript = lua`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], '1', 'PX', ARGV[2])
return 1
`

/**
 * Releases a lock: it is handed over to the first waiter whose TTL in the queue has not passed, for the rest of that
 * TTL, or is free.
 *
 * KEYS[1..3]  lock, line, seen
 * ARGV        owner, channel, the name to notify if the queue is empty ('': none)
 * reply       1; 0 if the owner did not have the lock
 */
export const releaseScript = timedLua`${queueLua}
leave_line(KEYS[2], KEYS[3], ARGV[1])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local name = ARGV[3]
local next = redis.call('ZPOPMIN', KEYS[2])[1]
while next do
  local left = (tonumber(redis.call('ZSCORE', KEYS[3], next)) or 0) - now
  redis.call('ZREM', KEYS[3], next)
  if left > 0 then
    redis.call('SET', KEYS[1], next, 'PX', left)
    name = next
    break
  end
  next = redis.call('ZPOPMIN', KEYS[2])[1]
end
-- A user without the right to publish can release a lock all the same: waiters also ask again by themselves.
if name ~= '' then redis.pcall('PUBLISH', ARGV[2], name) end
return 1
`
