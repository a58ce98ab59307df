import { timedLua } from '../../shared/redis/script.js'
import { IS_SESSION, LINES, MARK, NOW, SEALED } from './scripts.js'

/**
 * Splits a JSON object as `JSON.stringify` prints it. Values are kept as they are: `cjson` would change numbers and
 * empty arrays.
 */
const MEMBERS = `
local function after_string (text, at)
  at = at + 1
  while true do
    at = string.find(text, '["\\\\]', at)
    if string.byte(text, at) == 34 then return at + 1 end
    at = at + 2
  end
end

local function after_value (text, at)
  local depth = 0
  while true do
    at = string.find(text, '["{}%[%],]', at)
    local byte = string.byte(text, at)
    if byte == 34 then
      at = after_string(text, at)
    else
      if byte == 123 or byte == 91 then depth = depth + 1
      elseif depth == 0 then return at
      elseif byte ~= 44 then depth = depth - 1 end
      at = at + 1
    end
  end
end

local function members (text)
  local names, values = {}, {}
  local at = 2
  while string.byte(text, at) == 34 do
    local colon = after_string(text, at)
    local stop = after_value(text, colon + 1)
    local name = string.sub(text, at, colon - 1)
    names[#names + 1] = name
    values[name] = string.sub(text, colon + 1, stop - 1)
    at = stop + 1
  end
  return names, values
end
`

/** Applies the changes to the properties after `at`. Its functions are made only where they are needed. */
const MERGE = `
${MEMBERS}
local is_whole, names, values = pcall(members, string.sub(stored, at))
if not is_whole then names, values = {}, {} end
local last = 10 + ARGV[10] * 2
for i = 11, last, 2 do
  if values[ARGV[i]] == nil then names[#names + 1] = ARGV[i] end
  values[ARGV[i]] = ARGV[i + 1]
end
for i = last + 1, #ARGV do values[ARGV[i]] = nil end
local parts = {}
for _, name in ipairs(names) do
  if values[name] then parts[#parts + 1] = name .. ':' .. values[name] end
end
text = '{' .. table.concat(parts, ',') .. '}'
`

/**
 * Stores a session. If another request has written since this one read it, the changes are merged by property: the last
 * writer of a property wins. A destroyed session stays destroyed.
 *
 * KEYS[1]  the session
 * ARGV     idle and absolute time-out (ms), whether the session is new (0, 1), the version that was read, whether the
 *          properties are sealed (0, 1), whether user and device have changed (0, 1), user, device, the properties as
 *          they are if no other request has written; then, for a merge, the number of changed properties, their names
 *          and values as JSON, and the names that are deleted
 * reply    the new version; nil if there is no session to change; 0 if the changes are needed for a merge
 */
export const writeScript = timedLua`
local stored = redis.call('GET', KEYS[1])
if not stored then
  if ARGV[3] ~= '1' then return nil end
  ${NOW}
  local time = string.format('%015d', now)
  local lines = '1\n' .. ARGV[7] .. '\n' .. ARGV[8] .. '\n'
  local ttl = math.min(tonumber(ARGV[1]), tonumber(ARGV[2]))
  redis.call('SET', KEYS[1], '${MARK}' .. time .. time .. ARGV[5] .. lines .. ARGV[9], 'PX', ttl)
  return '1'
end
if not (${IS_SESSION}) then return nil end
local version, user, device, at = string.match(stored, '^(%d+)\n([^\n]*)\n([^\n]*)\n()', ${LINES + 1})
if not version then return nil end
local text = ARGV[9]
if version ~= ARGV[4] then
  if not ARGV[10] then return 0 end
  ${MERGE}
end
if ARGV[6] == '1' then user, device = ARGV[7], ARGV[8] end
version = string.format('%d', version + 1)
local head = string.sub(stored, 1, ${SEALED}) .. ARGV[5]
redis.call('SET', KEYS[1], head .. version .. '\n' .. user .. '\n' .. device .. '\n' .. text, 'KEEPTTL')
return version
`
