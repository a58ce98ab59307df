import type { FastifyRequest } from 'fastify'
import { parseDuration, type Duration } from '../../shared/plugin/duration.js'
import { reasonOf } from '../../shared/plugin/errors.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { refuseOption } from '../../shared/plugin/option-table.js'
import { invalidResult } from '../errors.js'
import type { Policy } from '../policy.js'
import {
  allowedMax, DEFAULT_MAX, DEFAULT_TIME_WINDOW, largestMax, resolvePolicy, type BoundedPolicyOptions
} from './policy.js'
import type { LimitOptions, PerRequest, RouteRateLimitOptions } from './types.js'

/** Returns the policy for a request and its key; undefined where the caller is unlimited. */
export type PolicyOf = (request: FastifyRequest, key: string) => MaybePromise<Policy | undefined>

export type BoundedRouteOptions = RouteRateLimitOptions & Pick<BoundedPolicyOptions, 'maxLogUnits'>

type Rest = BoundedPolicyOptions

const MAX_POLICIES = 1000

/**
 * Returns the function that chooses the policy of a request. Options that do not depend on the request are checked
 * now, and not at the first request.
 *
 * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION`
 */
export function resolvePolicyOf (given: BoundedRouteOptions): PolicyOf {
  const { max, timeWindow, limits, plans, plan: _, ...rest } = given
  if (plans !== undefined) return byPlan(given, rest)
  if (typeof limits === 'function') return byLimits(given, rest, limits)
  if (limits === false) return refuseOption('rate-limit', given, 'limits', 'a list of 1 to 10 limits, or a function')
  if (typeof max !== 'function' && typeof timeWindow !== 'function') {
    const policy = resolvePolicy({ ...rest, limits, max, timeWindow })
    return () => policy
  }
  if (limits !== undefined) refuseOption('rate-limit', given, 'limits', 'left out beside "max" and "timeWindow"')
  return byMax(rest, max, timeWindow)
}

function byPlan (given: BoundedRouteOptions, rest: Rest): PolicyOf {
  const { plans, plan } = given
  for (const name of ['limits', 'max', 'timeWindow'] as const) {
    if (given[name] !== undefined) refuseOption('rate-limit', given, name, 'left out beside "plans"')
  }
  if (typeof plan !== 'function') return refuseOption('rate-limit', given, 'plan', 'a function beside "plans"')
  const isObject = typeof plans === 'object' && plans !== null && !Array.isArray(plans)
  const names = isObject ? Object.keys(plans) : []
  if (!isObject || names.length === 0) {
    return refuseOption('rate-limit', given, 'plans', 'an object with the limits of at least one plan')
  }
  const policies = new Map(names.map(name => [name, policyOfPlan(given, rest, name)]))
  // Without the names, as clients may see the message.
  const allowed = 'a name in "plans", or false for a caller without limits'
  return (request, key) => whenReady<unknown, Policy | undefined>(plan(request, key), name => {
    if (name === false) return undefined
    if (typeof name !== 'string' || !policies.has(name)) throw invalidResult('plan', request, name, allowed)
    return policies.get(name)
  })
}

function policyOfPlan (given: BoundedRouteOptions, rest: Rest, name: string): Policy | undefined {
  const limits: unknown = given.plans?.[name]
  if (limits === false) return undefined
  if (!Array.isArray(limits)) {
    return refuseOption('rate-limit', given, 'plans', `for '${name}' a list of 1 to 10 limits, or false`)
  }
  return policyOfLimits(rest, limits as LimitOptions[])
}

