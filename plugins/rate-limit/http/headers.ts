import type { FastifyReply } from 'fastify'
import { serializeItem, serializeList } from 'structured-headers'
import { invalidOptionError, unknownOptionError } from '../../shared/plugin/errors.js'
import type { OptionReader } from '../../shared/plugin/option-reader.js'
import type { Decision } from '../decision.js'
import type { RouteRateLimitOptions } from '../options/types.js'
import type { Limit, Policy } from '../policy.js'

/** The names of the fields to send; undefined where one is turned off. */
interface FieldNames {
  limit: string | undefined
  remaining: string | undefined
  reset: string | undefined
  retryAfter: string | undefined
  policy: string | undefined
  state: string | undefined
}

export interface HeaderNames {
  passed: FieldNames
  refused: FieldNames
}

export function resolveHeaders (given: RouteRateLimitOptions, read: OptionReader): HeaderNames {
  const prefix = read.boolean('enableDraftSpec', false) ? 'ratelimit-' : 'x-ratelimit-'
  const names: FieldNames = {
    limit: `${prefix}limit`,
    remaining: `${prefix}remaining`,
    reset: `${prefix}reset`,
    retryAfter: 'retry-after',
    policy: 'ratelimit-policy',
    state: 'ratelimit'
  }
  const known = [...new Set([...Object.values(names), 'x-ratelimit-limit', 'x-ratelimit-remaining', 'x-ratelimit-reset',
    'ratelimit-limit', 'ratelimit-remaining', 'ratelimit-reset'])]
  const select = (option: 'addHeaders' | 'addHeadersOnExceeding'): FieldNames => {
    const shown: unknown = given[option] ?? {}
    if (typeof shown !== 'object' || shown === null) return read.fail(option, '{ "header-name": true or false }')
    for (const [name, value] of Object.entries(shown)) {
      if (!known.includes(name)) throw unknownOptionError('rate-limit', name, known, 'header')
      if (typeof value !== 'boolean') throw invalidOptionError('rate-limit', `${option}.${name}`, value, 'true or false')
    }
    const isShown = (name: string | undefined) => name !== undefined && Reflect.get(shown, name) !== false ? name : undefined
    return {
      limit: isShown(names.limit),
      remaining: isShown(names.remaining),
      reset: isShown(names.reset),
      retryAfter: isShown(names.retryAfter),
      policy: isShown(names.policy),
      state: isShown(names.state)
    }
  }
  return { passed: { ...select('addHeadersOnExceeding'), retryAfter: undefined }, refused: select('addHeaders') }
}

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
