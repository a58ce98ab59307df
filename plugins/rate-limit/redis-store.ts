import { isCluster, type RedisClient } from '../shared/client.js'
import { keySpace } from '../shared/keys.js'
import { runScript } from '../shared/script.js'
import { ScriptBatcher } from './batch.js'
import type { LimitState, Verdict } from './decision.js'
import { ALGORITHMS, countsRefusals, type Algorithm, type Policy } from './policy.js'
import { applyScripts, refundScripts, resetScript } from './scripts.js'
import type { SharedRateLimitStore } from './store.js'

/** The channel on which an instance tells the others that a key was reset; the message is the key. */
export function resetChannel (prefix: string): string {
  return keySpace(prefix, 'rate-limit', 'reset').slice(0, -1)
}

/** Keeps the counts in Redis: one script and one round trip a decision. */
export function createRedisStore (client: RedisClient, prefix: string): SharedRateLimitStore {
  const channel = resetChannel(prefix)
  const counts: Record<Algorithm, string> = {
    'sliding-log': keySpace(prefix, 'rate-limit', 'log'),
    'sliding-counter': keySpace(prefix, 'rate-limit', 'counter'),
    gcra: keySpace(prefix, 'rate-limit', 'gcra')
  }
  const refusals = keySpace(prefix, 'rate-limit', 'refused')
  // The braces put all keys of one id into one slot of a Cluster. What two algorithms keep cannot be one count.
  const countKey = (algorithm: Algorithm, id: string) => `${counts[algorithm]}{${id}}`
  const refusalsKey = (id: string) => `${refusals}{${id}}`

  const run = createRunner(client)

  return {
    apply (id, policy, cost, mode) {
      const keys = countsRefusals(policy) ? [countKey(policy.algorithm, id), refusalsKey(id)] : [countKey(policy.algorithm, id)]
      const args = [policy.countRejected && mode === 'consume' ? 'consume-all' : mode, cost, ...argsOf(policy)]
      return run(policy.algorithm, keys, args).then(parseReply)
    },
    async refund (id, policy, cost, time) {
      const args = [Math.round(time * 1000), cost, ...argsOf(policy), channel, id]
      await runScript(client, refundScripts[policy.algorithm], [countKey(policy.algorithm, id)], args)
    },
    async reset (id) {
      await runScript(client, resetScript, [...ALGORITHMS.map(algorithm => countKey(algorithm, id)), refusalsKey(id)], [channel, id])
    }
  }
}

/** Runs the calls of one turn together where it may. */
function createRunner (client: RedisClient): (algorithm: Algorithm, keys: string[], args: Array<string | number>) => Promise<unknown> {
  if (isCluster(client)) {
    return async (algorithm, keys, args) => {
      const replies = await runScript(client, applyScripts[algorithm], keys, [keys.length, args.length, ...args])
      const reply: unknown = Array.isArray(replies) ? replies[0] : undefined
      if (reply instanceof Error) throw reply
      return reply
    }
  }
  const batchers: Record<Algorithm, ScriptBatcher> = {
    'sliding-log': new ScriptBatcher(client, applyScripts['sliding-log']),
    'sliding-counter': new ScriptBatcher(client, applyScripts['sliding-counter']),
    gcra: new ScriptBatcher(client, applyScripts.gcra)
  }
  return (algorithm, keys, args) => batchers[algorithm].run(keys, args)
}

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

function parseReply (reply: unknown): Verdict {
  if (!Array.isArray(reply) || reply.length < 3 || reply.length % 3 !== 0) throw new TypeError('unexpected reply of a rate limit script')
  const milliseconds = (index: number) => Number(reply[index]) / 1000
  // The short form: a single limit let it pass.
  if (reply.length === 3) {
    return { time: milliseconds(0), blockedFor: 0, banned: false, states: [{ used: Number(reply[1]), resetAfter: milliseconds(2), retryAfter: 0 }] }
  }
  const states: LimitState[] = []
  for (let i = 3; i < reply.length; i += 3) {
    const wait = milliseconds(i + 2)
    states.push({ used: Number(reply[i]), resetAfter: milliseconds(i + 1), retryAfter: wait < 0 ? Infinity : wait })
  }
  return { time: milliseconds(0), blockedFor: milliseconds(1), banned: reply[2] === 1, states }
}
