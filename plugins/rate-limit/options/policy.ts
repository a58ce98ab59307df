import { format } from '@lukeed/ms'
import type { Duration } from '../../shared/plugin/duration.js'
import { parseDuration } from '../../shared/plugin/duration.js'
import { invalidOptionError } from '../../shared/plugin/errors.js'
import { readOptions, type OptionReader } from '../../shared/plugin/option-reader.js'
import type { LimitOptions, PolicyOptions } from './types.js'
import { ALGORITHMS, longestWindow, type Limit, type Penalty, type Policy } from '../policy.js'

export const DEFAULT_MAX = 1000
export const DEFAULT_TIME_WINDOW = '1 minute'
export const LARGEST_MAX = 10_000_000
// A decision on such a log takes Redis a few milliseconds at most, and one of 10,000,000 units more than a second.
const DEFAULT_MAX_LOG_UNITS = 100_000

export interface StaticPolicyOptions extends PolicyOptions {
  max?: number | undefined
  timeWindow?: Duration | undefined
}

export interface BoundedPolicyOptions extends StaticPolicyOptions {
  /** Of the plugin. @default 100000 */
  maxLogUnits?: number | undefined
}

/** @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` */
export function resolvePolicy (given: BoundedPolicyOptions): Policy {
  const read = readOptions('rate-limit', given)
  const algorithm = read.oneOf('algorithm', 'sliding-log', ALGORITHMS)
  if (algorithm !== 'gcra' && given.burst !== undefined) read.fail('burst', 'a burst goes with the algorithm \'gcra\'')
  const limits = given.limits === undefined ? [resolveLimit(given, 'default')] : resolveLimits(given, read)
  if (limits.some(({ max }) => max > largestMax(given))) read.fail(given.limits === undefined ? 'max' : 'limits', `a "max" that is ${allowedMax(given)}`)
  const window = longestWindow(limits)
  return {
    limits,
    algorithm,
    countRejected: read.boolean('countRejected', false),
    penalty: resolvePenalty(given, read, window),
    ban: read.integer('ban', -1, { min: -1 }),
    banDuration: read.duration('banDuration', window, { min: 1, max: Number.MAX_VALUE })
  }
}

/** A log has a slot of its own for each unit; the other algorithms keep a few numbers. */
export function largestMax ({ algorithm = 'sliding-log', maxLogUnits = DEFAULT_MAX_LOG_UNITS }: BoundedPolicyOptions): number {
  return algorithm === 'sliding-log' ? maxLogUnits : LARGEST_MAX
}

/** Describes the allowed values of `max`, and what to do where a larger one is needed. */
export function allowedMax (given: BoundedPolicyOptions): string {
  const range = `a whole number from 0 to ${largestMax(given)}`
  const isLog = (given.algorithm ?? 'sliding-log') === 'sliding-log'
  return isLog ? `${range} with the algorithm 'sliding-log'; for a larger one set algorithm: 'sliding-counter', or raise "maxLogUnits"` : range
}

function resolveLimits (given: StaticPolicyOptions, read: OptionReader): Limit[] {
  if (given.max !== undefined || given.timeWindow !== undefined) read.fail('limits', '"limits", or "max" and "timeWindow", not both')
  const limits: unknown = given.limits
  if (!Array.isArray(limits) || limits.length === 0 || limits.length > 10) return read.fail('limits', 'a list of 1 to 10 limits')
  return limits.map((limit: LimitOptions) => {
    if (typeof limit !== 'object' || limit === null || limit.max === undefined || limit.timeWindow === undefined) {
      return read.fail('limits', 'each limit is an object with "max" and "timeWindow"')
    }
    readOptions('rate-limit', limit).onlyKnown(['max', 'timeWindow', 'name', 'burst'])
    return resolveLimit(limit, format(parseDuration(limit.timeWindow) ?? 0))
  })
}

function resolveLimit (given: Pick<StaticPolicyOptions, 'max' | 'timeWindow' | 'burst'> & { name?: string }, defaultName: string): Limit {
  const read = readOptions('rate-limit', given)
  const max = read.integer('max', DEFAULT_MAX, { max: LARGEST_MAX })
  const name = read.string('name', defaultName)
  if (!/^[\x20-\x7e]{1,64}$/.test(name)) read.fail('name', '1 to 64 printable ASCII characters')
  return {
    name,
    max,
    window: read.duration('timeWindow', DEFAULT_TIME_WINDOW, { min: 1, max: Number.MAX_VALUE }),
    burst: read.integer('burst', max, { min: Math.min(1, max), max: Math.max(max, 1) })
  }
}

/** All three ways to lengthen a refusal are one: a base, a doubling, a cap. */
function resolvePenalty (given: StaticPolicyOptions, read: OptionReader, window: number): Penalty | undefined {
  const { penalty } = given
  const continueExceeding = read.boolean('continueExceeding', false)
  const exponentialBackoff = read.boolean('exponentialBackoff', false)
  if (penalty !== undefined) {
    if (continueExceeding || exponentialBackoff) read.fail('penalty', 'one of penalty, continueExceeding and exponentialBackoff')
    if (typeof penalty !== 'object' || penalty === null) read.fail('penalty', '{ base, cap, memory }')
    const readPenalty = readOptions('rate-limit', penalty)
    readPenalty.onlyKnown(['base', 'cap', 'memory'])
    if (penalty.base === undefined || penalty.cap === undefined) {
      throw invalidOptionError('rate-limit', 'penalty', penalty, '{ base, cap }, both durations')
    }
    const base = readPenalty.duration('base', 0, { min: 1 })
    return { base, cap: readPenalty.duration('cap', 0, { min: base }), memory: readPenalty.duration('memory', window, { max: Number.MAX_VALUE }) }
  }
  if (continueExceeding) return { base: window, cap: window, memory: 0 }
  return exponentialBackoff ? { base: window, cap: Number.MAX_SAFE_INTEGER, memory: 0 } : undefined
}
