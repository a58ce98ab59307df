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
 * The log: a string of a header and a ring of 7 bytes a unit, its time. At most 46 bytes and 7 for each unit of the
 * largest max. The header (big-endian): capacity of the ring; units ever taken; time of the newest one; number and time
 * of the oldest one in the longest window, as it was seen last; that window; when the TTL ends.
 */
export const SLIDING_LOG_LAYOUT = `
local HEADER, UNIT, LAYOUT = 46, 7, '>I4I7I7I7I7I7I7'
`

/**
 * What comes before the functions: most requests have one limit, find the oldest unit still in its window, and have
 * room. Without a function made and without a search they cost half. Anything else goes the general way.
 */
export const SLIDING_LOG_SHORTCUT = `${SLIDING_LOG_LAYOUT}
if ARGV[1] == 'consume' and ARGV[2] == '1' and ARGV[3] == '1' and not KEYS[2] then
  local header = redis.pcall('GETRANGE', KEYS[1], 0, HEADER - 1)
  if #header == HEADER then
    local now = clock[1] * 1000000 + clock[2]
    local max, window = tonumber(ARGV[4]), tonumber(ARGV[5]) * 1000
    local capacity, total, newest, first, first_at, span, expires_at = struct.unpack(LAYOUT, header)
    local slot = total % capacity
    if capacity >= max and slot + times <= capacity and total + times - first < max and first >= 1 and first <= total
      and first_at + window > now and window <= span and newest <= now and expires_at >= now + span then
      redis.call('SETRANGE', KEYS[1], HEADER + slot * UNIT, string.rep(struct.pack('>I7', now), times))
      total = total + times
      redis.call('SETRANGE', KEYS[1], 0, struct.pack(LAYOUT, capacity, total, now, first, first_at, span, expires_at))
      return { now, total - first + 1, first_at + window - now }, times
    end
  end
end
`

const SLIDING_LOG = `
local capacity, total, newest, first, first_at, span, expires_at = largest, 0, 0, 1, 0, 0, 0

local function begin_anew()
  redis.call('DEL', KEYS[1])
  capacity, total, newest, first, first_at, span, expires_at = largest, 0, 0, 1, 0, 0, 0
end

local function offset(unit)
  return HEADER + (unit - 1) % capacity * UNIT
end

local function time_of(unit)
  if unit == first then return first_at end
  if unit == total then return newest end
  local at = offset(unit)
  local packed = redis.call('GETRANGE', KEYS[1], at, at + UNIT - 1)
  if #packed ~= UNIT then return 0 end
  return (struct.unpack('>I7', packed))
end

local function oldest()
  return math.max(1, total - capacity + 1)
end

local function look_from_oldest()
  first = 0
  first_at = time_of(oldest())
  first, span = oldest(), math.max(span, longest)
end

local function load()
  local header = redis.pcall('GETRANGE', KEYS[1], 0, HEADER - 1)
  if header == '' then return end
  -- What is not ours, or damaged, is begun anew; a unit that should be there and is not shows it too.
  if #header ~= HEADER then return begin_anew() end
  capacity, total, newest, first, first_at, span, expires_at = struct.unpack(LAYOUT, header)
  if capacity < 1 or first > total or first < total - capacity + 1 or newest > now + 2^50 then return begin_anew() end
  now = math.max(now, newest)
  -- What left a shorter window may still be in this one.
  if longest > span then look_from_oldest() end
end

local function wait(_, limit)
  if cost > limit.max then return -1 end
  local unit = total - limit.max + cost
  if cost == 0 or unit < oldest() then return 0 end
  return math.max(0, time_of(unit) + limit.window - now)
end

-- The number and time of the oldest unit in a window, by bisection, as times never decrease.
local function first_in(window)
  local low, high, at = math.max(first, oldest()), total + 1, nil
  if low < high then
    local oldest_at = time_of(low)
    if oldest_at + window > now then return low, oldest_at end
    low = low + 1
  end
  -- Few have left it since it was looked last: in steps that double, then by bisection.
  local step = 1
  while low + step < high do
    local step_at = time_of(low + step)
    if step_at + window > now then
      high, at = low + step, step_at
    else
      low, step = low + step + 1, step * 2
    end
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    local middle_at = time_of(middle)
    if middle_at + window > now then high, at = middle, middle_at else low = middle + 1 end
  end
  return low, at
end

local function used(_, limit)
  local unit, at = first_in(limit.window)
  if unit > total then return 0, limit.window end
  return total - unit + 1, at + limit.window - now
end

-- The units of two numbers and all between them, as bytes.
local function bytes(from, to)
  if from > to then return '' end
  local start, stop = offset(from), offset(to) + UNIT - 1
  if start < stop then return redis.call('GETRANGE', KEYS[1], start, stop) end
  return redis.call('GETRANGE', KEYS[1], start, HEADER + capacity * UNIT - 1) .. redis.call('GETRANGE', KEYS[1], HEADER, stop)
end

local function rewrite(kept)
  kept = kept:sub(1, #kept - #kept % UNIT)
  total = #kept / UNIT
  if total == 0 then return begin_anew() end
  first, first_at, newest = 1, struct.unpack('>I7', kept), struct.unpack('>I7', kept, #kept - UNIT + 1)
  redis.call('SET', KEYS[1], struct.pack(LAYOUT, capacity, total, newest, first, first_at, span, expires_at) .. kept, 'KEEPTTL')
end

local function take()
  if total > 0 and capacity < largest then
    local kept = bytes(oldest(), total)
    capacity = largest
    rewrite(kept)
  end
  local remaining = math.min(cost, capacity)
  if remaining == 0 then return end
  -- Who asks by a shorter window does not end what a longer one counts.
  span = math.max(span, longest)
  local alive, alive_at = first_in(span)
  local unit = struct.pack('>I7', now)
  while remaining > 0 do
    local slot = total % capacity
    local run = math.min(remaining, capacity - slot)
    redis.call('SETRANGE', KEYS[1], HEADER + slot * UNIT, string.rep(unit, run))
    total = total + run
    remaining = remaining - run
  end
  newest = now
  first, first_at = alive, alive_at or now
  -- More was charged than the ring holds.
  if first < oldest() then look_from_oldest() end
  -- The TTL has a fifth to spare, so that it need not be set each time.
  local renew = expires_at < now + span
  if renew then expires_at = math.floor(now + span * 1.2) end
  redis.call('SETRANGE', KEYS[1], 0, struct.pack(LAYOUT, capacity, total, newest, first, first_at, span, expires_at))
  if renew then redis.call('PEXPIRE', KEYS[1], ttl(expires_at - now)) end
end

-- The number of the first unit that is not older than a time, by bisection.
local function first_since(time)
  local low, high = oldest(), total + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if time_of(middle) >= time then high = middle else low = middle + 1 end
  end
  return low
end

local function give_back(time)
  local from = first_since(time)
  local to = math.min(first_since(time + 1), from + cost) - 1
  if to >= from then rewrite(bytes(oldest(), from - 1) .. bytes(to + 1, total)) end
end
`

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
  for _, state in pairs(states) do state.current = state.current + cost end
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
local STATE, MOST, LATEST = 8, 10, 2^53
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
    if limit.max > 0 then empty_at[i] = math.max(empty_at[i], now) + cost * limit.window / limit.max end
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
