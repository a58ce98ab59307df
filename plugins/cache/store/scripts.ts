import { lua, timedLua } from '../../shared/redis/script.js'
import { QUEUED, STAGED, TOKEN_RANGE } from './entry-codec.js'
import { FIRST_VERSION, HIT_FOR_PASS_MS } from './store.js'

const [FIRST, LAST] = TOKEN_RANGE
/** The value of a lease that stands for hit-for-pass. */
export const HIT_FOR_PASS = 'pass'

/** A server without memory refuses writes, but not deletions. */
const SET_OR_DELETE = `local set = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if set.err then redis.call('DEL', KEYS[1]) end`

/**
 * Stores an entry, unless another caller has changed the key since its token was read, or entries were removed by
 * pattern. An entry that has expired or was evicted is no change. The outdated entry is deleted if the server has no
 * memory for the new one.
 *
 * KEYS     the entry, and optionally the tag of removals by pattern, whose version is compared
 * ARGV     token, encoded entry, TTL (ms), the version of that tag
 * reply    1, or 0 where the entry was not stored
 */
export const writeScript = lua`
if KEYS[2] and redis.call('GET', KEYS[2]) ~= ARGV[4] then return 0 end
local present = redis.pcall('GETRANGE', KEYS[1], ${FIRST}, ${LAST})
if type(present) == 'string' and present ~= '' and present ~= ARGV[1] then return 0 end
local set = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if set.err then
  redis.call('DEL', KEYS[1])
  return set
end
return 1
`

/**
 * Replaces an entry by a tombstone, and publishes the removal.
 *
 * KEYS[1]  the entry
 * ARGV     tombstone, its TTL (ms), channel (empty: none), message, and optionally the token that the entry must have
 * reply    1 where there was an entry
 */
export const removeScript = lua`
if ARGV[5] and redis.pcall('GETRANGE', KEYS[1], ${FIRST}, ${LAST}) ~= ARGV[5] then return 0 end
local length = redis.pcall('STRLEN', KEYS[1])
${SET_OR_DELETE}
if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return type(length) == 'number' and length > #ARGV[1] and 1 or 0
`

// Bytes are compared one by one, as Lua compares strings by the server's locale.
const ORDER_LUA = `
local function token_of (key)
  local token = redis.pcall('GETRANGE', key, ${FIRST}, ${LAST})
  return type(token) == 'string' and token or ''
end
local function has_mark (token, mark) return string.sub(token, 1, 1) == mark end
local function is_before (a, b)
  for i = 1, #a do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
  end
  return false
end
`

/**
 * Stores the entry of a write that is about to be queued, and publishes that the earlier one is invalid.
 *
 * KEYS[1]  the entry
 * ARGV     encoded entry, its TTL (ms), channel (empty: none), message
 * reply    the entry of an earlier queued write (empty: none), and the rest of its TTL (ms)
 */
export const stageScript = lua`
${ORDER_LUA}
local before, left = '', 0
if has_mark(token_of(KEYS[1]), '${QUEUED}') then
  before, left = redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1])
end
local set = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if set.err then return set end
if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return {before, left}
`

/**
 * Replaces a staged entry by that of the queued write, and also that of an earlier write, whose add was slower.
 *
 * KEYS[1]  the entry
 * ARGV     token of the staged entry, token of the queued write, encoded entry, TTL (ms), channel (empty: none),
 *          message
 * reply    1, or 0 where the entry was not stored
 */
export const confirmScript = lua`
${ORDER_LUA}
local token = token_of(KEYS[1])
local is_own = token == ARGV[1]
local is_earlier = has_mark(token, '${STAGED}') or (has_mark(token, '${QUEUED}') and is_before(token, ARGV[2]))
if not (is_own or is_earlier) then return 0 end
local set = redis.pcall('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
if set.err then
  redis.call('DEL', KEYS[1])
  return set
end
if not is_own and ARGV[5] ~= '' then redis.call('PUBLISH', ARGV[5], ARGV[6]) end
return 1
`

/**
 * Replaces a staged entry by what was there before it, or by a tombstone.
 *
 * KEYS[1]  the entry
 * ARGV     token of the staged entry, encoded entry or tombstone, its TTL (ms), channel (empty: none), message
 */
export const undoStageScript = lua`
if redis.pcall('GETRANGE', KEYS[1], ${FIRST}, ${LAST}) ~= ARGV[1] then return end
local set = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if set.err then redis.call('DEL', KEYS[1]) end
if ARGV[4] ~= '' then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
`

