import { lua, timedLua } from '../../../shared/redis/script.js'

/** Each partition's one consumer group, with one consumer: who that is, is said by the lease. */
const GROUP = 'writers'
const CONSUMER = 'writer'
/** How long what is empty is kept: a stream that holds something never expires. */
const IDLE_MS = 24 * 3600 * 1000

/** The id of a new entry: Redis makes it, of its own time or of the time that a test hands in. */
const NEW_ID = "given_time == '' and '*' or string.format('%.0f-*', math.floor(given_time / 1000))"

const EXPIRE_EMPTY = `if redis.call('XLEN', KEYS[1]) == 0 then redis.call('PEXPIRE', KEYS[1], ${IDLE_MS}) end`

/**
 * Accepts a write.
 *
 * KEYS[1]  stream
 * ARGV     key, value, how many may wait
 * reply    id and how many wait now; nil where it is full
 */
export const addScript = timedLua`
local waiting = redis.call('XLEN', KEYS[1])
if waiting >= tonumber(ARGV[3]) then return nil end
local id = redis.call('XADD', KEYS[1], ${NEW_ID}, 'k', ARGV[1], 'v', ARGV[2])
if waiting == 0 then redis.call('PERSIST', KEYS[1]) end
return {id, waiting + 1}
`

/**
 * The next writes that nobody took. A group that is gone is made anew, before the first write that is there; PERSIST comes first
 * as a full server refuses XGROUP, but not in a script that has written: what empties it must run.
 *
 * KEYS     stream, owner
 * ARGV     token, how many
 * reply    [id, key, value, 0], …; nil where the lease is lost
 */
export const takeScript = lua`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return nil end
local function read ()
  return redis.pcall('XREADGROUP', 'GROUP', '${GROUP}', '${CONSUMER}', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], '>')
end
local reply = read()
if type(reply) == 'table' and reply.err and string.find(reply.err, 'NOGROUP', 1, true) then
  redis.call('PERSIST', KEYS[1])
  redis.call('XGROUP', 'CREATE', KEYS[1], '${GROUP}', '0', 'MKSTREAM')
  ${EXPIRE_EMPTY}
  reply = read()
end
if type(reply) == 'table' and reply.err then return reply end
local writes = {}
if reply then
  for i, entry in ipairs(reply[1][2]) do writes[i] = {entry[1], entry[2][2], entry[2][4], 0} end
end
return writes
`

/**
 * The writes that were taken and are not done.
 *
 * KEYS     stream, owner
 * ARGV     token, where to begin, how many to look at
 * reply    last id that was looked at (empty: there are no more), [id, key, value, how often it was given], …; nil where the lease is lost
 */
export const pendingScript = lua`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return nil end
local pending = redis.pcall('XPENDING', KEYS[1], '${GROUP}', ARGV[2], '+', ARGV[3])
if pending.err then
  if string.find(pending.err, 'NOGROUP', 1, true) then return {''} end
  return pending
end
local last = pending[#pending]
local writes = {#pending == tonumber(ARGV[3]) and last[1] or ''}
for _, each in ipairs(pending) do
  local entry = redis.call('XRANGE', KEYS[1], each[1], each[1])[1]
  if entry then writes[#writes + 1] = {entry[1], entry[2][2], entry[2][4], each[4]}
  else redis.call('XACK', KEYS[1], '${GROUP}', each[1]) end
end
return writes
`

/**
 * KEYS     stream, owner
 * ARGV     token, id, how often it is given
 * reply    1, or 0 where the lease is lost
 */
export const markScript = lua`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('XCLAIM', KEYS[1], '${GROUP}', '${CONSUMER}', 0, ARGV[2], 'RETRYCOUNT', ARGV[3], 'JUSTID')
return 1
`

/**
 * Writes that reached the source.
 *
 * KEYS     stream, owner
 * ARGV     token, ids
 * reply    1, or 0 where the lease is lost
 */
export const ackScript = lua`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
for i = 2, #ARGV do
  redis.call('XACK', KEYS[1], '${GROUP}', ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
${EXPIRE_EMPTY}
return 1
`

/**
 * Makes a dead letter of a write. XACK comes first, see above.
 *
 * KEYS     stream, owner, dead letters
 * ARGV     token, id, reason, how often it was given, how many dead letters are kept, ids of older writes in whose place it stood
 * reply    how many older ones went; nil where the lease is lost
 */
export const deadLetterScript = timedLua`
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return nil end
redis.call('XACK', KEYS[1], '${GROUP}', ARGV[2])
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local dropped = 0
if entry then
  local before = redis.call('XLEN', KEYS[3])
  redis.call('XADD', KEYS[3], 'MAXLEN', ARGV[5], ${NEW_ID}, 'k', entry[2][2], 'v', entry[2][4], 'id', ARGV[2], 'reason', ARGV[3], 'given', ARGV[4])
  dropped = before + 1 - redis.call('XLEN', KEYS[3])
  redis.call('XDEL', KEYS[1], ARGV[2])
end
for i = 6, #ARGV do
  redis.call('XACK', KEYS[1], '${GROUP}', ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
${EXPIRE_EMPTY}
return dropped
`

/**
 * KEYS     stream, dead letters
 * reply    writes, dead letters, first and last id of the writes (empty: none), time (ms)
 */
export const stateScript = timedLua`
local time = redis_time()
local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return {
  redis.call('XLEN', KEYS[1]), redis.call('XLEN', KEYS[2]), first and first[1] or '', last and last[1] or '',
  time[1] * 1000 + math.floor(time[2] / 1000)
}
`

/**
 * Makes writes of dead letters.
 *
 * KEYS     stream, dead letters
 * ARGV     how many may wait, ids
 * reply    how many
 */
export const replayScript = timedLua`
local count = 0
for i = 2, #ARGV do
  if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then break end
  local entry = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  if entry then
    redis.call('XADD', KEYS[1], ${NEW_ID}, 'k', entry[2][2], 'v', entry[2][4])
    redis.call('PERSIST', KEYS[1])
    redis.call('XDEL', KEYS[2], ARGV[i])
    count = count + 1
  end
end
if redis.call('XLEN', KEYS[2]) == 0 then redis.call('DEL', KEYS[2]) end
return count
`

/**
 * KEYS[1]  dead letters
 * ARGV     ids
 * reply    how many there were
 */
export const discardScript = lua`
local count = 0
for _, id in ipairs(ARGV) do count = count + redis.call('XDEL', KEYS[1], id) end
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[1]) end
return count
`
