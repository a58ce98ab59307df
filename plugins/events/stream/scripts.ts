import { lua, timedLua } from '../../shared/redis/script.js'

// An event is [n, its number, v, its value, k, its key]; without a key it ends before that. What is replayed, and a dead letter,
// have also [id, the event's]. Each group has one consumer: who that is, is said by the lease.
const CONSUMER = 'holder'

/** Has a group where there is none: one that was there before, at the first event. PEXPIRE comes first as a full server refuses the rest, but not in a script that has written. */
const FOUND = `
local function found (log, meta, group, from, maxAge, retention)
  redis.call('PEXPIRE', meta, retention)
  local isNew = redis.call('HEXISTS', meta, 'read:' .. group) == 0
  local made = redis.pcall('XGROUP', 'CREATE', log, group, isNew and from or '0', 'MKSTREAM')
  if made.err then
    if string.find(made.err, 'BUSYGROUP', 1, true) then return nil end
    return made
  end
  if redis.call('PTTL', log) < 0 then redis.call('PEXPIRE', log, maxAge) end
  if isNew then
    local read = tonumber(redis.call('HGET', meta, 'n')) or 0
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    if from == '0' and first then read = (tonumber(first[2][2]) or 1) - 1 end
    redis.call('HSET', meta, 'read:' .. group, read)
    redis.call('PEXPIRE', meta, retention)
  end
  return nil
end
`

/** The id of a new entry is the server's; with a clock of a test it is of that clock's time. */
const ENTRY_ID = `
local function entry_id ()
  if given_time == '' then return '*' end
  local time = redis_time()
  return string.format('%.0f-*', time[1] * 1000 + math.floor(time[2] / 1000))
end
`

const IF_HELD = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return nil end"
/** What was replayed is done for good. */
const FORGET = `
local function forget (stream, ids)
  redis.call('XDEL', stream, unpack(ids))
  if redis.call('XLEN', stream) == 0 then redis.call('DEL', stream) end
end
`

/** More than are appended at a time, so that the log gets shorter. */
const TRIMMED_AT_ONCE = 100

/**
 * Appends an event, numbers it and tells of it. That nobody may be told is no error: those who wait look by themselves. Nor is it one that Redis
 * cannot trim by age (before 6.2): the event is stored by then, and a caller who got an error would append it again.
 *
 * KEYS     log, meta
 * ARGV     value, how many are kept, for how long (ms), TTL of meta (ms), channel, message, key (or none)
 * reply    id, number
 */
export const appendScript = timedLua`
${ENTRY_ID}
local time = redis_time()
local n = redis.call('HINCRBY', KEYS[2], 'n', 1)
local fields = {'n', n, 'v', ARGV[1]}
if ARGV[7] then fields[5], fields[6] = 'k', ARGV[7] end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], entry_id(), unpack(fields))
local oldest = string.format('%.0f', math.max(0, time[1] * 1000 - ARGV[3]))
local trimmed = redis.pcall('XTRIM', KEYS[1], 'MINID', '~', oldest)
if type(trimmed) == 'table' and trimmed.err then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', oldest, 'COUNT', ${TRIMMED_AT_ONCE})) do redis.call('XDEL', KEYS[1], entry[1]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return {id, n}
`

/**
 * KEYS     log, meta
 * ARGV     group, where it begins if it is new, for how long events are kept (ms), TTL of meta (ms)
 */
export const foundScript = lua`
${FOUND}
return found(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
`

/**
 * The next events that nobody took. What was trimmed since the last one shows in the numbers.
 *
 * KEYS     owner, log, meta, what is replayed
 * ARGV     token, group, where it begins if it is new, how many, for how long events are kept (ms), TTL of meta (ms)
 * reply    [source, id, fields], …; nil where the lease is lost
 */
export const takeScript = lua`
${FOUND}
${IF_HELD}
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[6]) * 0.9 then redis.call('PEXPIRE', KEYS[3], ARGV[6]) end
local group = ARGV[2]
local taken = {}
local function read (stream)
  return redis.pcall('XREADGROUP', 'GROUP', group, '${CONSUMER}', 'COUNT', tonumber(ARGV[4]) - #taken, 'STREAMS', stream, '>')
end
local function take (source, stream, make)
  local reply = read(stream)
  if reply and reply.err and string.find(reply.err, 'NOGROUP', 1, true) then
    local failed = make()
    if failed and failed.err then return failed end
    reply = read(stream)
  end
  if reply and reply.err then return reply end
  local entries = reply and reply[1][2] or {}
  for _, entry in ipairs(entries) do taken[#taken + 1] = {source, entry[1], entry[2]} end
  return entries
end
if redis.call('EXISTS', KEYS[4]) == 1 then
  local again = take('again', KEYS[4], function () return redis.pcall('XGROUP', 'CREATE', KEYS[4], group, '0') end)
  if again.err then return again end
end
if #taken < tonumber(ARGV[4]) then
  local entries = take('log', KEYS[2], function () return found(KEYS[2], KEYS[3], group, ARGV[3], ARGV[5], ARGV[6]) end)
  if entries.err then return entries end
  local last = entries[#entries] and tonumber(entries[#entries][2][2])
  if last then
    local lost = last - (tonumber(redis.call('HGET', KEYS[3], 'read:' .. group)) or 0) - #entries
    if lost > 0 then redis.call('HINCRBY', KEYS[3], 'lost:' .. group, lost) end
    redis.call('HSET', KEYS[3], 'read:' .. group, last)
  end
end
return taken
`

