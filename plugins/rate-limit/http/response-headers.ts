import type { FastifyReply } from 'fastify'
import { serializeItem, serializeList } from 'structured-headers'
import type { Decision } from '../decision.js'
import type { HeaderNames } from '../options/headers.js'
import type { Limit, Policy } from '../policy.js'

/**
 * Sets `X-RateLimit-*` in seconds, `RateLimit-Policy` and `RateLimit`, and on a refusal `Retry-After` in seconds.
 *
 * @see draft-ietf-httpapi-ratelimit-headers, RFC 9110 §10.2.3
 */
export function setHeaders (reply: FastifyReply, { passed, refused }: HeaderNames, policy: Policy, decision: Decision): void {
  const { allowed, limit, remaining } = decision
  const names = allowed ? passed : refused
  const reset = Math.ceil(decision.resetAfter / 1000)
  const retryAfter = allowed ? 0 : retryAfterSeconds(decision)
  if (names.limit) reply.header(names.limit, limit.max)
  if (names.remaining) reply.header(names.remaining, remaining)
  if (names.reset) reply.header(names.reset, reset)
  if (names.policy) reply.header(names.policy, policyFields.get(policy) ?? serializePolicy(policy))
  // The draft forbids a Retry-After that is earlier than t.
  if (names.state) reply.header(names.state, `${limitNames.get(limit) ?? serializeName(limit)};r=${remaining};t=${allowed ? reset : Math.min(reset, retryAfter)}`)
  if (names.retryAfter) reply.header(names.retryAfter, retryAfter)
}

/**
 * Returns the seconds until a refused request passes; a window where it never will. They are rounded up, as a client that
 * waits for as long as the header says must not come too early.
 */
export function retryAfterSeconds ({ retryAfter, limit }: Decision): number {
  return Math.ceil((Number.isFinite(retryAfter) ? retryAfter : limit.window) / 1000)
}

const policyFields = new WeakMap<Policy, string>()

function serializePolicy (policy: Policy): string {
  const field = serializeList(policy.limits.map(({ name, max, window }) => [name, new Map([['q', max], ['w', Math.ceil(window / 1000)]])]))
  policyFields.set(policy, field)
  return field
}

const limitNames = new WeakMap<Limit, string>()

function serializeName (limit: Limit): string {
  const name = serializeItem([limit.name, new Map()])
  limitNames.set(limit, name)
  return name
}
