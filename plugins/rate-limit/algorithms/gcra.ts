import type { Counter } from './counter.js'
import type { Limit } from '../policy.js'

/**
 * The generic cell rate algorithm (ITU-T I.371): a bucket of `burst` units (`max` by default) that drains evenly, one
 * unit each `window / max`. Its state is one time for each limit: when the bucket will be empty.
 */
export class GenericCellRate implements Counter {
  #emptyAt: number[] = []

  wait (index: number, { max, window, burst }: Limit, cost: number, now: number): number {
    if (cost > Math.min(max, burst)) return Infinity
    if (cost === 0) return 0
    const unit = window / max
    const over = Math.max(this.#emptyAt[index] ?? 0, now) + cost * unit - (now + burst * unit)
    // Times are sums of rounded fractions: an excess below a thousandth of a unit is ignored.
    return over < unit / 1000 ? 0 : over
  }

  take (limits: readonly Limit[], cost: number, now: number): void {
    for (const [index, { max, window }] of limits.entries()) {
      if (max > 0) this.#emptyAt[index] = Math.max(this.#emptyAt[index] ?? 0, now) + cost * window / max
    }
  }

  /** Excludes what may have drained since: refunding it would let more than the burst through. */
  refund (limits: readonly Limit[], cost: number, time: number, now: number): void {
    for (const [index, { max, window }] of limits.entries()) {
      const emptyAt = this.#emptyAt[index]
      if (emptyAt === undefined || max === 0) continue
      this.#emptyAt[index] = emptyAt - Math.max(0, cost * window / max - (now - time))
    }
  }

  used (index: number, { max, window }: Limit, now: number): { used: number, resetAfter: number } {
    const drain = Math.max(0, (this.#emptyAt[index] ?? 0) - now)
    return { used: Math.ceil(drain * max / window - 0.001), resetAfter: drain === 0 ? window : drain }
  }
}

/**
 * Decides as {@link GenericCellRate} does, on a bucket in Redis: a string with 8 bytes for each limit, when it will be
 * empty. {@link Counter} lists the functions that it defines.
 */
export const GCRA = `
-- A charge of any size ends before MAX_TIME, after which a time counts as damaged.
local STATE, MAX_LIMITS, MAX_TIME, MAX_DRAIN = 8, 10, 2^53, 2^52
local empty_at = {}

local function load()
  local stored = redis.pcall('GET', KEYS[1])
  -- A foreign value is replaced. A policy that gains or loses a limit does not affect its other limits.
  local present = type(stored) == 'string' and #stored % STATE == 0 and #stored / STATE or 0
  for i = 1, math.max(#limits, math.min(present, MAX_LIMITS)) do
    local at = i <= present and struct.unpack('>d', stored, (i - 1) * STATE + 1) or 0
    empty_at[i] = at < MAX_TIME and at or 0
  end
end

local function wait(i, limit)
  if cost > math.min(limit.max, limit.burst) then return -1 end
  if cost == 0 then return 0 end
  local unit = limit.window / limit.max
  local over = math.max(empty_at[i], now) + cost * unit - (now + limit.burst * unit)
  -- Times are sums of rounded fractions: an excess below a thousandth of a unit is ignored.
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
    if limit.max > 0 then
      local drain = cost * limit.window / limit.max
      empty_at[i] = math.min(math.max(empty_at[i], now) + drain, now + MAX_DRAIN)
    end
  end
  save()
end

local function used(i, limit)
  local drain = math.max(0, empty_at[i] - now)
  if drain == 0 then return 0, limit.window end
  return math.ceil(drain * limit.max / limit.window - 0.001), math.ceil(drain)
end

-- Excludes what may have drained since: refunding it would let more than the burst through.
local function refund(time)
  for i, limit in ipairs(limits) do
    if limit.max > 0 then empty_at[i] = empty_at[i] - math.max(0, cost * limit.window / limit.max - (now - time)) end
  end
  save()
end
`
