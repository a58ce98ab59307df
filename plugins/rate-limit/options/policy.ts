import { format } from '@lukeed/ms'
import { parseDuration, type Duration } from '../../shared/plugin/duration.js'
import {
  boolean, duration, integer, oneOf, option, required, string, unchecked, withDefault
} from '../../shared/plugin/option-kinds.js'
import {
  checkNames, readOption, readOptions, refuseOption, resolveOptions, type OptionTable, type Resolved
} from '../../shared/plugin/option-table.js'
import type { Milliseconds } from '../../shared/plugin/units.js'
import { ALGORITHMS, longestWindow, type Limit, type Penalty, type Policy } from '../policy.js'
import type { ExponentialBackoffOptions, LimitOptions, PolicyOptions } from './types.js'

export const DEFAULT_MAX = 1000
export const DEFAULT_TIME_WINDOW = '1 minute'
export const LARGEST_MAX = 10_000_000
// A decision on such a log takes Redis a few milliseconds at most, and one of 10,000,000 units more than a second.
export const DEFAULT_MAX_LOG_UNITS = 100_000

export interface StaticPolicyOptions extends PolicyOptions {
  max?: number | undefined
  timeWindow?: Duration | undefined
}

export interface BoundedPolicyOptions extends StaticPolicyOptions {
  /** The plugin's option. @default 100_000 */
  maxLogUnits?: number | undefined
}

const ANY_LENGTH = { min: 1, max: Number.MAX_VALUE }

const BACKOFF_OPTIONS = {
  base: required(duration(undefined, { min: 1 })),
  cap: required(duration()),
  memory: duration(undefined, { max: Number.MAX_VALUE })
} satisfies OptionTable<ExponentialBackoffOptions>

export const POLICY_OPTIONS = {
  limits: unchecked('1 to 10 of `{ max, timeWindow, name?, burst? }`'),
  algorithm: oneOf('sliding-log', ALGORITHMS),
  burst: unchecked('integer', '`max`'),
  countRejected: boolean(false),
  continueExceeding: boolean(false),
  exponentialBackoff: option({
    type: 'boolean or `{ base, cap, memory? }`',
    allowed: 'true, false or { base, cap, memory }',
    fallback: false,
    nullIsDefault: true,
    parse (given) {
      if (typeof given === 'boolean') return given
      if (typeof given !== 'object' || given === null) return undefined
      const { base, memory } = resolveOptions('rate-limit', BACKOFF_OPTIONS, given)
      return { base, cap: readOption('rate-limit', 'cap', duration(undefined, { min: base }), given) ?? base, memory }
    }
  }),
  ban: integer(-1, { min: -1 }),
  banDuration: withDefault(duration(undefined, ANY_LENGTH), 'the longest window')
} satisfies OptionTable<PolicyOptions>

/** The options of a policy of `fastify.rateLimiter`. */
export const NAMED_POLICY_OPTIONS = { name: string(), max: integer(), timeWindow: duration(), ...POLICY_OPTIONS }

const SINGLE_LIMIT_OPTIONS = {
  max: integer(DEFAULT_MAX, { max: LARGEST_MAX }),
  timeWindow: duration(DEFAULT_TIME_WINDOW, ANY_LENGTH),
  name: string(undefined, '1 to 64 printable ASCII characters', /^[\x20-\x7e]{1,64}$/)
}

const LIMIT_OPTIONS = { ...SINGLE_LIMIT_OPTIONS, burst: integer() } satisfies OptionTable<LimitOptions>

/** @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` */
export function resolvePolicy (given: BoundedPolicyOptions): Policy {
  const { limits: _, burst, ...options } = readOptions('rate-limit', POLICY_OPTIONS, given)
  const { algorithm, countRejected, ban } = options
  if (algorithm !== 'gcra' && burst !== undefined) {
    refuseOption('rate-limit', given, 'burst', 'left out without the algorithm \'gcra\'')
  }
  const limits = given.limits === undefined ? [resolveLimit(given, 'default')] : resolveLimits(given)
  if (limits.some(({ max }) => max > largestMax(given))) {
    refuseOption(
      'rate-limit', given, given.limits === undefined ? 'max' : 'limits', `a "max" that is ${allowedMax(given)}`
    )
  }
  const window = longestWindow(limits)
  if (options.continueExceeding && typeof options.exponentialBackoff === 'object') {
    refuseOption('rate-limit', given, 'exponentialBackoff', 'true or left out beside continueExceeding')
  }
  return {
    limits,
    algorithm,
    countRejected,
    penalty: penaltyOf(options, window),
    ban,
    banDuration: options.banDuration ?? window
  }
}

/** A log stores the time of each unit; the other algorithms store a few numbers. */
export function largestMax (
  { algorithm = 'sliding-log', maxLogUnits = DEFAULT_MAX_LOG_UNITS }: BoundedPolicyOptions
): number {
  return algorithm === 'sliding-log' ? maxLogUnits : LARGEST_MAX
}

/** Describes the allowed values of `max`, and what to do where a larger one is needed. */
export function allowedMax (given: BoundedPolicyOptions): string {
  const range = `a whole number from 0 to ${largestMax(given)}`
  const isLog = (given.algorithm ?? 'sliding-log') === 'sliding-log'
  return isLog
    ? `${range} with the algorithm 'sliding-log'; for a larger one set algorithm: 'sliding-counter', or raise ` +
      '"maxLogUnits"'
    : range
}

function resolveLimits (given: StaticPolicyOptions): Limit[] {
  if (given.max !== undefined || given.timeWindow !== undefined) {
    refuseOption('rate-limit', given, 'limits', 'left out beside "max" and "timeWindow"')
  }
  const limits: unknown = given.limits
  if (!Array.isArray(limits) || limits.length === 0 || limits.length > 10) {
    return refuseOption('rate-limit', given, 'limits', 'a list of 1 to 10 limits')
  }
  return limits.map((limit: LimitOptions) => {
    if (typeof limit !== 'object' || limit === null || limit.max === undefined || limit.timeWindow === undefined) {
      return refuseOption('rate-limit', given, 'limits', 'a list of objects with "max" and "timeWindow"')
    }
    checkNames('rate-limit', LIMIT_OPTIONS, limit)
    return resolveLimit(limit, format(parseDuration(limit.timeWindow) ?? 0))
  })
}

function resolveLimit (given: Pick<StaticPolicyOptions, 'max' | 'timeWindow' | 'burst'>, defaultName: string): Limit {
  const { name = defaultName, max, timeWindow } = readOptions('rate-limit', SINGLE_LIMIT_OPTIONS, given)
  const burst = integer(max, { min: Math.min(1, max), max: Math.max(max, 1) })
  return { name, max, window: timeWindow, burst: readOption('rate-limit', 'burst', burst, given) }
}

/** Resolves both ways to lengthen a refusal to one: a base, which is doubled up to a cap. */
function penaltyOf (
  options: Pick<Resolved<typeof POLICY_OPTIONS>, 'continueExceeding' | 'exponentialBackoff'>, window: Milliseconds
): Penalty | undefined {
  const { continueExceeding, exponentialBackoff } = options
  if (typeof exponentialBackoff === 'object') {
    return { ...exponentialBackoff, memory: exponentialBackoff.memory ?? window }
  }
  if (continueExceeding) return { base: window, cap: window, memory: 0 }
  return exponentialBackoff ? { base: window, cap: Number.MAX_SAFE_INTEGER, memory: 0 } : undefined
}
