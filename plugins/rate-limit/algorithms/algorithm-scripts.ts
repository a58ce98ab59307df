import type { Algorithm } from '../policy.js'
import { SLIDING_LOG } from './sliding-log-script.js'

/*
 * The middle parts of the scripts in `scripts.ts`: the algorithms of `sliding-log.ts`, `sliding-counter.ts` and
 * `gcra.ts`, with times in microseconds of Redis's own clock. Each defines:
 *
 *   load()                 reads KEYS[1]; may raise `now`, so that a clock that is set back stands still
 *   wait(i, limit)         µs until `cost` units pass the limit; -1: never
 *   take()                 takes `cost` units from all limits, and sets the TTL
 *   used(i, limit)         units used, µs until the oldest of them is free
 *   give_back(time)        gives back `cost` units that were taken at that time
 */

/**
 * Two counters: a string of 40 bytes for each length of window: it, the number of the current window, its units, the
 * previous one's, and since when it is counted by. What is taken counts by all of them, so that policies of several windows share the count.
 */
const SLIDING_COUNTER = `
local STATE, MOST = 40, 16
local states, windows = {}, {}

local function keep(window, index, current, previous, since)
  if not states[window] then windows[#windows + 1] = window end
  states[window] = { index = index, current = current, previous = previous, since = since }
end

local function load()
  for _, limit in ipairs(limits) do keep(limit.window, 0, 0, 0, now) end
  local stored = redis.pcall('GET', KEYS[1])
  -- What is not ours is begun anew.
  if type(stored) ~= 'string' or #stored % STATE ~= 0 then stored = '' end
  for at = 1, #stored, STATE do
    local window, index, current, previous, since = struct.unpack('>ddddd', stored, at)
    if window > 0 and index * window < now + 2^50 and current >= 0 and previous >= 0 and (states[window] or #windows < MOST) then
      keep(window, index, current, previous, since)
      now = math.max(now, index * window)
    end
  end
  for window, state in pairs(states) do
    local index = math.floor(now / window)
    if index == state.index + 1 then
      keep(window, index, 0, state.current, state.since)
    elseif index ~= state.index then
      keep(window, index, 0, 0, now)
    end
  end
end

local function save()
  local packed, last = {}, 0
  for i, window in ipairs(windows) do
    local state = states[window]
    packed[i] = struct.pack('>ddddd', window, state.index, state.current, state.previous, state.since)
    last = math.max(last, window)
  end
  redis.call('SET', KEYS[1], table.concat(packed), 'PX', ttl(2 * last))
end

local function wait(_, limit)
  if cost > limit.max then return -1 end
  local state, elapsed = states[limit.window], now % limit.window
  local free = limit.max - cost - state.current
  if cost == 0 or state.previous * (1 - elapsed / limit.window) <= free + 1e-6 then return 0 end
  -- In this window, when enough of the previous one has slid out; else in the next, when enough of this one has.
  if free >= 0 then return math.ceil(limit.window * (1 - free / state.previous) - elapsed) end
  return math.ceil(limit.window - elapsed + math.max(0, limit.window * (1 - (limit.max - cost) / state.current)))
end

local function take()
  if cost == 0 then return end
  for _, state in pairs(states) do state.current = math.min(state.current + cost, 2^53) end
  save()
end

local function used(_, limit)
  local state, elapsed = states[limit.window], now % limit.window
  local until_free = limit.window - elapsed
  if state.previous == 0 and state.current > 0 then until_free = until_free + limit.window end
  return math.ceil(state.previous * (1 - elapsed / limit.window) + state.current), math.ceil(until_free)
end

local function give_back(time)
  for window, state in pairs(states) do
    -- What was taken before a window was counted by was not taken from it.
    local age = time >= state.since and state.index - math.floor(time / window)
    if age == 0 then state.current = math.max(0, state.current - cost) end
    if age == 1 then state.previous = math.max(0, state.previous - cost) end
  end
  save()
end
`

/** The bucket: a string of 8 bytes a limit: when it will be empty. */
const GCRA = `
-- A charge of any size ends before LATEST, after which a time counts as damaged.
local STATE, MOST, LATEST, LONGEST = 8, 10, 2^53, 2^52
local empty_at = {}

local function load()
  local stored = redis.pcall('GET', KEYS[1])
  -- What is not ours is begun anew. Limits that were not there before, or are not any more, change nothing of the others.
  local present = type(stored) == 'string' and #stored % STATE == 0 and #stored / STATE or 0
  for i = 1, math.max(#limits, math.min(present, MOST)) do
    local at = i <= present and struct.unpack('>d', stored, (i - 1) * STATE + 1) or 0
    empty_at[i] = at < LATEST and at or 0
  end
end

local function wait(i, limit)
  if cost > math.min(limit.max, limit.burst) then return -1 end
  if cost == 0 then return 0 end
  local unit = limit.window / limit.max
  local over = math.max(empty_at[i], now) + cost * unit - (now + limit.burst * unit)
  -- Times are sums of rounded fractions: less than a thousandth of a unit is not over.
  if over < unit / 1000 then return 0 end
  return math.ceil(over)
end

local function save()
  local packed, last = {}, now
  for i, at in ipairs(empty_at) do
    packed[i] = struct.pack('>d', at)
    last = math.max(last, at)
  end
  redis.call('SET', KEYS[1], table.concat(packed), 'PX', ttl(last - now))
end

local function take()
  if cost == 0 then return end
  for i, limit in ipairs(limits) do
    if limit.max > 0 then empty_at[i] = math.min(math.max(empty_at[i], now) + cost * limit.window / limit.max, now + LONGEST) end
  end
  save()
end

local function used(i, limit)
  local drain = math.max(0, empty_at[i] - now)
  if drain == 0 then return 0, limit.window end
  return math.ceil(drain * limit.max / limit.window - 0.001), math.ceil(drain)
end

-- What may have drained since is not given back: it would let more than the burst through.
local function give_back(time)
  for i, limit in ipairs(limits) do
    if limit.max > 0 then empty_at[i] = empty_at[i] - math.max(0, cost * limit.window / limit.max - (now - time)) end
  end
  save()
end
`

export const ALGORITHM_SCRIPTS: Record<Algorithm, string> = {
  'sliding-log': SLIDING_LOG,
  'sliding-counter': SLIDING_COUNTER,
  gcra: GCRA
}
