import { timedLua } from '../../shared/redis/script.js'

/*
 * A semaphore is a sorted set of its holders by the time at which each lease ends, and a hash with the weight of each.
 * Waiters are in two more sorted sets: `line` (the queue) by the time of arrival (µs), and `seen` by the time at which
 * each leaves unless it asks again. Times are Redis's own, in milliseconds where nothing else is said. Only the first
 * waiter gets permits, so that one with a large weight is not overtaken for ever.
 */

const STATE = `
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function remove_ended ()
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
    redis.call('ZREM', KEYS[1], owner)
    redis.call('HDEL', KEYS[2], owner)
  end
  local left = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now)
  for _, owner in ipairs(left) do
    redis.call('ZREM', KEYS[3], owner)
    redis.call('ZREM', KEYS[4], owner)
  end
  return #left > 0
end
local function used ()
  local sum = 0
  for _, weight in ipairs(redis.call('HVALS', KEYS[2])) do sum = sum + weight end
  return sum
end
local function keep (key, ttl)
  redis.call('PEXPIRE', key, math.max(ttl, redis.call('PTTL', key)))
end
-- Wakes the first waiter, which then asks. A user without the right to publish needs no message: waiters poll too.
local function call_first ()
  local first = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if first then redis.pcall('PUBLISH', ARGV[#ARGV], first) end
end
`

/**
 * Acquires permits, if enough are free and no other waiter came first. A holder's lease starts again.
 *
 * KEYS[1..4]  holders, weights, line, seen
 * ARGV        owner, lease (ms), weight, permits of the semaphore, TTL of the owner in the queue (ms; 0: it does not
 *             queue), channel
 * reply       [1, the time (µs)], or [0, milliseconds until the first lease ends; a lease where there is none]
 */
export const acquireScript = timedLua`${STATE}
local is_shorter = remove_ended()
local owner, lease, weight = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local first = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
local is_holder = redis.call('ZSCORE', KEYS[1], owner)
if is_holder or ((not first or first == owner) and used() + weight <= tonumber(ARGV[4])) then
  redis.call('ZADD', KEYS[1], now + lease, owner)
  redis.call('HSET', KEYS[2], owner, weight)
  keep(KEYS[1], lease)
  keep(KEYS[2], lease)
  redis.call('ZREM', KEYS[3], owner)
  redis.call('ZREM', KEYS[4], owner)
  -- There may be permits for the next one too.
  call_first()
  return { 1, clock[1] * 1000000 + clock[2] }
end
local queue_ttl = tonumber(ARGV[5])
if queue_ttl > 0 then
  local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')[2] or 0
  redis.call('ZADD', KEYS[3], 'NX', math.max(clock[1] * 1000000 + clock[2], last + 1), owner)
  redis.call('ZADD', KEYS[4], now + queue_ttl, owner)
  keep(KEYS[3], queue_ttl)
  keep(KEYS[4], queue_ttl)
end
-- The waiter behind one that died does not know that it is the first.
if is_shorter then call_first() end
local ends_at = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return { 0, ends_at and math.max(1, ends_at - now) or lease }
`

/**
 * Starts a holder's lease again.
 *
 * KEYS[1..2]  holders, weights
 * ARGV        owner, lease (ms)
 * reply       1; 0 if the owner has no permits any more
 */
export const extendScript = timedLua`
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends_at = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if ends_at <= now then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, math.max(tonumber(ARGV[2]), redis.call('PTTL', key))) end
return 1
`

/**
 * Gives permits back, or leaves the queue, and wakes the first waiter.
 *
 * KEYS[1..4]  holders, weights, line, seen
 * ARGV        owner, channel
 * reply       1; 0 if the owner had no permits
 */
export const releaseScript = timedLua`${STATE}
remove_ended()
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
local was_holder = redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
call_first()
return was_holder
`

/**
 * KEYS[1..2]  holders, weights
 * reply       the owners whose leases have not ended, each with its weight
 */
export const holdersScript = timedLua`
local clock = redis_time()
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local reply = {}
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  reply[#reply + 1] = owner
  reply[#reply + 1] = redis.call('HGET', KEYS[2], owner) or '0'
end
return reply
`
