import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import { keySpace } from '../../shared/plugin/keys.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { databaseChannel } from '../../shared/redis/client.js'
import type { RedisPort } from '../../shared/redis/port.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { MicroBatch, type Batched, type TurnPipeline } from '../../shared/redis/micro-batch.js'
import { sendScript, sendScriptIn } from '../../shared/redis/script.js'
import type { LimitState, Verdict } from '../decision.js'
import { ALGORITHMS, correctionTime, countsRefusals, type Algorithm, type Policy } from '../policy.js'
import { applyScripts, refundScripts, resetScript, settleScripts } from './script-assembly.js'
import type { SharedRateLimitStore } from './store.js'

/** Returns the channel on which an instance publishes the id of each key that it resets. */
export function resetChannel (client: RedisPort, prefix: string): string {
  return databaseChannel(client, keySpace(prefix, 'rate-limit', 'reset').slice(0, -1))
}

/** One call of a script, for one or several callers. */
interface DecisionCall {
  id: string
  args: ReadonlyArray<string | number>
  countsRefusals: boolean
}

type DecisionBatch = ReadonlyArray<Batched<DecisionCall>>

/** For so long beyond its sender's last attempt, a correction is not made a second time. */
const SETTLED_MARGIN_MS = 30_000
/** The largest number of callers of one script. Redis executes it in a fraction of a millisecond. */
const MAX_CALLERS = 64

const UNGUARDED: Pick<RedisGuard, 'run'> = { run: operation => operation() }

/** Creates a store in Redis. A decision takes one script and one round trip; decisions of one turn share them. */
export function createRedisStore (
  client: RedisPort, prefix: string, guard: Pick<RedisGuard, 'run'> = UNGUARDED, clock: Clock = systemClock
): SharedRateLimitStore {
  const channel = resetChannel(client, prefix)
  const counts: Record<Algorithm, string> = {
    'sliding-log': keySpace(prefix, 'rate-limit', 'log'),
    'sliding-counter': keySpace(prefix, 'rate-limit', 'counter'),
    gcra: keySpace(prefix, 'rate-limit', 'gcra')
  }
  const refusals = keySpace(prefix, 'rate-limit', 'refused')
  // The braces put all keys of one id into one slot of a Cluster. Counts of two algorithms cannot be shared.
  const countKey = (algorithm: Algorithm, id: string) => `${counts[algorithm]}{${id}}`
  const refusalsKey = (id: string) => `${refusals}{${id}}`
  const settled = keySpace(prefix, 'rate-limit', 'settled')

  const send = (algorithm: Algorithm, batch: DecisionBatch, pipeline: TurnPipeline) => guard.run(() => {
    const keys: string[] = []
    const args: Array<string | number> = []
    let last: DecisionCall['args'] | undefined
    for (const { request, callers } of batch) {
      keys.push(countKey(algorithm, request.id))
      if (request.countsRefusals) keys.push(refusalsKey(request.id))
      args.push(request.countsRefusals ? 2 : 1, callers.length)
      if (request.args === last) args.push(0)
      else args.push(request.args.length, ...request.args)
      last = request.args
    }
    return sendScriptIn(pipeline, applyScripts[algorithm], keys, args, clock)
  })
  const batchOf = (algorithm: Algorithm) => new MicroBatch<DecisionCall, Verdict>({
    client,
    maxSize: MAX_CALLERS,
    areEqual: (a, b) => a.args === b.args,
    sendTogether: (batch, pipeline) => send(algorithm, batch, pipeline),
    sendApart: (batch, pipeline) => batch.map(call => send(algorithm, [call], pipeline)),
    parse: parseReplies
  })
  const batches = {
    'sliding-log': batchOf('sliding-log'),
    'sliding-counter': batchOf('sliding-counter'),
    gcra: batchOf('gcra')
  }

  return {
    apply (id, policy, cost, mode) {
      const { args, argsOfOne, countsRefusals } = encodedOf(policy)
      const batch = batches[policy.algorithm]
      if (argsOfOne !== undefined && mode === 'consume' && cost === 1) {
        return batch.add({ id, args: argsOfOne, countsRefusals }, id)
      }
      const scriptMode = mode === 'consume' && policy.countRejected ? 'consume-all' : mode
      return batch.add({ id, args: [scriptMode, cost, ...args], countsRefusals })
    },
    async refund (id, policy, cost, time) {
      batches[policy.algorithm].flush()
      const keys = [countKey(policy.algorithm, id)]
      const args = [Math.round(time * 1000), cost, ...encodedOf(policy).args, channel, id]
      await guard.run(() => sendScript(client, refundScripts[policy.algorithm], keys, args, clock))
    },
    async settle (id, policy, { units, time, token }) {
      batches[policy.algorithm].flush()
      const keys = [countKey(policy.algorithm, id), `${settled}{${id}}:${token}`]
      const takenAt = units > 0 ? '' : Math.round(time * 1000)
      const keptFor = correctionTime(policy) + SETTLED_MARGIN_MS
      const args = [takenAt, Math.abs(units), ...encodedOf(policy).args, Math.ceil(keptFor), channel, id]
      await guard.run(() => sendScript(client, settleScripts[policy.algorithm], keys, args, clock))
    },
    async reset (id) {
      // A reset does not overtake earlier decisions.
      for (const algorithm of ALGORITHMS) batches[algorithm].flush()
      const keys = [...ALGORITHMS.map(algorithm => countKey(algorithm, id)), refusalsKey(id)]
      await guard.run(() => sendScript(client, resetScript, keys, [channel, id]))
    }
  }
}