/**
 * The events that were taken and are not done. What was trimmed meanwhile is counted as lost.
 *
 * KEYS     owner, log or what is replayed, meta
 * ARGV     token, group, where to begin, how many to look at
 * reply    last id that was looked at (empty: there are no more), [id, fields, how often it was given], …; nil where the lease is lost
 */
export const pendingScript = lua`
${IF_HELD}
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], ARGV[3], '+', ARGV[4])
if pending.err then
  if string.find(pending.err, 'NOGROUP', 1, true) then return {''} end
  return pending
end
local events = {#pending == tonumber(ARGV[4]) and pending[#pending][1] or ''}
for _, each in ipairs(pending) do
  local entry = redis.call('XRANGE', KEYS[2], each[1], each[1])[1]
  if entry then events[#events + 1] = {entry[1], entry[2], each[4]}
  else
    redis.call('XACK', KEYS[2], ARGV[2], each[1])
    redis.call('HINCRBY', KEYS[3], 'lost:' .. ARGV[2], 1)
  end
end
return events
`

/**
 * An event that was trimmed meanwhile is left as it is: XCLAIM would take it out of what is pending.
 *
 * KEYS     owner, log or what is replayed
 * ARGV     token, group, id, how often it is given
 * reply    1, or nil where the lease is lost
 */
export const markScript = lua`
${IF_HELD}
if #redis.call('XRANGE', KEYS[2], ARGV[3], ARGV[3]) == 0 then return 1 end
redis.call('XCLAIM', KEYS[2], ARGV[2], '${CONSUMER}', 0, ARGV[3], 'RETRYCOUNT', ARGV[4], 'JUSTID')
return 1
`

/**
 * KEYS     owner, log or what is replayed
 * ARGV     token, group, source, ids
 * reply    1, or nil where the lease is lost
 */
export const ackScript = lua`
${FORGET}
${IF_HELD}
redis.call('XACK', KEYS[2], ARGV[2], unpack(ARGV, 4))
if ARGV[3] == 'again' then forget(KEYS[2], {unpack(ARGV, 4)}) end
return 1
`

/**
 * Makes a dead letter of an event, once. XACK comes first, see above.
 *
 * KEYS     owner, log or what is replayed, dead letters
 * ARGV     token, group, source, id in its source, how many are kept, TTL (ms), fields
 * reply    how many older ones went; nil where the lease is lost
 */
export const deadLetterScript = timedLua`
${ENTRY_ID}
${FORGET}
${IF_HELD}
if redis.call('XACK', KEYS[2], ARGV[2], ARGV[4]) == 0 then return 0 end
local before = redis.call('XLEN', KEYS[3])
redis.call('XADD', KEYS[3], 'MAXLEN', ARGV[5], entry_id(), unpack(ARGV, 7))
redis.call('PEXPIRE', KEYS[3], ARGV[6])
if ARGV[3] == 'again' then forget(KEYS[2], {ARGV[4]}) end
return before + 1 - redis.call('XLEN', KEYS[3])
`

/**
 * KEYS     log, meta
 * reply    length, fields of meta, first entries, last entries (one or none each), groups
 */
export const stateScript = lua`
return {
  redis.call('XLEN', KEYS[1]), redis.call('HGETALL', KEYS[2]),
  redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1), redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1),
  redis.call('EXISTS', KEYS[1]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[1]) or {}
}
`

/**
 * Gives dead letters to their group again.
 *
 * KEYS     what is replayed, dead letters
 * ARGV     TTL (ms), channel, message, ids
 * reply    how many
 */
export const replayScript = timedLua`
${ENTRY_ID}
local count = 0
for i = 4, #ARGV do
  local letter = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  if letter then
    local fields = {}
    for at = 1, #letter[2], 2 do
      local name = letter[2][at]
      if name ~= 'reason' and name ~= 'given' then
        fields[#fields + 1] = name
        fields[#fields + 1] = letter[2][at + 1]
      end
    end
    redis.call('XADD', KEYS[1], entry_id(), unpack(fields))
    redis.call('XDEL', KEYS[2], ARGV[i])
    count = count + 1
  end
end
if count > 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  redis.pcall('PUBLISH', ARGV[2], ARGV[3])
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
local count = redis.call('XDEL', KEYS[1], unpack(ARGV))
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[1]) end
return count
`
