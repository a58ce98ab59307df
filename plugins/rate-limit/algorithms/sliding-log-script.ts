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

/** @see algorithm-scripts.ts for what it defines */
export const SLIDING_LOG = `
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
