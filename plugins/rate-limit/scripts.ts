import { lua } from '../shared/script.js'

/**
 * Takes units from a sliding log: the times of the last units of one key, exact to the microsecond by Redis's own
 * clock. The same algorithm as in `sliding-log.ts`: a request of cost c passes a limit of max if the unit that
 * lies max - c before the newest has left the window.
 *
 * KEYS[1]  the log: a string of a header and a ring of 7 bytes a unit
 * ARGV     cost, then max and window (ms) of each limit
 * reply    used, resetAfter (µs), retryAfter (µs; 0 passes, -1 never will) of each limit, in their order
 *
 * Header: capacity of the ring, units ever taken, time of the newest unit (all big-endian).
 * Memory: 18 bytes and 7 for each unit of the largest max, at most.
 */
export const consumeSlidingLog = lua`
local HEADER, UNIT = 18, 7
local key, cost = KEYS[1], tonumber(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]

local limits, needed, longest = {}, 0, 0
for i = 2, #ARGV, 2 do
  local max, window = tonumber(ARGV[i]), tonumber(ARGV[i + 1]) * 1000
  limits[#limits + 1] = { max = max, window = window }
  needed = math.max(needed, max)
  longest = math.max(longest, window)
end

local capacity, total, newest = needed, 0, 0
local header = redis.call('GETRANGE', key, 0, HEADER - 1)
if #header == HEADER then
  capacity, total, newest = struct.unpack('>I4I7I7', header)
end
-- The server's clock may be set back; the log's never goes back.
now = math.max(now, newest)

local function offset(unit)
  return HEADER + (unit - 1) % capacity * UNIT
end

local function time_of(unit)
  local at = offset(unit)
  return (struct.unpack('>I7', redis.call('GETRANGE', key, at, at + UNIT - 1)))
end

local function wait(limit)
  if cost > limit.max then return -1 end
  local unit = total - limit.max + cost
  if unit < 1 then return 0 end
  return math.max(0, time_of(unit) + limit.window - now)
end

-- The oldest unit in the window, by bisection, and its time.
local function first_in_window(limit)
  local low, high, at = math.max(1, total - capacity + 1), total + 1, nil
  if low < high then
    at = time_of(low)
    if at + limit.window > now then return low, at end
    low = low + 1
  end
  while low < high do
    local middle = math.floor((low + high) / 2)
    local middle_at = time_of(middle)
    if middle_at + limit.window > now then high, at = middle, middle_at else low = middle + 1 end
  end
  return low, at
end

-- A log made for a smaller max is laid out anew.
local function widen()
  local kept = math.min(total, capacity)
  local units = {}
  for i = 1, kept do
    local at = offset(total - kept + i)
    units[i] = redis.call('GETRANGE', key, at, at + UNIT - 1)
  end
  capacity, total = needed, kept
  redis.call('SET', key, string.rep('\0', HEADER) .. table.concat(units))
end

local function push()
  if capacity < needed then widen() end
  local unit = struct.pack('>I7', now)
  local written = 0
  while written < cost do
    local at = total % capacity
    local run = math.min(cost - written, capacity - at)
    redis.call('SETRANGE', key, HEADER + at * UNIT, string.rep(unit, run))
    total = total + run
    written = written + run
  end
  redis.call('SETRANGE', key, 0, struct.pack('>I4I7I7', capacity, total, now))
  redis.call('PEXPIRE', key, math.ceil(longest / 1000) + 1)
end

local waits, allowed = {}, true
for i, limit in ipairs(limits) do
  waits[i] = wait(limit)
  if waits[i] ~= 0 then allowed = false end
end
if allowed and cost > 0 then push() end

local reply = {}
for i, limit in ipairs(limits) do
  local first, at = first_in_window(limit)
  local used = total - first + 1
  reply[#reply + 1] = used
  reply[#reply + 1] = used == 0 and limit.window or at + limit.window - now
  reply[#reply + 1] = waits[i]
end
return reply
`
