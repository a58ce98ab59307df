import { lua } from '../shared/script.js'
import { TOMBSTONE_MS } from './store.js'

/*
 * A session is a hash. Its own properties are the fields that begin with "f:"; beside them stand `created` and `seen`
 * (ms), `user` (digest of whose it is) and `device`, and in place of all of them `dead` where it was destroyed. Times are
 * Redis's own.
 */

/**
 * Reads a session and renews its idle time-out, which the absolute one bounds.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms)
 * reply    its fields and values, or nil
 */
export const readScript = lua`
local fields = redis.call('HGETALL', KEYS[1])
local created
for i = 1, #fields, 2 do
  if fields[i] == 'created' then created = tonumber(fields[i + 1]) end
end
if not created then return nil end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local left = math.min(tonumber(ARGV[1]), created + tonumber(ARGV[2]) - now)
if left <= 0 then
  redis.call('DEL', KEYS[1])
  return nil
end
-- Once a script has written, Redis lets it write more even where it is out of memory.
redis.call('PEXPIRE', KEYS[1], left)
redis.call('HSET', KEYS[1], 'seen', now)
return fields
`

/**
 * Merges a change into a session, unless that was destroyed.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms), whether it is new (0, 1), number of pairs to set, those pairs, then the fields to delete
 * reply    1, or 0 where there was nothing to change
 */
export const writeScript = lua`
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local known = redis.call('HMGET', KEYS[1], 'dead', 'created')
if known[1] then return 0 end
local created = tonumber(known[2])
if not created then
  if ARGV[3] ~= '1' then return 0 end
  created = now
  redis.call('HSET', KEYS[1], 'created', now, 'seen', now)
end
local left = math.min(tonumber(ARGV[1]), created + tonumber(ARGV[2]) - now)
if left <= 0 then
  redis.call('DEL', KEYS[1])
  return 0
end
local last = 4 + tonumber(ARGV[4]) * 2
for i = 5, last, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], left)
return 1
`

/**
 * Puts a tombstone in place of a session.
 *
 * KEYS[1]  the session
 * reply    whose it was ('' for nobody's), or nil where there was none
 */
export const destroyScript = lua`
local known = redis.call('HMGET', KEYS[1], 'created', 'user')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'dead', 1)
redis.call('PEXPIRE', KEYS[1], ${TOMBSTONE_MS})
return known[1] and (known[2] or '') or nil
`

/**
 * Enters a session into a user's index, by the time now, if there is room. (Not by that at which
 * it ends: who lowers the time-out would not find those that were entered before.)
 *
 * KEYS[1]  the index
 * ARGV     handle, absolute time-out (ms), most (0: any number)
 * reply    nil; or where there is no room those that are in it, the oldest first
 */
export const enterScript = lua`
local clock = redis.call('TIME')
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