/**
 * Replaces an entry by a tombstone, as the source has been written, and publishes the removal.
 *
 * KEYS[1]  the entry
 * ARGV     tombstone, its TTL (ms), channel (empty: none), message, the token of the first queued write that is kept
 * reply    1 where there was an entry
 */
export const settleScript = lua`
${ORDER_LUA}
local token = token_of(KEYS[1])
if has_mark(token, '${STAGED}') or (has_mark(token, '${QUEUED}') and not is_before(token, ARGV[5])) then return 0 end
local length = redis.pcall('STRLEN', KEYS[1])
${SET_OR_DELETE}
if type(length) ~= 'number' or length <= #ARGV[1] then return 0 end
if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return 1
`

/**
 * Gives tags a new version, which begins with the time (µs), and publishes the invalidation. A tag has no version if
 * the server has no memory for it, which invalidates its entries as well.
 *
 * KEYS     the tags
 * ARGV     a random part of the version, TTL (ms), channel (empty: none) and message
 */
export const invalidateScript = timedLua`
local time = redis_time()
local version = string.format('%d%06d', time[1], time[2]) .. '-' .. ARGV[1]
for _, key in ipairs(KEYS) do
  local set = redis.pcall('SET', key, version, 'PX', ARGV[2])
  if set.err then redis.call('DEL', key) end
end
if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
`

/**
 * Reads the versions of tags, and creates one for each tag without. A key of another type is replaced.
 *
 * KEYS     the tags
 * ARGV     the version of a tag without one, its TTL (ms)
 * reply    the versions
 */
export const createVersionsScript = lua`
local versions = {}
for i, key in ipairs(KEYS) do
  local version = redis.pcall('GET', key)
  if type(version) ~= 'string' then
    version = ARGV[1]
    redis.call('SET', key, version, 'PX', ARGV[2])
  end
  versions[i] = version
end
return versions
`

/**
 * Extends the TTLs of versions that are still current.
 *
 * KEYS     the tags
 * ARGV     the minimum TTL (ms), the versions
 * reply    for each tag 1, or 0 where it has another version or none
 */
export const retainVersionsScript = lua`
local replies = {}
for i, key in ipairs(KEYS) do
  replies[i] = redis.pcall('GET', key) == ARGV[i + 1] and 1 or 0
  if replies[i] == 1 and redis.call('PTTL', key) < tonumber(ARGV[1]) then redis.call('PEXPIRE', key, ARGV[1]) end
end
return replies
`

/**
 * Acquires leases of fills, reads the entries' tokens and the versions of tags, and creates a version for each tag
 * without. A key of another type in place of a lease is hit-for-pass.
 *
 * KEYS     the lease and the entry of each fill, then the tags
 * ARGV     the token and the TTL (ms) of each lease, then the version of a tag without one, its TTL (ms)
 * reply    the time (seconds, microseconds), for each fill the holder (empty: acquired) and the first bytes of the
 *          entry, then the versions
 */
export const acquireFillsScript = timedLua`
local time = redis_time()
local reply = {tostring(time[1]), tostring(time[2])}
local fills = #ARGV - 2
for i = 1, fills, 2 do
  local holder = ''
  if not redis.call('SET', KEYS[i], ARGV[i], 'PX', ARGV[i + 1], 'NX') then
    holder = redis.pcall('GET', KEYS[i])
    if type(holder) ~= 'string' then holder = '${HIT_FOR_PASS}' end
  end
  local head = redis.pcall('GETRANGE', KEYS[i + 1], 0, ${LAST})
  reply[#reply + 1] = holder
  reply[#reply + 1] = type(head) == 'string' and head or ''
end
for i = fills + 1, #KEYS do
  local version = redis.pcall('GET', KEYS[i])
  if type(version) ~= 'string' then
    version = ARGV[fills + 1]
    redis.call('SET', KEYS[i], version, 'PX', ARGV[fills + 2])
  end
  reply[#reply + 1] = version
end
return reply
`

/**
 * Reads entries, and acquires the lease of each one that is missing, unless one of its tags was ever invalidated. A tag
 * without a version gets one. While the server refuses writes, no lease is acquired.
 *
 * KEYS     the entry and the lease of each read, then the tags
 * ARGV     number of reads, the version of a tag without one, its TTL (ms); for each read the token and the TTL (ms) of
 *          its lease, the number of its tags, and their places among the tags
 * reply    the time (seconds, microseconds), the versions (empty: none); for each read the entry (empty: none), and 1
 *          where its lease was acquired
 */
