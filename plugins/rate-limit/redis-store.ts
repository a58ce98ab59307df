import type { RedisClient } from '../shared/client.js'
import { keySpace, safeId } from '../shared/keys.js'
import { runScript } from '../shared/script.js'
import type { LimitState, Verdict } from './decision.js'
import { countsRefusals, type Policy } from './policy.js'
import { applyScripts, refundScripts, resetScript } from './scripts.js'
import type { RateLimitStore } from './store.js'

/** The channel on which an instance tells the others that a key was reset; the message is the key. */
export function resetChannel (prefix: string): string {
  return keySpace(prefix, 'rate-limit', 'reset').slice(0, -1)
}

/** Keeps the counts in Redis: one script and one round trip a decision. */
export function createRedisStore (client: RedisClient, prefix: string): RateLimitStore {
  const channel = resetChannel(prefix)
  const counts = keySpace(prefix, 'rate-limit', 'count')
  const refusals = keySpace(prefix, 'rate-limit', 'refused')
  // The braces put both keys of one id into one slot of a Cluster.
  const countKey = (id: string) => `${counts}{${id}}`
  const refusalsKey = (id: string) => `${refusals}{${id}}`

  return {
    async apply (key, policy, cost, mode) {
      const id = safeId(key)
      const keys = countsRefusals(policy) ? [countKey(id), refusalsKey(id)] : [countKey(id)]
      const args = [mode, cost, ...refusalArgs(policy), ...limitArgs(policy)]
      return parseReply(await runScript(client, applyScripts[policy.algorithm], keys, args))
    },
    async refund (key, policy, cost, time) {
      const args = ['', cost, Math.round(time * 1000), channel, key, ...limitArgs(policy)]
      await runScript(client, refundScripts[policy.algorithm], [countKey(safeId(key))], args)
    },
    async reset (key) {
      const id = safeId(key)
      await runScript(client, resetScript, [countKey(id), refusalsKey(id)], [channel, key])
    }
  }
}

// 100 years: in microseconds, and added to the time of day, still an exact number in Lua.
const LONGEST_MS = 100 * 365 * 24 * 3600 * 1000

function refusalArgs ({ countRejected, ban, banDuration, penalty }: Policy): number[] {
  const durations = [banDuration, penalty?.base ?? 0, penalty?.cap ?? 0, penalty?.memory ?? 0]
  return [countRejected ? 1 : 0, ban, ...durations.map(ms => Math.min(ms, LONGEST_MS))]
}

function limitArgs ({ limits }: Policy): number[] {
  const args: number[] = []
  for (const { max, window, burst } of limits) args.push(max, Math.min(window, LONGEST_MS), burst)
  return args
}

function parseReply (reply: unknown): Verdict {
  if (!Array.isArray(reply) || reply.length < 6 || reply.length % 3 !== 0) throw new TypeError('unexpected reply of a rate limit script')
  const milliseconds = (index: number) => Number(reply[index]) / 1000
  const states: LimitState[] = []
  for (let i = 3; i < reply.length; i += 3) {
    const wait = milliseconds(i + 2)
    states.push({ used: Number(reply[i]), resetAfter: milliseconds(i + 1), retryAfter: wait < 0 ? Infinity : wait })
  }
  return { time: milliseconds(0), blockedFor: milliseconds(1), banned: reply[2] === 1, states }
}
