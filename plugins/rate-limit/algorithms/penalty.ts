import { longestWindow, type Policy } from '../policy.js'

/** Refusals, penalty and ban of one key, in the memory of this process. Below is the same in Lua. */
export class PenaltyState {
  #count = 0
  #countedUntil = 0
  #blockedUntil = 0
  #banned = false

  /** Returns the milliseconds for which the key is refused whatever its limits say. */
  blockedFor (now: number): number {
    return Math.max(0, this.#blockedUntil - now)
  }

  isBanned (now: number): boolean {
    return this.#banned && now < this.#blockedUntil
  }

  /** Counts a refusal, then lengthens the penalty and bans the key as the policy says. */
  add ({ penalty, ban, banDuration, limits }: Policy, now: number): void {
    if (now >= this.#countedUntil) this.#count = 0
    if (this.isBanned(now)) return
    this.#banned = false
    const window = longestWindow(limits)
    if (this.#count++ === 0) this.#countedUntil = now + window
    if (penalty) {
      this.#blockedUntil = now + Math.min(penalty.base * 2 ** (this.#count - 1), penalty.cap)
      this.#countedUntil = Math.max(this.#countedUntil, this.#blockedUntil + penalty.memory)
    }
    if (ban >= 0 && this.#count > ban) {
      this.#banned = true
      this.#blockedUntil = Math.max(this.#blockedUntil, now + banDuration)
    }
    this.#countedUntil = Math.max(this.#countedUntil, this.#blockedUntil)
  }
}

/** Reads the state of a key, a hash at `KEYS[2]`. The key is left out where the policy does not count refusals. */
export const LOAD_PENALTY = `
local count, counted_until, blocked_until, banned = 0, 0, 0, false
if KEYS[2] then
  local stored = redis.pcall('HMGET', KEYS[2], 'count', 'counted_until', 'blocked_until', 'banned')
  -- A foreign value is replaced.
  if stored.err then
    redis.call('DEL', KEYS[2])
    stored = {}
  end
  count, counted_until, blocked_until = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
  banned = stored[4] == '1' and now < blocked_until
end
`

/** Counts a refusal as {@link PenaltyState.add} does, and writes the state. */
export const ADD_REFUSAL = `
  local function argument(n) return tonumber(ARGV[last_limit + n]) end
  local ban, ban_duration = argument(1), argument(2) * 1000
  local penalty, cap, memory = argument(3) * 1000, argument(4) * 1000, argument(5) * 1000
  if now >= counted_until then count = 0 end
  count = count + 1
  if count == 1 then counted_until = now + longest end
  if penalty > 0 then
    blocked_until = now + math.min(penalty * 2 ^ (count - 1), cap)
    counted_until = math.max(counted_until, blocked_until + memory)
  end
  if ban >= 0 and count > ban then
    banned = true
    blocked_until = math.max(blocked_until, now + ban_duration)
  end
  counted_until = math.max(counted_until, blocked_until)
  redis.call('HSET', KEYS[2], 'count', count, 'counted_until', string.format('%.0f', counted_until),
    'blocked_until', string.format('%.0f', blocked_until), 'banned', banned and 1 or 0)
  redis.call('PEXPIRE', KEYS[2], ttl(counted_until - now))
`
