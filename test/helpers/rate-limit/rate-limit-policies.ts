import { resolvePolicy, type StaticPolicyOptions } from '../../../plugins/rate-limit/options/policy.js'
import type { Policy } from '../../../plugins/rate-limit/policy.js'

/** Creates a policy. @param limits - [max, window in ms] of each limit */
export function policy (limits: Array<[max: number, window: number]>, rest: StaticPolicyOptions = {}): Policy {
  return resolvePolicy({ ...rest, limits: limits.map(([max, timeWindow]) => ({ max, timeWindow })) })
}
