import type { FastifyReply } from 'fastify'
import { serializeItem, serializeList } from 'structured-headers'
import type { Decision } from '../decision.js'
import type { HeaderNames } from '../options/header-names.js'
import type { Limit, Policy } from '../policy.js'
import { retryAfterSeconds } from './retry-after.js'

/**
 * Sets `X-RateLimit-*` in seconds, `RateLimit-Policy` and `RateLimit`, and on a refusal `Retry-After` in seconds.
 *
 * @see draft-ietf-httpapi-ratelimit-headers, RFC 9110 §10.2.3
 */
export function setHeaders (reply: FastifyReply, headers: HeaderNames, policy: Policy, decision: Decision): void {
  const { allowed, limit, remaining } = decision
  const names = allowed ? headers.passed : headers.refused
  const reset = Math.ceil(decision.resetAfter / 1000)
  const retryAfter = allowed ? 0 : retryAfterSeconds(decision)
  if (names.limit) reply.header(names.limit, limit.max)
  if (names.remaining) reply.header(names.remaining, remaining)
  if (names.reset) reply.header(names.reset, reset)
  if (names.policy) reply.header(names.policy, policyFields.get(policy) ?? serializePolicy(policy))
  if (names.state) {
    // The draft forbids a Retry-After that is earlier than t.
    const t = allowed ? reset : Math.min(reset, retryAfter)
    reply.header(names.state, `${limitNames.get(limit) ?? serializeName(limit)};r=${remaining};t=${t}`)
  }
  if (names.retryAfter) reply.header(names.retryAfter, retryAfter)
}

const policyFields = new WeakMap<Policy, string>()

function serializePolicy (policy: Policy): string {
  const parameters = ({ max, window }: Limit) => new Map([['q', max], ['w', Math.ceil(window / 1000)]])
  const field = serializeList(policy.limits.map(limit => [limit.name, parameters(limit)]))
  policyFields.set(policy, field)
  return field
}

const limitNames = new WeakMap<Limit, string>()

function serializeName (limit: Limit): string {
  const name = serializeItem([limit.name, new Map()])
  limitNames.set(limit, name)
  return name
}
