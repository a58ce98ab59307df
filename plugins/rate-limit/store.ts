import type { Limit, LimitState } from './decision.js'

/** Keeps, for each key, what it has used. Both stores pass the same tests. */
export interface RateLimitStore {
  /**
   * Takes `cost` units from all `limits` of `key`, or from none of them where one does not let it.
   *
   * @returns the state of each limit after that, in the order of `limits`
   */
  consume (key: string, limits: readonly Limit[], cost: number): Promise<LimitState[]>
}
