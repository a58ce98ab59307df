import { lua } from '../shared/script.js'
import { TOMBSTONE_MS } from './store.js'

/*
 * A session is a hash. Its own properties are the fields that begin with "f:"; beside them stand `created` and `seen`
 * (ms), `user` (digest of whose it is), and in place of all of them `dead` where it was destroyed. Times are Redis's own.
 */

/**
 * Reads a session and renews its idle time-out, which the absolute one bounds.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms)
 * reply    its fields and values, or nil
 */
export const readSession = lua`
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local created = tonumber(redis.call('HGET', KEYS[1], 'created'))
if not created then return nil end
local left = math.min(tonumber(ARGV[1]), created + tonumber(ARGV[2]) - now)
if left <= 0 then
  redis.call('DEL', KEYS[1])
  return nil
end
redis.call('HSET', KEYS[1], 'seen', now)
redis.call('PEXPIRE', KEYS[1], left)
return redis.call('HGETALL', KEYS[1])
`

/**
 * Merges a change into a session, unless that was destroyed.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms), whether it is new (0, 1), user ('' for none), number of pairs to set,
 *          those pairs, then the fields to delete
 * reply    1, or 0 where there was nothing to change
 */
export const writeSession = lua`
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('HEXISTS', KEYS[1], 'dead') == 1 then return 0 end
local created = tonumber(redis.call('HGET', KEYS[1], 'created'))
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
local last = 5 + tonumber(ARGV[5]) * 2
for i = 6, last, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'user', ARGV[4]) else redis.call('HDEL', KEYS[1], 'user') end
redis.call('PEXPIRE', KEYS[1], left)
return 1
`

/**
 * Puts a tombstone in place of a session.
 *
 * KEYS[1]  the session
 * reply    whose it was, or nil
 */
export const destroySession = lua`
local user = redis.call('HGET', KEYS[1], 'user')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'dead', 1)
redis.call('PEXPIRE', KEYS[1], ${TOMBSTONE_MS})
return user
`
