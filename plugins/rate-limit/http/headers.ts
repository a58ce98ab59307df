import type { FastifyReply } from 'fastify'
import { serializeItem, serializeList } from 'structured-headers'
import type { Decision } from '../decision.js'
import type { HeaderNames } from '../options/headers.js'
import type { Limit, Policy } from '../policy.js'

/**
 * `X-RateLimit-*` (seconds), `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers), and where
 * refused `Retry-After` (seconds, RFC 9110 §10.2.3).
 */
export function setHeaders (reply: FastifyReply, { passed, refused }: HeaderNames, policy: Policy, decision: Decision): void {
  const { allowed, limit, remaining } = decision
  const names = allowed ? passed : refused
  const reset = seconds(decision.resetAfter)
  const retryAfter = allowed ? 0 : waitInSeconds(decision)
  if (names.limit) reply.header(names.limit, limit.max)
  if (names.remaining) reply.header(names.remaining, remaining)
  if (names.reset) reply.header(names.reset, reset)
  if (names.policy) reply.header(names.policy, policyField(policy))
  // The draft wants Retry-After not to be earlier than t.
  if (names.state) reply.header(names.state, `${itemName(limit)};r=${remaining};t=${allowed ? reset : Math.min(reset, retryAfter)}`)
  if (names.retryAfter) reply.header(names.retryAfter, retryAfter)
}

/** After how many seconds a refused request passes; a window where it never will. */
export function waitInSeconds ({ retryAfter, limit }: Decision): number {
  return seconds(Number.isFinite(retryAfter) ? retryAfter : limit.window)
}

/** Rounded up: a client that waits as long as it is told must not come too early. */
function seconds (ms: number): number {
  return Math.ceil(ms / 1000)
}

const policyFields = new WeakMap<Policy, string>()

function policyField (policy: Policy): string {
  let field = policyFields.get(policy)
  if (field === undefined) {
    field = serializeList(policy.limits.map(({ name, max, window }) => [name, new Map([['q', max], ['w', seconds(window)]])]))
    policyFields.set(policy, field)
  }
  return field
}

const itemNames = new WeakMap<Limit, string>()

function itemName (limit: Limit): string {
  let name = itemNames.get(limit)
  if (name === undefined) {
    name = serializeItem([limit.name, new Map()])
    itemNames.set(limit, name)
  }
  return name
}
