/*
 * Fencing tokens, for scripts. A token is a whole number that Lua and JavaScript hold exactly. What is stored in place of the last one follows three rules:
 *
 * - A whole number below 9 * 10^15 is the last token: the next one is above it. (Microseconds come there in the year 2255; above it clients round.)
 * - A larger whole number cannot be exceeded: the script fails by an error that begins with `FENCE`, before it has written anything.
 * - Anything else (`nan`, `inf`, `1e400`, a fraction, text, a key of another type) was never given out as a token. It counts as no token, and
 *   the next token is the time, which is above all that the clock of the server gave out before.
 */

/** The beginning of the error that says that no token can follow the stored one. */
export const FENCE_ERROR = 'FENCE'

/** Lua: `last_fence(key)` returns the last token, 0 for none, and `math.huge` where none can follow; `FENCE_ERROR` is the reply then. */
export const fenceLua = `
local FENCE_ERROR = '${FENCE_ERROR} the stored fence cannot be exceeded'
local function last_fence (key)
  local stored = redis.pcall('GET', key)
  if type(stored) ~= 'string' or not string.find(stored, '^%d+$') then return 0 end
  local fence = tonumber(stored)
  return fence < 9000000000000000 and fence or math.huge
end
`
