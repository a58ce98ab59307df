import type { RedisClient } from '../shared/client.js'
import { keySpace, safeId } from '../shared/keys.js'
import { runScript } from '../shared/script.js'
import type { Limit, LimitState } from './decision.js'
import { consumeSlidingLog } from './scripts.js'
import type { RateLimitStore } from './store.js'

/** Keeps the logs in Redis: one script, one key and one round trip a decision. */
export function createRedisStore (client: RedisClient, prefix: string): RateLimitStore {
  const space = keySpace(prefix, 'rate-limit', 'log')
  return {
    async consume (key, limits, cost) {
      const args = [cost, ...limits.flatMap(({ max, window }) => [max, window])]
      return parseReply(await runScript(client, consumeSlidingLog, [space + safeId(key)], args), limits)
    }
  }
}

function parseReply (reply: unknown, limits: readonly Limit[]): LimitState[] {
  if (!Array.isArray(reply) || reply.length !== limits.length * 3) throw new TypeError('unexpected reply of the rate limit script')
  const numbers = reply.map(Number)
  const at = (index: number) => numbers[index] ?? 0
  return limits.map((_, i) => ({
    used: at(i * 3),
    resetAfter: at(i * 3 + 1) / 1000,
    retryAfter: at(i * 3 + 2) < 0 ? Infinity : at(i * 3 + 2) / 1000
  }))
}
