import { LRUCache } from 'lru-cache'
import { SlidingLog } from './sliding-log.js'
import type { RateLimitStore } from './store.js'

/**
 * Keeps the logs in this process, bounded in keys: the ones that were used least recently go first.
 *
 * @param maxKeys - how many keys are kept
 * @param clock - milliseconds; tests put their own here
 */
export function createMemoryStore (maxKeys: number, clock: () => number = Date.now): RateLimitStore {
  const logs = new LRUCache<string, SlidingLog>({ max: maxKeys })
  return {
    async consume (key, limits, cost) {
      let log = logs.get(key)
      if (log === undefined) {
        log = new SlidingLog(Math.max(...limits.map(limit => limit.max)))
        logs.set(key, log)
      }
      return log.consume(limits, cost, clock())
    }
  }
}
