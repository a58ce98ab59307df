import type { RouteOptions } from 'fastify'
import { invalidArgumentError, invalidOptionError } from '../../shared/plugin/errors.js'
import type { Clock } from '../../shared/plugin/clock.js'
import { checkNames, resolveOptions } from '../../shared/plugin/option-table.js'
import { outcomeOf, type Decision, type Mode } from '../decision.js'
import { invalidValue, requireCost, StoreUnavailableError } from '../errors.js'
import type { RateLimitEmitter, RateLimitEvents, RateLimitListener } from '../events.js'
import { policyScope, type Scopes } from '../http/scopes.js'
import { idWithin, type Limiter } from '../limiter/limiter.js'
import { NAMED_POLICY_OPTIONS, resolvePolicy, type StaticPolicyOptions } from '../options/policy.js'
import type { Policy } from '../policy.js'
import { createHold, HOLD_OPTIONS, type Hold, type HoldOptions } from './holds.js'

/** Limits under a name: policies of different names are counted separately. */
export interface NamedPolicy extends StaticPolicyOptions {
  name: string
}

/** A count that belongs to no named policy: the plugin's own, a route's or a group's. */
export type CountTarget = {
  method: string
  url: string
  /** The route's constraints. @default all routes of the method and URL */
  constraints?: RouteOptions['constraints']
} | { groupId: string }

/** Limits what is not a route, such as failed logins of an account, or mails to an address. */
export interface RateLimiter {
  /**
   * Takes `cost` from the policy's limits for this key, if all of them allow it.
   *
   * @example
   * const decision = await fastify.rateLimiter.consume(account, { name: 'logins', max: 5, timeWindow: '15 minutes' })
   * if (!decision.allowed) throw new Error(`retry in ${decision.retryAfter} ms`)
   *
   * @param cost - a whole number ≥ 0. @default 1
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION`, `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`, and with
   * `onStoreError: 'closed'` `FST_REDIS_SUITE_RATE_LIMIT_STORE_UNAVAILABLE`
   */
  consume (key: string, policy: NamedPolicy, cost?: number): Promise<Decision>
  /** Returns what `consume` would return, and takes nothing. */
  peek (key: string, policy: NamedPolicy, cost?: number): Promise<Decision>
  /**
   * Refunds what a `consume` took, as its decision says.
   *
   * @param cost - the cost that was taken, a whole number ≥ 0. @default 1
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_VALUE`, `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION`
   */
  refund (key: string, policy: NamedPolicy, decision: Decision, cost?: number): Promise<void>
  /**
   * Takes an estimate for a cost that is known only later, such as the tokens of a language model. The hold that it
   * returns is settled to the actual cost.
   *
   * @example
   * const hold = await fastify.rateLimiter.reserve(user, { name: 'tokens', max: 100_000, timeWindow: '1 day' }, 2000)
   * if (!hold.allowed) throw new Error('no tokens left')
   * await hold.settle(await answer(prompt))
   *
   * @param estimate - a whole number ≥ 0
   * @throws as `consume`
   */
  reserve (key: string, policy: NamedPolicy, estimate: number, options?: HoldOptions): Promise<Hold>
  /**
   * Deletes what a key has used, its penalty and its ban, on all instances at once.
   *
   * @param target - a policy, the limits of a route (without `constraints` of all routes of the method and URL), or a
   * group. @default the limits that all routes share
   */
  reset (key: string, target?: NamedPolicy | CountTarget): Promise<void>
  /**
   * Listens to decisions, or to failures of the store.
   *
   * @returns a function that removes the listener
   * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` for a listener that is not a function
   */
  on <E extends keyof RateLimitEvents>(event: E, listener: RateLimitListener<E>): () => void
}

const MAX_CACHED_POLICIES = 1000

const TARGET_ALLOWED = 'a policy with its name, { method, url } of a route, { groupId }, ' +
  'or nothing for the plugin\'s own count'

