import type { Counter } from './counter.js'
import type { Limit } from '../policy.js'

/**
 * Stores the time of each of the last units: exact.
 *
 * A request of cost `c` passes a limit of `max` if the unit that lies `max - c` before the newest one has left the
 * window. This is one comparison, however many units there are. One log serves limits of several windows.
 */
export class SlidingLog implements Counter {
  // A ring: unit number n (from 1) lies at (n - 1) % length, while it is one of the last `length` units.
  #times: Float64Array
  #total = 0
  // The largest max of all calls: a call with a smaller one must not drop units that a larger one counts.
  #capacity: number

  constructor (capacity: number) {
    this.#capacity = Math.max(capacity, 1)
    this.#times = new Float64Array(Math.min(Math.max(capacity, 1), 16))
  }

  wait (_index: number, { max, window }: Limit, cost: number, now: number): number {
    if (cost > max) return Infinity
    const unit = this.#total - max + cost
    return unit < this.#oldest() || cost === 0 ? 0 : Math.max(0, this.#timeOf(unit) + window - now)
  }

  take (limits: readonly Limit[], cost: number, now: number): void {
    let capacity = this.#capacity
    for (const { max } of limits) capacity = Math.max(capacity, max)
    this.#capacity = capacity
    const units = Math.min(cost, capacity)
    if (this.#times.length < capacity && this.#total + units > this.#times.length) this.#grow(units, capacity)
    for (let i = 0; i < units; i++) this.#times[this.#total++ % this.#times.length] = now
  }

  refund (_limits: readonly Limit[], cost: number, time: number): void {
    const times = Array.from({ length: this.#total - this.#oldest() + 1 }, (_, i) => this.#timeOf(this.#oldest() + i))
    const first = times.indexOf(time)
    if (first === -1) return
    times.splice(first, Math.min(cost, times.lastIndexOf(time) - first + 1))
    this.#times.set(times)
    this.#total = times.length
  }

  used (_index: number, limit: Limit, now: number): { used: number, resetAfter: number } {
    const first = this.#firstInWindow(limit, now)
    const used = this.#total - first + 1
    return { used, resetAfter: used === 0 ? limit.window : this.#timeOf(first) + limit.window - now }
  }

  /** Finds the number of the oldest unit in the window, by bisection, as times never decrease. */
  #firstInWindow ({ window }: Limit, now: number): number {
    let low = this.#oldest()
    let high = this.#total + 1
    if (low < high && this.#timeOf(low) + window > now) return low
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#timeOf(middle) + window > now) high = middle
      else low = middle + 1
    }
    return low
  }

  #oldest (): number {
    return Math.max(1, this.#total - this.#times.length + 1)
  }

  #timeOf (unit: number): number {
    return this.#times[(unit - 1) % this.#times.length] ?? 0
  }

  #grow (units: number, capacity: number): void {
    const size = this.#total - this.#oldest() + 1
    const times = new Float64Array(Math.min(capacity, Math.max(2 * this.#times.length, size + units)))
    for (let i = 0; i < size; i++) times[i] = this.#timeOf(this.#total - size + 1 + i)
    this.#times = times
    this.#total = size
  }
}

/**
 * Defines the layout of the log in Redis: a string of a header and a ring with 7 bytes for the time of each unit, up to
 * the largest max. The header has 46 bytes (big-endian): capacity of the ring; units ever taken; time of the newest
 * one; number and time of the oldest one in the longest window, as of the last search; that window; end of the TTL.
 */
export const SLIDING_LOG_LAYOUT = `
local HEADER, UNIT, LAYOUT = 46, 7, '>I4I7I7I7I7I7I7'
`

/**
 * Decides on most requests: those of one limit whose known oldest unit is still in the window, with room for more. They
 * take half the time, as this creates no functions and searches for nothing. Other requests run {@link SLIDING_LOG}.
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

/** Decides as {@link SlidingLog} does, on a log in Redis. {@link Counter} lists the functions that it defines. */
export const SLIDING_LOG = `
local capacity, total, newest, first, first_at, span, expires_at = largest, 0, 0, 1, 0, 0, 0

local function clear()
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

local function find_oldest_again()
  first = 0
  first_at = time_of(oldest())
  first, span = oldest(), math.max(span, longest)
end

local function load()
  local header = redis.pcall('GETRANGE', KEYS[1], 0, HEADER - 1)
  if header == '' then return end
  -- A foreign or damaged value is replaced; a missing unit is a sign of damage too.
  if #header ~= HEADER then return clear() end
  capacity, total, newest, first, first_at, span, expires_at = struct.unpack(LAYOUT, header)
  if capacity < 1 or first > total or first < total - capacity + 1 or newest > now + 2^50 then return clear() end
  now = math.max(now, newest)
  -- A unit that has left a shorter window may still be in this one.
  if longest > span then find_oldest_again() end
end

local function wait(_, limit)
  if cost > limit.max then return -1 end
  local unit = total - limit.max + cost
  if cost == 0 or unit < oldest() then return 0 end
  return math.max(0, time_of(unit) + limit.window - now)
end

-- Returns the number and the time of the oldest unit in a window, as times never decrease.
local function first_in(window)
  local low, high, at = math.max(first, oldest()), total + 1, nil
  if low < high then
    local oldest_at = time_of(low)
    if oldest_at + window > now then return low, oldest_at end
    low = low + 1
  end
  -- Few units have left the window since the last call: search in steps that double, then by bisection.
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

-- Returns a range of units as bytes.
local function bytes(from, to)
  if from > to then return '' end
  local start, stop = offset(from), offset(to) + UNIT - 1
  if start < stop then return redis.call('GETRANGE', KEYS[1], start, stop) end
  return redis.call('GETRANGE', KEYS[1], start, HEADER + capacity * UNIT - 1)
    .. redis.call('GETRANGE', KEYS[1], HEADER, stop)
end

local function rewrite(units)
  units = units:sub(1, #units - #units % UNIT)
  total = #units / UNIT
  if total == 0 then return clear() end
  first, first_at, newest = 1, struct.unpack('>I7', units), struct.unpack('>I7', units, #units - UNIT + 1)
  local header = struct.pack(LAYOUT, capacity, total, newest, first, first_at, span, expires_at)
  redis.call('SET', KEYS[1], header .. units, 'KEEPTTL')
end

local function take()
  if total > 0 and capacity < largest then
    local units = bytes(oldest(), total)
    capacity = largest
    rewrite(units)
  end
  local remaining = math.min(cost, capacity)
  if remaining == 0 then return end
  -- A call with a shorter window must not drop units that a longer one counts.
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
  -- The ring is smaller than the cost.
  if first < oldest() then find_oldest_again() end
  -- The TTL is a fifth longer than needed, so that few calls have to set it.
  local renew = expires_at < now + span
  if renew then expires_at = math.floor(now + span * 1.2) end
  redis.call('SETRANGE', KEYS[1], 0, struct.pack(LAYOUT, capacity, total, newest, first, first_at, span, expires_at))
  if renew then redis.call('PEXPIRE', KEYS[1], ttl(expires_at - now)) end
end

-- Returns the number of the first unit that is not older than a time, by bisection.
local function first_since(time)
  local low, high = oldest(), total + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if time_of(middle) >= time then high = middle else low = middle + 1 end
  end
  return low
end

local function refund(time)
  local from = first_since(time)
  local to = math.min(first_since(time + 1), from + cost) - 1
  if to >= from then rewrite(bytes(oldest(), from - 1) .. bytes(to + 1, total)) end
end
`
