import type { RouteOptions } from 'fastify'
import { invalidArgumentError, invalidOptionError } from '../../shared/plugin/errors.js'
import { readOptions } from '../../shared/plugin/option-reader.js'
import type { Decision } from '../decision.js'
import { invalidValue, requireCost, StoreUnavailableError } from '../errors.js'
import { tellDecision, type Events, type RateLimitEvents, type RateLimitListener } from '../events.js'
import type { Limiter } from '../limiter/limiter.js'
import { NAMED_POLICY_OPTIONS } from '../options/types.js'
import type { Policy } from '../policy.js'
import { resolvePolicy, type StaticPolicyOptions } from '../options/policy.js'
import { idWithin, policyScope, type Scopes } from '../limiter/scope.js'
import type { Mode } from '../store/store.js'

/** Limits by a name: what is counted under one name is apart from all others. */
export interface NamedPolicy extends StaticPolicyOptions {
  name: string
}

/** A count that belongs to no named policy: the plugin's own, a route's or a group's. */
export type CountTarget = {
  method: string
  url: string
  /** Those of the route, where several routes of one method and URL differ by them. @default all of these routes */
  constraints?: RouteOptions['constraints']
} | { groupId: string }

/** Limits what is not a route: failed logins of an account, mails to an address. */
export interface RateLimiter {
  /**
   * Takes `cost` from the policy's limits for this key, if all of them let it.
   *
   * @param cost - a whole number from 0; 1 if left out
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION`, `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`, and with
   * `onStoreError: 'closed'` `FST_REDIS_SUITE_RATE_LIMIT_STORE_UNAVAILABLE`
   */
  consume (key: string, policy: NamedPolicy, cost?: number): Promise<Decision>
  /** As `consume`, but takes nothing. */
  peek (key: string, policy: NamedPolicy, cost?: number): Promise<Decision>
  /**
   * Gives back what a `consume` took, as its decision says.
   *
   * @param cost - the cost that was taken: a whole number from 0; 1 if left out
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`, `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION`
   */
  refund (key: string, policy: NamedPolicy, decision: Decision, cost?: number): Promise<void>
  /**
   * Forgets what a key has used, its penalty and its ban: under a policy, a route's own limits (without `constraints` those of all routes of the
   * method and URL), a group, or (left out) the limits that all routes share. All instances heed it at once.
   */
  reset (key: string, target?: NamedPolicy | CountTarget): Promise<void>
  /**
   * Listens to decisions, and to what failed.
   *
   * @returns a function that ends it
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` for a listener that is no function
   */
  on <E extends keyof RateLimitEvents>(event: E, listener: RateLimitListener<E>): () => void
}

const MAX_KEPT_POLICIES = 1000

export interface RateLimiterOptions {
  limiter: Limiter
  /** Of named policies. */
  policyLimiter: Limiter
  scopes: Scopes
  events: Events
  maxLogUnits: number | undefined
}

export function createRateLimiter ({ limiter, policyLimiter, scopes, events, maxLogUnits }: RateLimiterOptions): RateLimiter {
  const policies = new Map<string, Policy>()

  function idOf (scope: string, key: unknown): string {
    requireKey(key)
    return idWithin(scope)(key)
  }

  /** Policies are often written where they are used: each is checked once, not once a call. */
  function policyOf (given: NamedPolicy): Policy {
    const text = JSON.stringify(given)
    let policy = policies.get(text)
    if (policy === undefined) {
      readOptions('rate-limit', given).onlyKnown(NAMED_POLICY_OPTIONS)
      if (typeof given.name !== 'string' || given.name === '') throw invalidOptionError('rate-limit', 'name', given.name, 'a name for the policy')
      const { name: _, ...rest } = given
      policy = resolvePolicy({ ...rest, maxLogUnits })
      if (policies.size >= MAX_KEPT_POLICIES) policies.clear()
      policies.set(text, policy)
    }
    return policy
  }

  async function ask (key: string, given: NamedPolicy, cost: number, mode: Mode): Promise<Decision> {
    requireCost(cost)
    const policy = policyOf(given)
    const scope = policyScope(given.name)
    const decision = await policyLimiter.apply(idOf(scope, key), policy, cost, mode) ?? passUnchecked(policy)
    if (mode === 'consume') tellDecision(events, decision, () => ({ request: undefined, key, scope, policy, decision, dryRun: false }))
    return decision
  }

  /** Returns the limiter that has the target's counts of a key, and their ids. */
  function countsOf (key: string, target: NamedPolicy | CountTarget | undefined): [Limiter, string[]] {
    requireKey(key)
    const within = (...names: string[]): [Limiter, string[]] => [limiter, names.map(scope => limiter.idWithin(scope)(key))]
    if (target === undefined) return within(scopes.global)
    const { name, groupId, method, url, constraints }: Partial<Record<string, unknown>> = typeof target === 'object' && target !== null ? { ...target } : {}
    if (isText(name)) return [policyLimiter, [idOf(policyScope(name), key)]]
    if (isText(groupId)) return within(scopes.group(groupId))
    if (isText(method) && isText(url)) return within(...scopes.routes({ method, url, constraints: constraints as RouteOptions['constraints'] }))
    throw invalidArgumentError('rate-limit', 'target', target, 'a policy with its name, { method, url } of a route, { groupId }, or nothing for the plugin\'s own count')
  }

  return {
    consume: (key, policy, cost = 1) => ask(key, policy, cost, 'consume'),
    peek: (key, policy, cost = 1) => ask(key, policy, cost, 'peek'),
    async refund (key, policy, decision, cost = 1) {
      requireCost(cost)
      requireDecision(decision)
      const checked = policyOf(policy)
      const id = idOf(policyScope(policy.name), key)
      if (decision.allowed) await policyLimiter.refund(id, checked, cost, decision)
    },
    async reset (key, target) {
      const [counting, ids] = countsOf(key, target)
      await Promise.all(ids.map(id => counting.reset(id)))
    },
    on: (event, listener) => events.on(event, listener)
  }
}

function isText (value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}

/** What is missing would be one key for all. */
function requireKey (key: unknown): asserts key is string {
  if (typeof key !== 'string') throw invalidValue('key', key, 'a string')
}

/** A promise that was not awaited, or a cost in its place, would give nothing back. */
function requireDecision (decision: unknown): void {
  const { allowed, time }: Partial<Record<keyof Decision, unknown>> = typeof decision === 'object' && decision !== null ? decision : {}
  if (typeof allowed !== 'boolean' || !Number.isFinite(time)) throw invalidValue('decision', decision, 'the decision that consume() resolved to')
}

/** With `onStoreError: 'open'` nothing is known of the limit, and the caller may go on. */
function passUnchecked ({ limits: [limit] }: Policy): Decision {
  if (limit === undefined) throw new StoreUnavailableError()
  return { allowed: true, banned: false, limit, remaining: limit.max, resetAfter: 0, retryAfter: 0, blockedFor: 0, time: 0, takenFrom: 'nowhere' }
}
