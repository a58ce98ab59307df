/*
 * Fencing tokens, for scripts. A token is a whole number that Lua and JavaScript represent exactly. A stored value is
 * read by three rules:
 *
 * - A whole number below 9 * 10^15 is the last token, and the next one is above it. Microseconds reach it in the year
 * 2255, and
 *   clients round larger numbers.
 * - A larger whole number cannot be exceeded: the script fails by an error that begins with `FENCE`, before it has
 * written.
 * - Any other value (`nan`, `inf`, `1e400`, a fraction, text, a key of another type) never was a token. The next token
 * is the time,
 *   which is above all tokens before.
 */

/** The beginning of the error if no token can follow the stored one. */
export const FENCE_ERROR = 'FENCE'

/**
 * Lua: `last_fence(key)` returns the last token, 0 for none, or `math.huge` if none can follow, for which a script
 * replies `FENCE_ERROR`.
 */
export const fenceLua = `
local FENCE_ERROR = '${FENCE_ERROR} the stored fence cannot be exceeded'
local function last_fence (key)
  local stored = redis.pcall('GET', key)
  if type(stored) ~= 'string' or not string.find(stored, '^%d+$') then return 0 end
  local fence = tonumber(stored)
  return fence < 9000000000000000 and fence or math.huge
end
`