export const readOrAcquireScript = timedLua`
local time = redis_time()
local reply = {tostring(time[1]), tostring(time[2])}
local reads, versions = tonumber(ARGV[1]), {}
for i = 2 * reads + 1, #KEYS do
  local version = redis.pcall('GET', KEYS[i])
  if type(version) ~= 'string' then
    version = redis.pcall('SET', KEYS[i], ARGV[2], 'PX', ARGV[3]).err and '' or ARGV[2]
  end
  versions[#versions + 1] = version
  reply[#reply + 1] = version
end
local arg = 4
for i = 1, reads do
  local entry, is_acquired = redis.pcall('GET', KEYS[2 * i - 1]), 0
  local last = arg + 2 + ARGV[arg + 2]
  if type(entry) ~= 'string' then
    entry = ''
    local is_new = true
    for place = arg + 3, last do
      local version = versions[tonumber(ARGV[place])]
      if string.sub(version, 1, ${FIRST_VERSION.length}) ~= '${FIRST_VERSION}' then is_new = false end
    end
    local set = is_new and redis.pcall('SET', KEYS[2 * i], ARGV[arg], 'PX', ARGV[arg + 1], 'NX')
    if set and set.ok then is_acquired = 1 end
  end
  reply[#reply + 1] = entry
  reply[#reply + 1] = is_acquired
  arg = last + 1
end
return reply
`

/**
 * Stores the entries of fills as {@link writeScript} does, and releases their leases. The lease of an entry that is not
 * stored is replaced by hit-for-pass.
 *
 * KEYS     the entry and the lease of each fill, then the tag of removals by pattern
 * ARGV     for each fill: token of the entry, encoded entry, TTL (ms), version of that tag, token of the lease
 * reply    for each fill 1, 0 where the entry was not stored, or the text of an error
 */
export const finishFillsScript = lua`
local pattern = redis.pcall('GET', KEYS[#KEYS])
local replies = {}
for i = 1, #KEYS - 1, 2 do
  local arg = #replies * 5
  local reply = 0
  local present = redis.pcall('GETRANGE', KEYS[i], ${FIRST}, ${LAST})
  local is_changed = type(present) == 'string' and present ~= '' and present ~= ARGV[arg + 1]
  if pattern == ARGV[arg + 4] and not is_changed then
    local set = redis.pcall('SET', KEYS[i], ARGV[arg + 2], 'PX', ARGV[arg + 3])
    if set.err then redis.call('DEL', KEYS[i]) end
    reply = set.err or 1
  end
  if redis.pcall('GET', KEYS[i + 1]) == ARGV[arg + 5] then
    if reply == 1 then redis.call('DEL', KEYS[i + 1])
    else redis.pcall('SET', KEYS[i + 1], '${HIT_FOR_PASS}', 'PX', ${HIT_FOR_PASS_MS}) end
  end
  replies[#replies + 1] = reply
end
return replies
`

/**
 * Releases the lease of a fill, or replaces it by hit-for-pass.
 *
 * KEYS[1]  the lease
 * ARGV     token, the value of hit-for-pass (empty: release), its TTL (ms)
 */
export const releaseFillScript = lua`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
`

/**
 * Renews the lease of a fill.
 *
 * KEYS[1]  the lease
 * ARGV     token, TTL (ms)
 */
export const renewFillScript = lua`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
`

/**
 * Locks a key while the source of its entry is written, and publishes that the entry is invalid.
 *
 * KEYS[1]  the entry
 * ARGV     the first bytes of a locked entry, the placeholder for a key without an entry, TTL of the lock (ms),
 *          channel (empty: none), message
 * reply    -1 where the key was locked before, else the rest of its TTL (ms); 0 where there was no entry
 */
export const lockKeyScript = lua`
local before = redis.pcall('GETRANGE', KEYS[1], 0, 0)
local left = 0
if type(before) ~= 'string' or before == '' then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else
  left = before == string.sub(ARGV[1], 1, 1) and -1 or redis.call('PTTL', KEYS[1])
  redis.call('SETRANGE', KEYS[1], 0, ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
if ARGV[4] ~= '' then redis.call('PUBLISH', ARGV[4], ARGV[5]) end
return left
`

/**
 * Unlocks a key, unless another caller has changed it meanwhile.
 *
 * KEYS[1]  the entry
 * ARGV     token of the lock, the first byte of an entry, TTL (ms)
 */
export const unlockKeyScript = lua`
if redis.pcall('GETRANGE', KEYS[1], ${FIRST}, ${LAST}) ~= ARGV[1] then return end
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
`
