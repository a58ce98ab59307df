import { resolvePolicy, type StaticPolicyOptions } from '../../../plugins/rate-limit/options/policy.js'
import type { Policy } from '../../../plugins/rate-limit/policy.js'

/** A policy of limits given as [max, window in ms]. */
export function policy (limits: Array<[max: number, window: number]>, rest: StaticPolicyOptions = {}): Policy {
  return resolvePolicy({ ...rest, limits: limits.map(([max, timeWindow]) => ({ max, timeWindow })) })
}
