import { lua, type Script } from '../redis/script.js'

// An entry of a queue has the fields k (key), v (value), n (number) and id (of the message, where the entry has another
// one), as far as there are such. A dead letter has also reason and given. Each group has one consumer: the holder of
// the lease.
const CONSUMER = 'holder'

/**
 * Lua: `entry_id(stream)` returns the id for `XADD`. The server makes it; with a test's clock it has that clock's time.
 * Before version 7 Redis does not number the entries of a given millisecond.
 */
export const entryIdLua = `
local function entry_id (stream)
  if given_time == '' then return '*' end
  local time = redis_time()
  local ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  if redis.REDIS_VERSION_NUM then return ms .. '-*' end
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    local last_ms, last = string.match(tostring(info[i + 1]), '^(%d+)-(%d+)$')
    if info[i] == 'last-generated-id' and last_ms == ms then return ms .. '-' .. last + 1 end
  end
  return ms .. '-0'
end
`

/** Lua: ends the script where the lease is lost. KEYS[1] is the owner, ARGV[1] the token. */
export const ifOwnedLua = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end"

/**
 * Lua: `take_new(taken, source, stream, group, count, create)` appends the next entries of a stream to `taken`, as
 * [source, id, fields], until it has `count`. It calls `create()` where the group is missing. Returns the entries, or
 * the table of an error.
 */
export const takeNewLua = `
local function take_new (taken, source, stream, group, count, create)
  local function read ()
    local left = tonumber(count) - #taken
    return redis.pcall('XREADGROUP', 'GROUP', group, '${CONSUMER}', 'COUNT', left, 'STREAMS', stream, '>')
  end
  local reply = read()
  if reply and reply.err and string.find(reply.err, 'NOGROUP', 1, true) then
    local failed = create()
    if failed and failed.err then return failed end
    reply = read()
  end
  if reply and reply.err then return reply end
  local entries = reply and reply[1][2] or {}
  for _, entry in ipairs(entries) do taken[#taken + 1] = {source, entry[1], entry[2]} end
  return entries
end
`

/** Lua: `delete(stream, ids, ttl)` deletes entries. An empty stream is kept for `ttl` milliseconds; 0 deletes it. */
export const deleteLua = `
local function delete (stream, ids, ttl)
  redis.call('XDEL', stream, unpack(ids))
  if redis.call('XLEN', stream) == 0 then redis.call('PEXPIRE', stream, ttl) end
end
`

/**
 * Makes the script that returns messages that were taken and not acknowledged.
 *
 * KEYS     owner, stream, key of the queue's own
 * ARGV     token, group, first id, how many to look at
 * reply    last id that was looked at (empty: there are no more), [id, fields, delivery count], …; nil where the lease
 *          is lost
 *
 * @param onTrimmed - Lua: runs for each taken entry that was trimmed. KEYS[3] is a key of the queue's own, ARGV[2] the
 *   group.
 */
export function createPendingScript (onTrimmed = ''): Script {
  return lua`
${ifOwnedLua}
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], ARGV[3], '+', ARGV[4])
if pending.err then
  if string.find(pending.err, 'NOGROUP', 1, true) then return {''} end
  return pending
end
local messages = {#pending == tonumber(ARGV[4]) and pending[#pending][1] or ''}
for _, each in ipairs(pending) do
  local entry = redis.call('XRANGE', KEYS[2], each[1], each[1])[1]
  if entry then messages[#messages + 1] = {entry[1], entry[2], each[4]}
  else
    redis.call('XACK', KEYS[2], ARGV[2], each[1])
    ${onTrimmed}
  end
end
return messages
`
}

/**
 * Stores how often a message was delivered. XCLAIM would remove a trimmed entry from the pending ones, so that one is
 * left as it is.
 *
 * KEYS     owner, stream
 * ARGV     token, group, id, delivery count
 * reply    1, or nil where the lease is lost
 */
export const markScript = lua`
${ifOwnedLua}
if #redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3]) == 0 then return 1 end
redis.call('XCLAIM', KEYS[2], ARGV[2], '${CONSUMER}', 0, ARGV[3], 'RETRYCOUNT', ARGV[4], 'JUSTID')
return 1
`

/**
 * Acknowledges messages.
 *
 * KEYS     owner, stream
 * ARGV     token, group, TTL of the stream when it is empty (ms; without one the entries stay), ids
 * reply    1, or nil where the lease is lost
 */
export const ackScript = lua`
${deleteLua}
${ifOwnedLua}
redis.call('XACK', KEYS[2], ARGV[2], unpack(ARGV, 4))
if ARGV[3] ~= '' then delete(KEYS[2], {unpack(ARGV, 4)}, ARGV[3]) end
return 1
`
