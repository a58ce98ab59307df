import { lua, timedLua } from '../../shared/redis/script.js'
import { GCRA } from '../algorithms/gcra.js'
import { ADD_REFUSAL, LOAD_PENALTY } from '../algorithms/penalty.js'
import { SLIDING_COUNTER } from '../algorithms/sliding-counter.js'
import { SLIDING_LOG, SLIDING_LOG_LAYOUT, SLIDING_LOG_SHORTCUT } from '../algorithms/sliding-log.js'

const CLOCK = `
local clock = redis_time()
`

// Decisions come in batches: the rest of the script is a function of one call's keys and arguments, and of the number
// of equal calls. It returns a reply, and the number of calls that the reply answers.
const BATCH_BEGIN = `
local function decide(KEYS, ARGV, times)
`

const BATCH_END = `
end

local replies, key, argument, arguments = {}, 1, 1, nil
while argument <= #ARGV do
  local last_key, left = key + ARGV[argument] - 1, tonumber(ARGV[argument + 1])
  local last_argument = argument + 2 + ARGV[argument + 2]
  local keys = { unpack(KEYS, key, last_key) }
  -- A call without arguments has those of the call before.
  if last_argument >= argument + 3 then arguments = { unpack(ARGV, argument + 3, last_argument) } end
  while left > 0 do
    local done, reply, answered = pcall(decide, keys, arguments, left)
    -- The failure of one call does not affect the others.
    if not done then
      local message = type(reply) == 'table' and reply.err or tostring(reply)
      -- READONLY affects the whole connection: the client reconnects when it receives the error.
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

const READ_ARGUMENTS = `
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

-- Returns a TTL in milliseconds that does not end before the given time in microseconds.
local function ttl(us)
  return math.max(1, math.ceil(us / 1000) + 1)
end
`

// The same as `decide` in `memory-store.ts`, for `times` equal calls.
const APPLY = `
local count_rejected = mode == 'consume-all'
if count_rejected then mode = 'consume' end
load()
${LOAD_PENALTY}
local waits, passes
local function check()
  waits, passes = {}, now >= blocked_until
  for i, limit in ipairs(limits) do
    waits[i] = wait(i, limit)
    if waits[i] ~= 0 then passes = false end
  end
end
-- All calls at once if all of them pass, else one by one.
local left = times
cost = cost * times
check()
if times > 1 and not passes then
  cost, times = cost / times, 1
  check()
end
if mode == 'charge' or (mode == 'consume' and (passes or count_rejected)) then take() end
-- The cost of a refused request makes the next one wait longer.
if count_rejected and not passes then check() end

if KEYS[2] and mode == 'consume' and not passes and not banned then
${ADD_REFUSAL}
end

local reply = { now, math.max(0, blocked_until - now), banned and 1 or 0 }
for i, limit in ipairs(limits) do
  local units, reset_after = used(i, limit)
  reply[#reply + 1] = units
  reply[#reply + 1] = reset_after
  reply[#reply + 1] = waits[i]
end
-- A refusal answers all calls that are left, as they are made at the same moment.
return reply, passes and times or left
`

const GIVE_BACK = `
refund(tonumber(mode))
redis.pcall('PUBLISH', ARGV[#ARGV - 1], ARGV[#ARGV])
`

const REFUND = `
load()
${GIVE_BACK}`

const SETTLE = `
if not redis.call('SET', KEYS[2], '', 'PX', ARGV[#ARGV - 2], 'NX') then return end
load()
if mode == '' then
  take()
else
${GIVE_BACK}
end
`

/**
 * Decides on a batch of calls. For each call:
 *
 * KEYS[1]  the count
 * KEYS[2]  the refusals; left out where the policy does not count them
 * ARGV     number of its keys; number of equal calls (more than 1: `consume` without KEYS[2] only); number of its
 *          arguments (0: those of the call before); then the arguments:
 *          - mode (consume; consume-all: refused calls take their cost too; peek; charge), cost
 *          - number of limits, and max, window (ms) and burst of each limit
 *          - with KEYS[2]: ban (-1: never), its duration (ms), penalty's base (ms; 0: none), cap (ms) and memory (ms)
 * reply    number of the equal calls that it answers; then now (µs), blocked for (µs), banned (0, 1), and used, µs
 *          until reset, µs until it passes (-1: never) of each limit. In short, where a single limit let it pass: now,
 *          used, µs until reset
 */
export const applyScripts = {
  'sliding-log': applyScript(SLIDING_LOG, SLIDING_LOG_SHORTCUT),
  'sliding-counter': applyScript(SLIDING_COUNTER),
  gcra: applyScript(GCRA)
}

function applyScript (algorithm: string, shortcut = '') {
  return timedLua`${CLOCK}${BATCH_BEGIN}${shortcut}${READ_ARGUMENTS}${algorithm}${APPLY}${BATCH_END}`
}

/**
 * Refunds units that a call took.
 *
 * KEYS[1]  the count
 * ARGV     time of the call (µs), cost, number of limits, max, window (ms) and burst of each; other arguments of the
 *          policy; last the channel and the message for the other instances
 */
export const refundScripts = forEachAlgorithm(REFUND)

/**
 * Corrects what a call took, once: charges units, or refunds them.
 *
 * KEYS     the count; the mark of the correction
 * ARGV     time of the call (µs; empty: charge), units, number of limits, max, window (ms) and burst of each; other
 *          arguments of the policy; last the TTL of the mark (ms), the channel and the message for the other instances
 */
export const settleScripts = forEachAlgorithm(SETTLE)

/** Returns a script of each algorithm for one call, of what follows its functions. */
function forEachAlgorithm (body: string) {
  const scriptOf = (algorithm: string) => timedLua`${CLOCK}${READ_ARGUMENTS}${algorithm}${body}`
  return {
    'sliding-log': scriptOf(SLIDING_LOG_LAYOUT + SLIDING_LOG),
    'sliding-counter': scriptOf(SLIDING_COUNTER),
    gcra: scriptOf(GCRA)
  }
}

/**
 * Deletes the counts of a key and notifies the other instances, which may have cached a refusal.
 *
 * KEYS     its counts and its refusals
 * ARGV     channel and message
 */
export const resetScript = lua`
redis.call('UNLINK', unpack(KEYS))
redis.pcall('PUBLISH', ARGV[1], ARGV[2])
`
