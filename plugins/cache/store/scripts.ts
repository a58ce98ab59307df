import { lua, timedLua } from '../../shared/redis/script.js'
import { TOKEN_RANGE } from './entry-codec.js'

const [FIRST, LAST] = TOKEN_RANGE

/** A server without memory refuses to write, but not to delete. */
const SET_OR_DELETE = `local set = redis.pcall('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if set.err then redis.call('DEL', KEYS[1]) end`

/**
 * Stores an entry, unless somebody else changed the key meanwhile, or something was removed by pattern. What expired, or was evicted, is no change.
 * A server without memory for the new entry deletes the old one, which is outdated.
 *
 * KEYS     the entry, and the tag of removals by pattern where that is to be as it was
 * ARGV     token that was seen, frame, TTL (ms), that tag's version
 * reply    1, or 0 where it was not stored
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
 * Puts a tombstone in the place of an entry.
 *
 * KEYS[1]  the entry
 * ARGV     tombstone, its TTL (ms), channel and message that tell the other instances (empty: nobody), and the token
 *          that the entry must have (left out: any)
 * reply    1 where there was an entry
 */
export const removeScript = lua`
if ARGV[5] and redis.pcall('GETRANGE', KEYS[1], ${FIRST}, ${LAST}) ~= ARGV[5] then return 0 end
local length = redis.pcall('STRLEN', KEYS[1])
${SET_OR_DELETE}
if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], ARGV[4]) end
return type(length) == 'number' and length > #ARGV[1] and 1 or 0
`

/**
 * Gives tags a new version, which begins with the time (µs). Where there is no memory for one they have none, which is as good.
 *
 * KEYS     the tags
 * ARGV     what makes the version unlike any other, TTL (ms), channel and message that tell the other instances (empty: nobody)
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
 * Reads the versions of tags, and gives one to each that has none. A key of another type is replaced.
 *
 * KEYS     the tags
 * ARGV     the version of a tag that has none, its TTL (ms)
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
 * Has versions of tags live for longer, where they are the tags' versions still.
 *
 * KEYS     the tags
 * ARGV     TTL (ms) that they are to have at least, the versions
 * reply    for each 1, or 0 where the tag has another version, or none
 */
export const acquireFillScript = lua`
local replies = {}
for i, key in ipairs(KEYS) do
  replies[i] = redis.pcall('GET', key) == ARGV[i + 1] and 1 or 0
  if replies[i] == 1 and redis.call('PTTL', key) < tonumber(ARGV[1]) then redis.call('PEXPIRE', key, ARGV[1]) end
end
return replies
`

/**
 * Gives a claim back, or leaves word that nobody need wait.
 *
 * KEYS[1]  the claim
 * ARGV     token, word to leave (empty: none), its TTL (ms)
 */
export const releaseFillScript = lua`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return end
if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
`

/**
 * Keeps a claim.
 *
 * KEYS[1]  the claim
 * ARGV     token, TTL (ms)
 */
export const renewFillScript = lua`
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
`

/**
 * Marks an entry while its source is written; where there is none, the place.
 *
 * KEYS[1]  the entry
 * ARGV     mark and token, what is put where there is nothing, for how long it stands (ms), channel and message
 *          that tell the other instances (empty: nobody)
 * reply    -1 where it was marked before, else what was left of its TTL (ms); 0 where there was nothing
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
 * Takes the mark away, unless somebody else changed the key meanwhile.
 *
 * KEYS[1]  the entry
 * ARGV     token, what is put in the place of the mark, TTL (ms)
 */
export const unlockKeyScript = lua`
if redis.pcall('GETRANGE', KEYS[1], ${FIRST}, ${LAST}) ~= ARGV[1] then return end
redis.call('SETRANGE', KEYS[1], 0, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
`
