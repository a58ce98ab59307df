import type { RedisGuard } from '../shared/guard.js'
import { summarize, type Decision, type Limit } from './decision.js'
import type { RateLimitStore } from './store.js'

export interface Limiter {
  consume (key: string, limits: readonly Limit[], cost: number): Promise<Decision>
}

/** Decides by the memory of this process. */
export function createLocalLimiter (store: RateLimitStore): Limiter {
  return {
    async consume (key, limits, cost) {
      return summarize(limits, await store.consume(key, limits, cost))
    }
  }
}

/** Decides by Redis; where Redis fails, by this process alone, so that a limit holds per instance at least. */
export function createSharedLimiter (shared: RateLimitStore, guard: RedisGuard, local: RateLimitStore): Limiter {
  return {
    async consume (key, limits, cost) {
      let states
      try {
        states = await guard.run(() => shared.consume(key, limits, cost))
      } catch {
        // The guard has counted it, and logs when it gives Redis up.
        states = await local.consume(key, limits, cost)
      }
      return summarize(limits, states)
    }
  }
}
