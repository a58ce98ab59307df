import { timedLua } from '../../shared/redis/script.js'

// The arguments that are pushed on Lua's stack at once: pairs, so an even number.
const PAGE = 1000

/**
 * Merges the changes of one request with those that other requests have written since it read the session: each
 * property is a field of its own, and the last writer of a property wins. A destroyed session stays destroyed.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms), whether the session is new (0, 1), the version that was read, the number of
 *          pairs to set, those pairs, then the fields to delete. The first pair is the version, with an empty
 *          value; the second is `all`, as it is if no other request has written
 * reply    the new version, or nil if there is no session to change
 */
export const mergeScript = timedLua`
local known = redis.call('HMGET', KEYS[1], 'dead', 'created', 'version')
if known[1] then return nil end
if not known[2] then
  if ARGV[3] ~= '1' then return nil end
  local clock = redis_time()
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  redis.call('HSET', KEYS[1], 'created', now, 'seen', now)
  redis.call('PEXPIRE', KEYS[1], math.min(tonumber(ARGV[1]), tonumber(ARGV[2])))
end
local version = tostring((tonumber(known[3]) or 0) + 1)
ARGV[7] = version
local last = 5 + tonumber(ARGV[5]) * 2
for i = 6, last, ${PAGE} do redis.call('HSET', KEYS[1], unpack(ARGV, i, math.min(i + ${PAGE - 1}, last))) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
-- Another request has written: 'all' is composed of the merged fields.
if (known[3] or '') ~= ARGV[4] then
  local parts = {}
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'f:' then
      parts[#parts + 1] = cjson.encode(string.sub(fields[i], 3)) .. ':' .. fields[i + 1]
    end
  end
  redis.call('HSET', KEYS[1], 'all', '{' .. table.concat(parts, ',') .. '}')
end
return version
`
