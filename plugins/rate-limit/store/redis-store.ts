import { databaseChannel, type RedisClient } from '../../shared/redis/client.js'
import { systemClock, type Clock } from '../../shared/plugin/clock.js'
import type { RedisGuard } from '../../shared/redis/guard.js'
import { keySpace } from '../../shared/plugin/keys.js'
import { MicroBatch, type Batched, type TurnPipeline } from '../../shared/redis/micro-batch.js'
import { runScript, runScriptIn } from '../../shared/redis/script.js'
import type { LimitState, Verdict } from '../decision.js'
import { ALGORITHMS, countsRefusals, type Algorithm, type Policy } from '../policy.js'
import { applyScripts, refundScripts, resetScript } from './scripts.js'
import type { SharedRateLimitStore } from './store.js'

/** The channel on which an instance tells the others that a key was reset; the message is the key. */
export function resetChannel (client: RedisClient, prefix: string): string {
  return databaseChannel(client, keySpace(prefix, 'rate-limit', 'reset').slice(0, -1))
}

/** A decision that is needed once, or by several callers. The arguments of a policy are one list for all its requests. */
interface Decision {
  id: string
  args: ReadonlyArray<string | number>
  countsRefusals: boolean
}

type Decisions = ReadonlyArray<Batched<Decision>>

/** The callers of one script. Redis executes it in a fraction of a millisecond. */
const MAX_CALLERS = 64

/** Keeps the counts in Redis: one script and one round trip a decision, or less where several are asked for at once. */
export function createRedisStore (
  client: RedisClient, prefix: string, guard: Pick<RedisGuard, 'run'> = UNGUARDED, clock: Clock = systemClock
): SharedRateLimitStore {
  const channel = resetChannel(client, prefix)
  const counts: Record<Algorithm, string> = {
    'sliding-log': keySpace(prefix, 'rate-limit', 'log'),
    'sliding-counter': keySpace(prefix, 'rate-limit', 'counter'),
    gcra: keySpace(prefix, 'rate-limit', 'gcra')
  }
  const refusals = keySpace(prefix, 'rate-limit', 'refused')
  // The braces put all keys of one id into one slot of a Cluster. What two algorithms keep cannot be one count.
  const countKey = (algorithm: Algorithm, id: string) => `${counts[algorithm]}{${id}}`
  const refusalsKey = (id: string) => `${refusals}{${id}}`

  const decide = (algorithm: Algorithm, decisions: Decisions, pipeline: TurnPipeline) => guard.run(() => {
    const keys: string[] = []
    const args: Array<string | number> = []
    let sent: Decision['args'] | undefined
    for (const { request, callers } of decisions) {
      keys.push(countKey(algorithm, request.id))
      if (request.countsRefusals) keys.push(refusalsKey(request.id))
      args.push(request.countsRefusals ? 2 : 1, callers.length)
      if (request.args === sent) args.push(0)
      else args.push(request.args.length, ...request.args)
      sent = request.args
    }
    return runScriptIn(pipeline, applyScripts[algorithm], keys, args, clock)
  })
  const batchOf = (algorithm: Algorithm) => new MicroBatch<Decision, Verdict>({
    client,
    maxSize: MAX_CALLERS,
    areEqual: (a, b) => a.args === b.args,
    sendTogether: (decisions, pipeline) => decide(algorithm, decisions, pipeline),
    sendApart: (decisions, pipeline) => decisions.map(decision => decide(algorithm, [decision], pipeline)),
    parse: parseReplies
  })
  const batches = { 'sliding-log': batchOf('sliding-log'), 'sliding-counter': batchOf('sliding-counter'), gcra: batchOf('gcra') }

  return {
    apply (id, policy, cost, mode) {
      const { algorithm, countRejected } = policy
      // Where refusals count, each request is decided by itself, and `gcra` tells each when its bucket is empty. A turn's others
      // of cost 1 are the same but for their number.
      const counting = countsRefusals(policy)
      const alike = mode === 'consume' && cost === 1 && !counting && !countRejected && algorithm !== 'gcra'
      const args = alike ? argsOfOne(policy) : [countRejected && mode === 'consume' ? 'consume-all' : mode, cost, ...argsOf(policy)]
      return batches[algorithm].add({ id, args, countsRefusals: counting }, alike ? id : undefined)
    },
    async refund (id, policy, cost, time) {
      batches[policy.algorithm].flush()
      const args = [Math.round(time * 1000), cost, ...argsOf(policy), channel, id]
      await guard.run(() => runScript(client, refundScripts[policy.algorithm], [countKey(policy.algorithm, id)], args, clock))
    },
    async reset (id) {
      // What was asked before goes before.
      for (const algorithm of ALGORITHMS) batches[algorithm].flush()
      const keys = [...ALGORITHMS.map(algorithm => countKey(algorithm, id)), refusalsKey(id)]
      await guard.run(() => runScript(client, resetScript, keys, [channel, id]))
    }
  }
}