function byLimits (
  given: BoundedRouteOptions, rest: Rest, limitsOf: Extract<BoundedRouteOptions['limits'], (...args: never) => unknown>
): PolicyOf {
  for (const name of ['max', 'timeWindow'] as const) {
    if (given[name] !== undefined) refuseOption('rate-limit', given, name, 'left out beside "limits"')
  }
  resolvePolicy({ ...rest, burst: burstWithin(rest.burst, DEFAULT_MAX), max: Math.min(DEFAULT_MAX, largestMax(rest)) })
  // By text, as a function may change the list that it returned before.
  const policies = new Map<string, { policy: Policy | undefined }>()
  const resolve = (request: FastifyRequest, limits: readonly LimitOptions[]): Policy | undefined => {
    const text = JSON.stringify(limits, (_name, value: unknown) => value === Infinity ? 'Infinity' : value)
    const known = policies.get(text) ?? { policy: checkLimits(rest, request, limits) }
    if (policies.size >= MAX_POLICIES) policies.clear()
    policies.set(text, known)
    return known.policy
  }
  return (request, key) => whenReady<unknown, Policy | undefined>(limitsOf(request, key), limits => {
    if (limits === false) return undefined
    if (!Array.isArray(limits)) {
      throw invalidResult('limits', request, limits, 'a list of 1 to 10 limits, or false for a caller without limits')
    }
    return resolve(request, limits as LimitOptions[])
  })
}

/** @returns undefined where no limit is left */
function policyOfLimits (rest: Rest, limits: readonly LimitOptions[]): Policy | undefined {
  const finite = limits.filter(limit => (limit as LimitOptions | null)?.max !== Infinity)
  return finite.length === 0 && limits.length > 0 ? undefined : resolvePolicy({ ...rest, limits: finite })
}

/** Names the function `limits` in the error of what it returned. */
function checkLimits (rest: Rest, request: FastifyRequest, limits: readonly LimitOptions[]): Policy | undefined {
  try {
    return policyOfLimits(rest, limits)
  } catch (error) {
    throw invalidResult('limits', request, limits, reasonOf(error))
  }
}

/** The policy is resolved once for each pair of max and window. */
function byMax (
  rest: Rest, max: PerRequest<number> | undefined, timeWindow: PerRequest<Duration> | undefined
): PolicyOf {
  resolvePolicy({
    ...rest,
    burst: burstWithin(rest.burst, DEFAULT_MAX),
    max: typeof max === 'function' ? Math.min(DEFAULT_MAX, largestMax(rest)) : max,
    timeWindow: typeof timeWindow === 'function' ? undefined : timeWindow
  })
  const policies = new Map<string, Policy>()
  return (request, key) => whenReady(valueFor(max ?? DEFAULT_MAX, request, key), maxNow => {
    if (maxNow === Infinity) return undefined
    return whenReady(valueFor<Duration>(timeWindow ?? DEFAULT_TIME_WINDOW, request, key), windowNow =>
      policyFor(policies, rest, maxNow, windowNow, request))
  })
}

export function burstWithin (burst: number | undefined, max: number): number | undefined {
  return typeof burst === 'number' && burst > max ? Math.max(max, 1) : burst
}

function valueFor<T> (value: PerRequest<T>, request: FastifyRequest, key: string): MaybePromise<T> {
  return typeof value === 'function'
    ? (value as (request: FastifyRequest, key: string) => MaybePromise<T>)(request, key)
    : value
}

function policyFor (
  policies: Map<string, Policy>, rest: Rest, max: number, timeWindow: Duration, request: FastifyRequest
): Policy {
  const window = parseDuration(timeWindow)
  if (!Number.isSafeInteger(max) || max < 0 || max > largestMax(rest)) {
    throw invalidResult('max', request, max, `${allowedMax(rest)}; Infinity for a caller without limits`)
  }
  if (window === undefined || window < 1) {
    throw invalidResult('timeWindow', request, timeWindow, 'milliseconds, or a string such as \'30s\'')
  }
  const name = `${max}/${window}`
  let policy = policies.get(name)
  if (policy === undefined) {
    if (policies.size >= MAX_POLICIES) policies.clear()
    policy = resolvePolicy({ ...rest, burst: burstWithin(rest.burst, max), max, timeWindow: window })
    policies.set(name, policy)
  }
  return policy
}
