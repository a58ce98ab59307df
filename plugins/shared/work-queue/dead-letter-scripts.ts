import { lua, timedLua, type Script } from '../redis/script.js'
import { deleteLua, entryIdLua, ifOwnedLua } from './queue-scripts.js'

/**
 * Makes a dead letter of a message, once. XACK comes first: a full server refuses XADD, except in a script that has
 * written.
 *
 * KEYS     owner, stream, dead letters
 * ARGV     token, group, TTL of the stream when it is empty (ms; without one the entries stay), id, maximum number of
 *          dead letters, their TTL (ms; without one they never expire), fields
 * reply    how many older ones were dropped; nil where the lease is lost
 */
export const deadLetterScript = timedLua`
${entryIdLua}
${deleteLua}
${ifOwnedLua}
if redis.call('XACK', KEYS[2], ARGV[2], ARGV[4]) == 0 then return 0 end
local before = redis.call('XLEN', KEYS[3])
redis.call('XADD', KEYS[3], 'MAXLEN', ARGV[5], entry_id(KEYS[3]), unpack(ARGV, 7))
if ARGV[6] ~= '' then redis.call('PEXPIRE', KEYS[3], ARGV[6]) end
if ARGV[3] ~= '' then delete(KEYS[2], {ARGV[4]}, ARGV[3]) end
return before + 1 - redis.call('XLEN', KEYS[3])
`

interface ReplayRules {
  /** The fields of a dead letter that a replayed entry has. */
  replayedFields: string
  /** Lua: runs after dead letters were replayed. KEYS[1] is the target; ARGV[2] and later ones are the queue's own. */
  onReplayed: string
}

/**
 * Makes the script that turns dead letters into messages again.
 *
 * KEYS     target, dead letters
 * ARGV     maximum length of the target, three of the queue's own, ids
 * reply    how many
 */
export function createReplayScript ({ replayedFields, onReplayed }: ReplayRules): Script {
  return timedLua`
${entryIdLua}
local count = 0
for i = 5, #ARGV do
  if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then break end
  local letter = redis.call('XRANGE', KEYS[2], ARGV[i], ARGV[i])[1]
  if letter then
    local fields = {}
    for at = 1, #letter[2], 2 do
      local name = letter[2][at]
      if string.find(' ${replayedFields} ', ' ' .. name .. ' ', 1, true) then
        fields[#fields + 1] = name
        fields[#fields + 1] = letter[2][at + 1]
      end
    end
    redis.call('XADD', KEYS[1], entry_id(KEYS[1]), unpack(fields))
    redis.call('XDEL', KEYS[2], ARGV[i])
    count = count + 1
  end
end
if count > 0 then
  ${onReplayed}
end
if redis.call('XLEN', KEYS[2]) == 0 then redis.call('DEL', KEYS[2]) end
return count
`
}

/**
 * Deletes dead letters.
 *
 * KEYS[1]  dead letters
 * ARGV     ids
 * reply    how many existed
 */
export const discardScript = lua`
local count = redis.call('XDEL', KEYS[1], unpack(ARGV))
if redis.call('XLEN', KEYS[1]) == 0 then redis.call('DEL', KEYS[1]) end
return count
`