const UNGUARDED: Pick<RedisGuard, 'run'> = { run: operation => operation() }

// 100 years: in microseconds, and added to the time of day, still an exact number in Lua.
const LONGEST_MS = 100 * 365 * 24 * 3600 * 1000

const policyArgs = new WeakMap<Policy, string[]>()

/** A policy as arguments of the scripts, put together once: every decision sends them. */
function argsOf (policy: Policy): string[] {
  let args = policyArgs.get(policy)
  if (args === undefined) {
    const { limits, ban, banDuration, penalty } = policy
    const numbers = [limits.length, ...limits.flatMap(({ max, window, burst }) => [max, Math.min(window, LONGEST_MS), burst])]
    if (countsRefusals(policy)) {
      numbers.push(ban, ...[banDuration, penalty?.base ?? 0, penalty?.cap ?? 0, penalty?.memory ?? 0].map(ms => Math.min(ms, LONGEST_MS)))
    }
    args = numbers.map(String)
    policyArgs.set(policy, args)
  }
  return args
}

const oneArgs = new WeakMap<Policy, string[]>()

/** The arguments of most requests, always the same list. */
function argsOfOne (policy: Policy): string[] {
  let args = oneArgs.get(policy)
  if (args === undefined) {
    args = ['consume', '1', ...argsOf(policy)]
    oneArgs.set(policy, args)
  }
  return args
}

/** Returns a verdict for each caller. The script replies in pairs: the number of callers that a reply is for, and the reply. */
function parseReplies (replies: unknown, decisions: Decisions): Array<Verdict | Error> {
  const list: unknown[] = Array.isArray(replies) ? replies : []
  const verdicts: Array<Verdict | Error> = []
  let next = 0
  for (const { callers } of decisions) {
    for (let left = callers.length; left > 0;) {
      const count = Number(list[next++])
      const reply = list[next++]
      // After a malformed reply no caller waits for ever.
      const same = count >= 1 ? Math.min(count, left) : left
      for (let later = same - 1; later >= 0; later--) verdicts.push(parseReply(reply, later))
      left -= same
    }
  }
  return verdicts
}

/** @param later - how many requests of cost 1 were let pass together with this one, after it */
function parseReply (reply: unknown, later: number): Verdict | Error {
  if (reply instanceof Error) return reply
  if (!Array.isArray(reply) || reply.length < 3 || reply.length % 3 !== 0) return new TypeError('unexpected reply of a rate limit script')
  const milliseconds = (index: number) => Number(reply[index]) / 1000
  // The short form: a single limit let it pass.
  if (reply.length === 3) {
    return { time: milliseconds(0), blockedFor: 0, banned: false, states: [{ used: Number(reply[1]) - later, resetAfter: milliseconds(2), retryAfter: 0 }] }
  }
  const states: LimitState[] = []
  let passes = true
  for (let i = 3; i < reply.length; i += 3) {
    const wait = milliseconds(i + 2)
    if (wait !== 0) passes = false
    states.push({ used: Number(reply[i]), resetAfter: milliseconds(i + 1), retryAfter: wait < 0 ? Infinity : wait })
  }
  return {
    time: milliseconds(0),
    blockedFor: milliseconds(1),
    banned: reply[2] === 1,
    states: passes && later > 0 ? states.map(state => ({ ...state, used: Math.max(0, state.used - later) })) : states
  }
}
