import { lua, timedLua, type Script } from '../../shared/redis/script.js'
import { ALGORITHM_SCRIPTS } from '../algorithms/algorithm-scripts.js'
import type { Algorithm } from '../policy.js'
import { SLIDING_LOG_LAYOUT, SLIDING_LOG_SHORTCUT } from '../algorithms/sliding-log-script.js'

const CLOCK = `
local clock = redis_time()
`

// Decisions come in batches: the rest of the script is a function of one call's keys and arguments, and of how often it is
// asked for. It gives a reply, and to how many of them it is the answer.
const BATCH_BEGIN = `
local function decide(KEYS, ARGV, times)
`

const BATCH_END = `
end

local replies, key, argument, arguments = {}, 1, 1, nil
while argument <= #ARGV do
  local last_key, left, last_argument = key + ARGV[argument] - 1, tonumber(ARGV[argument + 1]), argument + 2 + ARGV[argument + 2]
  local keys = { unpack(KEYS, key, last_key) }
  -- Without arguments of its own a call has those of the one before.
  if last_argument >= argument + 3 then arguments = { unpack(ARGV, argument + 3, last_argument) } end
  while left > 0 do
    local done, reply, answered = pcall(decide, keys, arguments, left)
    -- What fails with one call does not concern the others.
    if not done then
      local message = type(reply) == 'table' and reply.err or tostring(reply)
      -- But this concerns the connection, which the client mends when it is told.
      if message:find('READONLY', 1, true) then return redis.error_reply('READONLY ' .. message) end
      reply, answered = redis.error_reply(message), left
    end
    replies[#replies + 1] = answered
    replies[#replies + 1] = reply
    left = left - answered
  end
  key, argument = last_key + 1, last_argument + 1
end
return replies
`

// A script is put together of three parts: what all begin with, an algorithm, and what is done with it.
const BEGIN = `
local mode, cost = ARGV[1], tonumber(ARGV[2])
local now = clock[1] * 1000000 + clock[2]
local limits, largest, longest = {}, 0, 0
local last_limit = 3 + tonumber(ARGV[3]) * 3
for i = 4, last_limit, 3 do
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
local count_rejected = mode == 'consume-all'
if count_rejected then mode = 'consume' end
load()
local count, counted_until, blocked_until, banned = 0, 0, 0, false
if KEYS[2] then
  local stored = redis.pcall('HMGET', KEYS[2], 'count', 'counted_until', 'blocked_until', 'banned')
  -- What is not ours is begun anew.
  if stored.err then
    redis.call('DEL', KEYS[2])
    stored = {}
  end
  count, counted_until, blocked_until = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0, tonumber(stored[3]) or 0
  banned = stored[4] == '1' and now < blocked_until
end

local waits, passes
local function ask()
  waits, passes = {}, now >= blocked_until
  for i, limit in ipairs(limits) do
    waits[i] = wait(i, limit)
    if waits[i] ~= 0 then passes = false end
  end
end
-- All at once if they all pass, else one by one.
local left = times
cost = cost * times
ask()
if times > 1 and not passes then
  cost, times = cost / times, 1
  ask()
end
if mode == 'charge' or (mode == 'consume' and (passes or count_rejected)) then take() end
-- What was taken of a refused request makes the next one wait longer.
if count_rejected and not passes then ask() end

if KEYS[2] and mode == 'consume' and not passes and not banned then
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
end

local reply = { now, math.max(0, blocked_until - now), banned and 1 or 0 }
for i, limit in ipairs(limits) do
  local units, reset_after = used(i, limit)
  reply[#reply + 1] = units
  reply[#reply + 1] = reset_after
  reply[#reply + 1] = waits[i]
end
-- Where one is refused, the others of this moment are too.
return reply, passes and times or left
`

const REFUND = `
load()
give_back(tonumber(mode))
redis.pcall('PUBLISH', ARGV[#ARGV - 1], ARGV[#ARGV])
`

/**
 * Decides on a batch of requests. For each of them:
 *
 * KEYS[1]  the count
 * KEYS[2]  the refusals; left out where the policy does not count them
 * ARGV     number of its keys, how often it is asked for (more than once: `consume` without KEYS[2] only), number of its
 *          arguments (0: those of the call before), then these: mode (consume; consume-all: refused ones too; peek; charge), cost, number of limits, max, window (ms) and
 *          burst of each; then, where KEYS[2] is given, ban (-1: never), its duration (ms), penalty's base (ms; 0: none),
 *          cap (ms) and memory (ms)
 * reply    for how many of these calls it holds; then now (µs), blocked for (µs), banned (0, 1); then used, µs until reset, µs until it passes (-1: never) of each
 *          limit. Or in short, where a single limit let it pass: now, used, µs until reset
 */
export const applyScripts = mapAlgorithms((algorithm, shortcut) =>
  timedLua`${CLOCK}${BATCH_BEGIN}${shortcut}${BEGIN}${algorithm}${APPLY}${BATCH_END}`)

/**
 * Gives back what was taken.
 *
 * KEYS[1]  the count
 * ARGV     time it was taken at (µs), cost, number of limits, max, window (ms) and burst of each; what else the policy has;
 *          last channel and message that tell the other instances
 */
export const refundScripts = mapAlgorithms((algorithm, _, layout) => timedLua`${CLOCK}${layout}${BEGIN}${algorithm}${REFUND}`)

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
 * KEYS     its counts and its refusals
 * ARGV     channel and message
 */
export const resetScript = lua`
redis.call('UNLINK', unpack(KEYS))
redis.pcall('PUBLISH', ARGV[1], ARGV[2])
`