/** @param policyLimiter - decides by named policies; `limiter` has all other counts */
export function createRateLimiter (
  limiter: Limiter, policyLimiter: Limiter, scopes: Scopes, events: RateLimitEmitter,
  { maxLogUnits, clock }: { maxLogUnits: number | undefined, clock: Clock }
): RateLimiter {
  const policies = new Map<string, Policy>()

  /** Policies are often written as literals at the call, so each text is resolved once. */
  function policyOf (given: NamedPolicy): Policy {
    const text = JSON.stringify(given)
    let policy = policies.get(text)
    if (policy === undefined) {
      checkNames('rate-limit', NAMED_POLICY_OPTIONS, given)
      if (!isText(given.name)) throw invalidOptionError('rate-limit', 'name', given.name, 'a name for the policy')
      const { name: _, ...rest } = given
      policy = resolvePolicy({ ...rest, maxLogUnits })
      if (policies.size >= MAX_CACHED_POLICIES) policies.clear()
      policies.set(text, policy)
    }
    return policy
  }

  async function decideOn (key: string, given: NamedPolicy, cost: number, mode: Mode): Promise<Decision> {
    requireCost(cost)
    const policy = policyOf(given)
    const scope = policyScope(given.name)
    const decision = await policyLimiter.apply(idOf(scope, key), policy, cost, mode) ?? passUnchecked(policy)
    const outcome = outcomeOf(decision)
    if (mode === 'consume' && events.hasListeners(outcome)) {
      events.emit(outcome, { request: undefined, key, scope, policy, decision, dryRun: false })
    }
    return decision
  }

  async function resetScopes (key: string, ...names: string[]): Promise<void> {
    await Promise.all(names.map(scope => limiter.reset(limiter.idWithin(scope)(key))))
  }

  return {
    consume: (key, policy, cost = 1) => decideOn(key, policy, cost, 'consume'),
    peek: (key, policy, cost = 1) => decideOn(key, policy, cost, 'peek'),
    async reserve (key, given, estimate, holdOptions = {}) {
      const options = resolveOptions('rate-limit', HOLD_OPTIONS, holdOptions)
      requireCost(estimate, 'estimate')
      const decision = await decideOn(key, given, estimate, 'consume')
      const id = idOf(policyScope(given.name), key)
      return createHold({ limiter: policyLimiter, clock, id, policy: policyOf(given), estimate, decision, options })
    },
    async refund (key, policy, decision, cost = 1) {
      requireCost(cost)
      requireDecision(decision)
      const resolved = policyOf(policy)
      const id = idOf(policyScope(policy.name), key)
      if (decision.allowed) await policyLimiter.refund(id, resolved, cost, decision)
    },
    async reset (key, target) {
      requireKey(key)
      if (target === undefined) return await resetScopes(key, scopes.global)
      const { name, groupId, method, url, constraints } = fieldsOf(target)
      if (isText(name)) return await policyLimiter.reset(idOf(policyScope(name), key))
      if (isText(groupId)) return await resetScopes(key, scopes.group(groupId))
      if (isText(method) && isText(url)) {
        const route = { method, url, constraints: constraints as RouteOptions['constraints'] }
        return await resetScopes(key, ...scopes.ofRoutes(route))
      }
      throw invalidArgumentError('rate-limit', 'target', target, TARGET_ALLOWED)
    },
    on: (event, listener) => events.on(event, listener)
  }
}

function idOf (scope: string, key: unknown): string {
  requireKey(key)
  return idWithin(scope)(key)
}

function fieldsOf (value: unknown): Partial<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? { ...value } : {}
}

function isText (value: unknown): value is string {
  return typeof value === 'string' && value !== ''
}

/** Keys that are missing would share one count. */
function requireKey (key: unknown): asserts key is string {
  if (typeof key !== 'string') throw invalidValue('key', key, 'a string')
}

/** A promise that was not awaited, or a cost in place of the decision, would refund nothing. */
function requireDecision (decision: unknown): void {
  const { allowed, time } = fieldsOf(decision)
  if (typeof allowed === 'boolean' && Number.isFinite(time)) return
  throw invalidValue('decision', decision, 'the decision that consume() resolved to')
}

/** Returns the decision of `onStoreError: 'open'` while the store fails. The state of the limit is unknown. */
function passUnchecked ({ limits: [limit] }: Policy): Decision {
  if (limit === undefined) throw new StoreUnavailableError()
  const waits = { resetAfter: 0, retryAfter: 0, blockedFor: 0 }
  return { allowed: true, banned: false, limit, remaining: limit.max, ...waits, time: 0, takenFrom: 'nowhere' }
}