/** A policy as arguments of the scripts. */
interface EncodedPolicy {
  readonly args: readonly string[]
  /**
   * The arguments of a `consume` of cost 1, where equal calls of one turn can be one call. They cannot where each
   * refusal counts, and with `gcra`, whose replies differ by when the bucket will be empty.
   */
  readonly argsOfOne: readonly string[] | undefined
  readonly countsRefusals: boolean
}

const encodedPolicies = new WeakMap<Policy, EncodedPolicy>()

// 100 years: in microseconds, and added to the time of day, it is still an exact number in Lua.
const MAX_DURATION_MS = 100 * 365 * 24 * 3600 * 1000

/** Every decision sends its policy, so each policy is encoded once. */
function encodedOf (policy: Policy): EncodedPolicy {
  let encoded = encodedPolicies.get(policy)
  if (encoded === undefined) {
    const { algorithm, limits, ban, banDuration, penalty, countRejected } = policy
    const duration = (ms: Milliseconds): number => Math.min(ms, MAX_DURATION_MS)
    const numbers = [limits.length, ...limits.flatMap(({ max, window, burst }) => [max, duration(window), burst])]
    const isCounted = countsRefusals(policy)
    if (isCounted) {
      const { base = 0, cap = 0, memory = 0 } = penalty ?? {}
      numbers.push(ban, duration(banDuration), duration(base), duration(cap), duration(memory))
    }
    const args = numbers.map(String)
    const canMerge = !isCounted && !countRejected && algorithm !== 'gcra'
    encoded = { args, argsOfOne: canMerge ? ['consume', '1', ...args] : undefined, countsRefusals: isCounted }
    encodedPolicies.set(policy, encoded)
  }
  return encoded
}

/** Returns a verdict for each caller. The script returns pairs: a number of callers, and the reply for them. */
function parseReplies (replies: unknown, batch: DecisionBatch): Array<Verdict | Error> {
  const list: unknown[] = Array.isArray(replies) ? replies : []
  const verdicts: Array<Verdict | Error> = []
  let next = 0
  for (const { callers } of batch) {
    for (let left = callers.length; left > 0;) {
      const count = Number(list[next++])
      const reply = list[next++]
      // A malformed reply rejects all callers that are left, so that none of them waits forever.
      const same = count >= 1 ? Math.min(count, left) : left
      for (let later = same - 1; later >= 0; later--) verdicts.push(parseReply(reply, later))
      left -= same
    }
  }
  return verdicts
}

/** @param later - the number of equal calls that the same reply lets pass after this one */
function parseReply (reply: unknown, later: number): Verdict | Error {
  if (reply instanceof Error) return reply
  if (!Array.isArray(reply) || reply.length < 3 || reply.length % 3 !== 0) {
    return new TypeError('unexpected reply of a rate limit script')
  }
  const time = Number(reply[0]) / 1000
  // The short form: a single limit let the call pass.
  if (reply.length === 3) {
    const state = { used: Number(reply[1]) - later, resetAfter: Number(reply[2]) / 1000, retryAfter: 0 }
    return { time, blockedFor: 0, banned: false, states: [state] }
  }
  const states: LimitState[] = []
  let passes = true
  for (let i = 3; i < reply.length; i += 3) {
    const wait = Number(reply[i + 2]) / 1000
    if (wait !== 0) passes = false
    const retryAfter = wait < 0 ? Infinity : wait
    states.push({ used: Number(reply[i]), resetAfter: Number(reply[i + 1]) / 1000, retryAfter })
  }
  return {
    time,
    blockedFor: Number(reply[1]) / 1000,
    banned: reply[2] === 1,
    states: passes && later > 0 ? states.map(state => ({ ...state, used: Math.max(0, state.used - later) })) : states
  }
}
