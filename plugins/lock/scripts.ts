import { fenceLua } from '../shared/redis/fence.js'
import { lua, timedLua } from '../shared/redis/script.js'

/*
 * A lock is the name of its owner, with the lock's TTL. Beside it stand its fence, the last token given out, and where somebody
 * waits two sorted sets of owners: `line` by when they came (µs), and `seen` by until when they will have asked again (ms).
 * Times are Redis's own. What is stored as a fence and is none follows the rules of `fence.ts`. A line of another type is removed, as it only
 * orders those who wait; a lock of another type is somebody else's data, and the script fails.
 */

/** Lua: enters and leaves the line of a resource, and removes it where it is of another type. */
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
 * Takes a lock. A token is above all before it, and not below the time in microseconds, so that it also grows
 * where the last one was lost.
 *
 * KEYS[1..4]  lock, fence, line, seen
 * ARGV        owner, TTL of the lock, TTL of the fence, patience (ms; 0: does not stand in line)
 * reply       [1, token], or [0, TTL that the lock has left (ms), its owner]
 */
export const takeScript = timedLua`${fenceLua}${queueLua}
local clock = redis_time()
local now = clock[1] * 1000000 + clock[2]
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  local patience = tonumber(ARGV[4])
  if patience > 0 then
    on_line(KEYS[3], KEYS[4], 'ZADD', 'NX', now, ARGV[1])
    on_line(KEYS[4], KEYS[3], 'ZADD', math.floor(now / 1000) + patience, ARGV[1])
    redis.call('PEXPIRE', KEYS[3], math.max(patience, redis.call('PTTL', KEYS[3])))
    redis.call('PEXPIRE', KEYS[4], math.max(patience, redis.call('PTTL', KEYS[4])))
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
 * Extends a lock, and has its fence not below the owner's token.
 *
 * KEYS[1..2]  lock, fence
 * ARGV        owner, TTL of the lock, TTL of the fence, token
 * reply       1, or 0 where it is not the owner's
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
 * Releases a lock: to the first in line who is still there, for as long as he is expected, else to whoever comes.
 *
 * KEYS[1..3]  lock, line, seen
 * ARGV        owner, channel, what is called where nobody stands in line ('': nothing)
 * reply       1, or 0 where it was not the owner's
 */
export const releaseScript = timedLua`${queueLua}
leave_line(KEYS[2], KEYS[3], ARGV[1])
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local call = ARGV[3]
local next = redis.call('ZPOPMIN', KEYS[2])[1]
while next do
  local left = (tonumber(redis.call('ZSCORE', KEYS[3], next)) or 0) - now
  redis.call('ZREM', KEYS[3], next)
  if left > 0 then
    redis.call('SET', KEYS[1], next, 'PX', left)
    call = next
    break
  end
  next = redis.call('ZPOPMIN', KEYS[2])[1]
end
-- Who may not publish still has his lock released: those who wait ask again by themselves.
if call ~= '' then redis.pcall('PUBLISH', ARGV[2], call) end
return 1
`
