import { lua, type Script } from '../shared/script.js'
import { ALGORITHM_SCRIPTS, SLIDING_LOG_LAYOUT, SLIDING_LOG_SHORTCUT } from './algorithm-scripts.js'
import type { Algorithm } from './policy.js'

// A script is put together of three parts: what all begin with, an algorithm, and what is done with it.
const BEGIN = `
local mode, cost = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local limits, largest, longest = {}, 0, 0
for i = FIRST_LIMIT, #ARGV, 3 do
  local limit = { max = tonumber(ARGV[i]), window = tonumber(ARGV[i + 1]) * 1000, burst = tonumber(ARGV[i + 2]) }
  limits[#limits + 1] = limit
  largest = math.max(largest, limit.max)
  longest = math.max(longest, limit.window)
end

-- A TTL in milliseconds that does not end before the given time in microseconds.
local function ttl(us)
  return math.max(1, math.ceil(us / 1000) + 1)
end
`

/** Refusals, where the policy counts them: a hash at KEYS[2]. The same as in `refusals.ts`. */
const APPLY = `
local count_rejected = ARGV[3] == '1'
local ban, ban_duration = tonumber(ARGV[4]), tonumber(ARGV[5]) * 1000
local penalty, cap, memory = tonumber(ARGV[6]) * 1000, tonumber(ARGV[7]) * 1000, tonumber(ARGV[8]) * 1000

load()
local count, counted_until, blocked_until, banned = 0, 0, 0, false
if KEYS[2] then
  local stored = redis.call('HMGET', KEYS[2], 'count', 'counted_until', 'blocked_until', 'banned')
  count, counted_until, blocked_until = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
  banned = stored[4] == '1' and now < blocked_until
end

local waits, passes = {}, now >= blocked_until
for i, limit in ipairs(limits) do
  waits[i] = wait(i, limit)
  if waits[i] ~= 0 then passes = false end
end
if mode == 'charge' or (mode == 'consume' and (passes or count_rejected)) then take() end

if KEYS[2] and mode == 'consume' and not passes and not banned then
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
end

local reply = { now, math.max(0, blocked_until - now), banned and 1 or 0 }
for i, limit in ipairs(limits) do
  local units, reset_after = used(i, limit)
  reply[#reply + 1] = units
  reply[#reply + 1] = reset_after
  reply[#reply + 1] = waits[i]
end
return reply
`

const REFUND = `
load()
give_back(tonumber(ARGV[3]))
redis.pcall('PUBLISH', ARGV[4], ARGV[5])
`

/**
 * Decides on one request.
 *
 * KEYS[1]  the count
 * KEYS[2]  the refusals; left out where the policy does not count them
 * ARGV     mode (consume, peek, charge), cost, countRejected (0, 1), ban (-1: never), its duration (ms), penalty's base
 *          (ms; 0: none), cap (ms) and memory (ms); then max, window (ms) and burst of each limit
 * reply    now (µs), blocked for (µs), banned (0, 1); then used, µs until reset, µs until it passes (-1: never) of each limit
 */
export const applyScripts = mapAlgorithms((algorithm, shortcut) => lua`${shortcut}${BEGIN.replace('FIRST_LIMIT', '9')}${algorithm}${APPLY}`)

/**
 * Gives back what was taken.
 *
 * KEYS[1]  the count
 * ARGV     unused, cost, time it was taken at (µs), channel and message that tell the other instances; then the limits
 */
export const refundScripts = mapAlgorithms((algorithm, _, layout) => lua`${layout}${BEGIN.replace('FIRST_LIMIT', '6')}${algorithm}${REFUND}`)

function mapAlgorithms (make: (algorithm: string, shortcut: string, layout: string) => Script): Record<Algorithm, Script> {
  return {
    'sliding-log': make(ALGORITHM_SCRIPTS['sliding-log'], SLIDING_LOG_SHORTCUT, SLIDING_LOG_LAYOUT),
    'sliding-counter': make(ALGORITHM_SCRIPTS['sliding-counter'], '', ''),
    gcra: make(ALGORITHM_SCRIPTS.gcra, '', '')
  }
}

/**
 * Forgets a key and tells the other instances, which may remember a refusal.
 *
 * KEYS[1]  the count
 * KEYS[2]  the refusals
 * ARGV     channel and message
 */
export const resetScript = lua`
redis.call('UNLINK', KEYS[1], KEYS[2])
redis.pcall('PUBLISH', ARGV[1], ARGV[2])
`
