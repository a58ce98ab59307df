import type { Counter } from './counter.js'
import type { Limit } from '../policy.js'

// Tolerance for sums of fractions of a unit.
const ROUNDING = 1e-6

// Window lengths that one key is counted by.
const MAX_WINDOWS = 16

interface Windows {
  /** The number of the current window since the epoch. */
  index: number
  current: number
  previous: number
  /** When counting by this length began. Units taken before are not part of these counts. */
  since: number
}

/**
 * Counts the units of the current fixed window and of the previous one, for each window length. The previous count is
 * weighted by the part of it that the sliding window still covers, as if its units had come evenly: an estimate in
 * constant memory.
 */
export class SlidingCounter implements Counter {
  /** By window length. */
  #windows = new Map<number, Windows>()

  wait (_index: number, { max, window }: Limit, cost: number, now: number): number {
    if (cost > max) return Infinity
    const { previous, current } = this.#at(window, now)
    const elapsed = now % window
    if (cost === 0 || previous * (1 - elapsed / window) + current + cost <= max + ROUNDING) return 0
    // It passes in this window, once enough of the previous one has left, or else in the next one.
    const inThisWindow = previous === 0 ? Infinity : window * (1 - (max - cost - current) / previous)
    if (inThisWindow <= window) return inThisWindow - elapsed
    return window - elapsed + Math.max(0, window * (1 - (max - cost) / current))
  }

  /** Counts by all window lengths of earlier calls too, so that policies of several windows share the count. */
  take (limits: readonly Limit[], cost: number, now: number): void {
    for (const { window } of limits) {
      const windows = this.#at(window, now)
      this.#windows.delete(window)
      this.#windows.set(window, windows)
    }
    for (const window of this.#windows.keys()) {
      if (this.#windows.size > MAX_WINDOWS) this.#windows.delete(window)
      else this.#at(window, now).current += cost
    }
  }

  refund (_limits: readonly Limit[], cost: number, time: number, now: number): void {
    for (const window of this.#windows.keys()) {
      const windows = this.#at(window, now)
      const age = time < windows.since ? Infinity : windows.index - Math.floor(time / window)
      if (age === 0) windows.current = Math.max(0, windows.current - cost)
      if (age === 1) windows.previous = Math.max(0, windows.previous - cost)
    }
  }

  used (_index: number, { window }: Limit, now: number): { used: number, resetAfter: number } {
    const { previous, current } = this.#at(window, now)
    const elapsed = now % window
    return {
      used: Math.ceil(previous * (1 - elapsed / window) + current),
      resetAfter: previous > 0 || current === 0 ? window - elapsed : 2 * window - elapsed
    }
  }

  /** Returns the counts of a window length as of now: those of the map, or new ones that are not in it. */
  #at (window: number, now: number): Windows {
    const index = Math.floor(now / window)
    const windows = this.#windows.get(window)
    if (windows === undefined) return { index, current: 0, previous: 0, since: now }
    if (index === windows.index) return windows
    const isNext = index - 1 === windows.index
    const [previous, since] = isNext ? [windows.current, windows.since] : [0, now]
    return Object.assign(windows, { index, current: 0, previous, since })
  }
}

/**
 * Decides as {@link SlidingCounter} does, on counts in Redis: a string with 40 bytes for each window length. They are
 * the length, the number of the current window, its units, those of the previous one, and when counting by it began.
 * {@link Counter} lists the functions that it defines.
 */
export const SLIDING_COUNTER = `
local STATE, MAX_WINDOWS = 40, ${MAX_WINDOWS}
local states, windows = {}, {}

local function put(window, index, current, previous, since)
  if not states[window] then windows[#windows + 1] = window end
  states[window] = { index = index, current = current, previous = previous, since = since }
end

local function load()
  for _, limit in ipairs(limits) do put(limit.window, 0, 0, 0, now) end
  local stored = redis.pcall('GET', KEYS[1])
  -- A foreign value is replaced.
  if type(stored) ~= 'string' or #stored % STATE ~= 0 then stored = '' end
  for at = 1, #stored, STATE do
    local window, index, current, previous, since = struct.unpack('>ddddd', stored, at)
    local is_valid = window > 0 and index * window < now + 2^50 and current >= 0 and previous >= 0
    if is_valid and (states[window] or #windows < MAX_WINDOWS) then
      put(window, index, current, previous, since)
      now = math.max(now, index * window)
    end
  end
  for window, state in pairs(states) do
    local index = math.floor(now / window)
    if index == state.index + 1 then
      put(window, index, 0, state.current, state.since)
    elseif index ~= state.index then
      put(window, index, 0, 0, now)
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
  -- It passes in this window, once enough of the previous one has left, or else in the next one.
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

local function refund(time)
  for window, state in pairs(states) do
    -- Units taken before counting by this length began are not part of it.
    local age = time >= state.since and state.index - math.floor(time / window)
    if age == 0 then state.current = math.max(0, state.current - cost) end
    if age == 1 then state.previous = math.max(0, state.previous - cost) end
  end
  save()
end
`
