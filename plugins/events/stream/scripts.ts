import { lua, timedLua } from '../../shared/redis/script.js'
import { createReplayScript } from '../../shared/work-queue/dead-letter-scripts.js'
import { createPendingScript, entryIdLua, ifOwnedLua, takeNewLua } from '../../shared/work-queue/queue-scripts.js'

// The fields of an entry begin with n, the number of its event: scripts read it by its place.

/** More entries than one append adds, so that the log gets shorter. */
const TRIMMED_AT_ONCE = 100

/**
 * A pending event that was trimmed is lost. Replayed events keep their numbers and ids, and the group's consumer is
 * notified.
 */
export const queueScripts = {
  pending: createPendingScript("redis.call('HINCRBY', KEYS[3], 'lost:' .. ARGV[2], 1)"),
  replay: createReplayScript({
    replayedFields: 'n k v id',
    onReplayed: `
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  redis.pcall('PUBLISH', ARGV[3], ARGV[4])`
  })
}

/**
 * Lua: `ensure_group(…)` creates a missing group; one that existed before begins at the first event. Returns nil, or
 * the table of an error. PEXPIRE comes first: a full server refuses the rest, except in a script that has written.
 */
const ensureGroupLua = `
local function ensure_group (log, meta, group, from, max_age, retention)
  redis.call('PEXPIRE', meta, retention)
  local is_new = redis.call('HEXISTS', meta, 'read:' .. group) == 0
  local created = redis.pcall('XGROUP', 'CREATE', log, group, is_new and from or '0', 'MKSTREAM')
  if created.err then
    if string.find(created.err, 'BUSYGROUP', 1, true) then return nil end
    return created
  end
  if redis.call('PTTL', log) < 0 then redis.call('PEXPIRE', log, max_age) end
  if is_new then
    local read = tonumber(redis.call('HGET', meta, 'n')) or 0
    local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
    if from == '0' and first then read = (tonumber(first[2][2]) or 1) - 1 end
    redis.call('HSET', meta, 'read:' .. group, read)
    redis.call('PEXPIRE', meta, retention)
  end
  return nil
end
`

/**
 * Appends an event, numbers it and publishes a notification. A refused PUBLISH is no error: consumers and readers poll
 * as well. Neither is a refused trim by age (before Redis 6.2): the event is stored by then, and a caller that got an
 * error would append it again.
 *
 * KEYS     log, meta
 * ARGV     value, maximum length, maximum age (ms), TTL of meta (ms), channel, message, key (or none)
 * reply    id, number
 */
export const appendScript = timedLua`
${entryIdLua}
local time = redis_time()
local n = redis.call('HINCRBY', KEYS[2], 'n', 1)
local fields = {'n', n, 'v', ARGV[1]}
if ARGV[7] then fields[5], fields[6] = 'k', ARGV[7] end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], entry_id(KEYS[1]), unpack(fields))
local oldest = string.format('%.0f', math.max(0, time[1] * 1000 - ARGV[3]))
local trimmed = redis.pcall('XTRIM', KEYS[1], 'MINID', '~', oldest)
if type(trimmed) == 'table' and trimmed.err then
  local old = redis.call('XRANGE', KEYS[1], '-', oldest, 'COUNT', ${TRIMMED_AT_ONCE})
  for _, entry in ipairs(old) do redis.call('XDEL', KEYS[1], entry[1]) end
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.pcall('PUBLISH', ARGV[5], ARGV[6])
return {id, n}
`

/**
 * Creates a group where it does not exist.
 *
 * KEYS     log, meta
 * ARGV     group, where a new group begins, maximum age of events (ms), TTL of meta (ms)
 */
export const ensureGroupScript = lua`
${ensureGroupLua}
return ensure_group(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
`

/**
 * Takes the next events: replayed ones, then those of the log. Gaps in the numbers show what was trimmed since the last
 * one.
 *
 * KEYS     owner, log, meta, replayed events
 * ARGV     token, group, how many, where a new group begins, maximum age of events (ms), TTL of meta (ms)
 * reply    [source, id, fields], …; nil where the lease is lost
 */
export const takeScript = lua`
${ensureGroupLua}
${takeNewLua}
${ifOwnedLua}
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[6]) * 0.9 then redis.call('PEXPIRE', KEYS[3], ARGV[6]) end
local group = ARGV[2]
local taken = {}
if redis.call('EXISTS', KEYS[4]) == 1 then
  local create = function () return redis.pcall('XGROUP', 'CREATE', KEYS[4], group, '0') end
  local again = take_new(taken, 'again', KEYS[4], group, ARGV[3], create)
  if again.err then return again end
end
if #taken < tonumber(ARGV[3]) then
  local create = function () return ensure_group(KEYS[2], KEYS[3], group, ARGV[4], ARGV[5], ARGV[6]) end
  local entries = take_new(taken, 'log', KEYS[2], group, ARGV[3], create)
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
