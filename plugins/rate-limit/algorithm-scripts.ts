import type { Algorithm } from './policy.js'

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
 * The log: a string of a header (capacity of the ring, units ever taken, time of the newest one; big-endian) and a
 * ring of 7 bytes a unit, its time. At most 18 bytes and 7 for each unit of the largest max.
 */
const SLIDING_LOG = `
local HEADER, UNIT = 18, 7
local capacity, total, newest = largest, 0, 0

local function load()
  local header = redis.pcall('GETRANGE', KEYS[1], 0, HEADER - 1)
  if header == '' then return end
  if #header == HEADER then capacity, total, newest = struct.unpack('>I4I7I7', header) end
  -- What is not ours, or damaged, is begun anew.
  if #header ~= HEADER or redis.call('STRLEN', KEYS[1]) ~= HEADER + math.min(total, capacity) * UNIT then
    redis.call('DEL', KEYS[1])
    capacity, total, newest = largest, 0, 0
  end
  now = math.max(now, newest)
end

local function offset(unit)
  return HEADER + (unit - 1) % capacity * UNIT
end

local function time_of(unit)
  local at = offset(unit)
  return (struct.unpack('>I7', redis.call('GETRANGE', KEYS[1], at, at + UNIT - 1)))
end

local function oldest()
  return math.max(1, total - capacity + 1)
end

local function wait(_, limit)
  if cost > limit.max then return -1 end
  local unit = total - limit.max + cost
  if cost == 0 or unit < oldest() then return 0 end
  return math.max(0, time_of(unit) + limit.window - now)
end

-- By bisection, as times never decrease.
local function used(_, limit)
  local low, high, at = oldest(), total + 1, nil
  if low < high then
    at = time_of(low)
    if at + limit.window > now then return total - low + 1, at + limit.window - now end
    low = low + 1
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    local middle_at = time_of(middle)
    if middle_at + limit.window > now then high, at = middle, middle_at else low = middle + 1 end
  end
  if low > total then return 0, limit.window end
  return total - low + 1, at + limit.window - now
end

-- All units that are kept, the oldest first.
local function units()
  local kept = {}
  for unit = oldest(), total do
    local at = offset(unit)
    kept[#kept + 1] = redis.call('GETRANGE', KEYS[1], at, at + UNIT - 1)
  end
  return kept
end

local function rewrite(kept)
  total = #kept
  if total == 0 then return redis.call('DEL', KEYS[1]) end
  newest = struct.unpack('>I7', kept[total])
  redis.call('SET', KEYS[1], struct.pack('>I4I7I7', capacity, total, newest) .. table.concat(kept), 'KEEPTTL')
end

local function take()
  if capacity < largest then
    local kept = units()
    capacity = largest
    rewrite(kept)
  end
  local remaining = math.min(cost, capacity)
  if remaining == 0 then return end
  local unit = struct.pack('>I7', now)
  while remaining > 0 do
    local at = total % capacity
    local run = math.min(remaining, capacity - at)
    redis.call('SETRANGE', KEYS[1], HEADER + at * UNIT, string.rep(unit, run))
    total = total + run
    remaining = remaining - run
  end
  redis.call('SETRANGE', KEYS[1], 0, struct.pack('>I4I7I7', capacity, total, now))
  redis.call('PEXPIRE', KEYS[1], ttl(longest))
end

local function give_back(time)
  local kept, left, unit = {}, cost, struct.pack('>I7', time)
  for _, present in ipairs(units()) do
    if left > 0 and present == unit then left = left - 1 else kept[#kept + 1] = present end
  end
  if left < cost then rewrite(kept) end
end
`

/** Two counters: a string of 32 bytes a limit: its window, the number of the current window, its units, the previous one's. */
const SLIDING_COUNTER = `
local STATE = 32
local states = {}

local function load()
  local stored = redis.pcall('GET', KEYS[1])
  -- What is not ours, or of other limits, is begun anew.
  local whole = type(stored) == 'string' and #stored == #limits * STATE
  for i, limit in ipairs(limits) do
    local state
    if whole then
      local window, index, current, previous = struct.unpack('>dddd', stored, (i - 1) * STATE + 1)
      if window == limit.window then
        now = math.max(now, index * window)
        state = { index = index, current = current, previous = previous }
      end
    end
    states[i] = state or { index = 0, current = 0, previous = 0 }
  end
  for i, limit in ipairs(limits) do
    local state, index = states[i], math.floor(now / limit.window)
    if index == state.index + 1 then
      states[i] = { index = index, current = 0, previous = state.current }
    elseif index ~= state.index then
      states[i] = { index = index, current = 0, previous = 0 }
    end
  end
end

local function save()
  local packed = {}
  for i, limit in ipairs(limits) do
    local state = states[i]
    packed[i] = struct.pack('>dddd', limit.window, state.index, state.current, state.previous)
  end
  redis.call('SET', KEYS[1], table.concat(packed), 'PX', ttl(2 * longest))
end

local function wait(i, limit)
  if cost > limit.max then return -1 end
  local state, elapsed = states[i], now % limit.window
  local free = limit.max - cost - state.current
  if cost == 0 or state.previous * (1 - elapsed / limit.window) <= free + 1e-6 then return 0 end
  -- In this window, when enough of the previous one has slid out; else in the next, when enough of this one has.
  if free >= 0 then return math.ceil(limit.window * (1 - free / state.previous) - elapsed) end
  return math.ceil(limit.window - elapsed + math.max(0, limit.window * (1 - (limit.max - cost) / state.current)))
end

local function take()
  if cost == 0 then return end
  for _, state in ipairs(states) do state.current = state.current + cost end
  save()
end

local function used(i, limit)
  local state, elapsed = states[i], now % limit.window
  local until_free = limit.window - elapsed
  if state.previous == 0 and state.current > 0 then until_free = until_free + limit.window end
  return math.ceil(state.previous * (1 - elapsed / limit.window) + state.current), math.ceil(until_free)
end

local function give_back(time)
  for i, limit in ipairs(limits) do
    local state = states[i]
    local age = state.index - math.floor(time / limit.window)
    if age == 0 then state.current = math.max(0, state.current - cost) end
    if age == 1 then state.previous = math.max(0, state.previous - cost) end
  end
  save()
end
`

/** The bucket: a string of 8 bytes a limit: when it will be empty. */
const GCRA = `
local STATE, LATEST = 8, 2^53
local empty_at = {}

local function load()
  local stored = redis.pcall('GET', KEYS[1])
  -- What is not ours, or of other limits, is begun anew.
  local whole = type(stored) == 'string' and #stored == #limits * STATE
  for i = 1, #limits do
    local at = whole and struct.unpack('>d', stored, (i - 1) * STATE + 1) or 0
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
    if limit.max > 0 then empty_at[i] = math.max(empty_at[i], now) + cost * limit.window / limit.max end
  end
  save()
end

local function used(i, limit)
  local drain = math.max(0, empty_at[i] - now)
  if drain == 0 then return 0, limit.window end
  return math.ceil(drain * limit.max / limit.window - 0.001), math.ceil(drain)
end

local function give_back()
  for i, limit in ipairs(limits) do
    if limit.max > 0 then empty_at[i] = empty_at[i] - cost * limit.window / limit.max end
  end
  save()
end
`

export const ALGORITHM_SCRIPTS: Record<Algorithm, string> = {
  'sliding-log': SLIDING_LOG,
  'sliding-counter': SLIDING_COUNTER,
  gcra: GCRA
}
