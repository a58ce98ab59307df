import type { Clock } from '../shared/plugin/clock.js'
import type { Duration } from '../shared/plugin/duration.js'
import { invalidArgumentError, pluginError, reasonOf } from '../shared/plugin/errors.js'
import { boolean, duration } from '../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable } from '../shared/plugin/option-table.js'
import type { Milliseconds } from '../shared/plugin/units.js'
import { withDeadline } from '../shared/redis/deadline.js'
import { readMeasurements, type HealthStatus, type Measurement } from './measurement.js'

export interface CheckOptions {
  /** Whether readiness fails with this check. A check that is not critical turns `fail` into `warn`. @default true */
  critical?: boolean | undefined
  /** How long the check may take before it counts as failed. @default 1000 ms */
  timeout?: Duration | undefined
  /** How long a result is reused without running the check again. @default 1000 ms */
  cacheFor?: Duration | undefined
}

/**
 * Checks one thing. The value that it returns, or resolves to, is its result:
 *
 * - nothing, or any other value, which the details show as `observedValue`: pass
 * - `false`, an `Error`, or a throw: fail
 * - an object with the `status` `pass`, `warn` or `fail` (or a synonym of the draft: `ok`, `up`, `error`, `down`), and
 *   optionally `observedValue`, `observedUnit` and `output`: that status
 * - a `Response` of `fetch`: pass if it is `ok`, else fail
 * - {@link measurements}: several of these by name
 */
export type Check = () => unknown

export interface CheckResult extends Measurement {
  status: HealthStatus
  /** When the check ran, in ISO 8601. */
  time: string
}

/** Results by `{check}` or `{check}:{measurement}`; each is a list, as the IETF draft requires. */
export type CheckResults = Record<string, CheckResult[]>

export interface Checks {
  add (name: string, check: Check, options?: CheckOptions): void
  /** Runs all checks, or returns results that are not older than `cacheFor`. */
  results (): Promise<CheckResults>
}

export const CHECK_OPTIONS = {
  critical: boolean(true),
  timeout: duration(1000, { min: 1 }),
  cacheFor: duration(1000)
} satisfies OptionTable<CheckOptions>

const NAME = /^[\w.-]{1,64}$/
const DuplicateCheckError = pluginError('health', 'DUPLICATE_CHECK', 'a check "%s" exists already; choose another name')
const CheckTimeoutError = pluginError('health', 'CHECK_TIMEOUT', 'no result within %s ms', 503)

export function createChecks (clock: Clock): Checks {
  const checks = new Map<string, () => Promise<CheckResults>>()
  return {
    add (name, check, options = {}) {
      if (typeof name !== 'string' || !NAME.test(name)) {
        throw invalidArgumentError('health', 'name', name, 'up to 64 letters, digits and . _ -')
      }
      if (typeof check !== 'function') throw invalidArgumentError('health', 'check', check, 'a function')
      if (checks.has(name)) throw new DuplicateCheckError(name)
      const { timeout, critical, cacheFor } = resolveOptions('health', CHECK_OPTIONS, options)
      checks.set(name, cached(cacheFor, clock, () => runCheck(name, check, timeout, critical, clock)))
    },
    async results () {
      return Object.assign({}, ...await Promise.all([...checks.values()].map(run => run())))
    }
  }
}

/** Returns the worst status of the results. */
export function overallStatus (results: CheckResults): HealthStatus {
  const statuses = Object.values(results).flat().map(result => result.status)
  if (statuses.includes('fail')) return 'fail'
  return statuses.includes('warn') ? 'warn' : 'pass'
}

async function runCheck (
  name: string, check: Check, timeout: number, isCritical: boolean, clock: Clock
): Promise<CheckResults> {
  const startedAt = clock.monotonic()
  const found = await withDeadline(
    Promise.resolve().then(check), timeout, () => new CheckTimeoutError(timeout), clock
  ).then(
    value => readMeasurements(name, value, clock.monotonic() - startedAt)
  ).catch((error: unknown): Record<string, Measurement> => ({ [name]: { status: 'fail', output: reasonOf(error) } }))
  const time = new Date(clock.now()).toISOString()
  return Object.fromEntries(Object.entries(found).map(([key, measured]) => {
    const { status = 'pass' } = measured
    return [key, [{ ...measured, status: status === 'fail' && !isCritical ? 'warn' : status, time }]]
  }))
}

/** Runs `run` at most once at a time, and reuses its result for `ms`: a flood of probes costs one run. */
function cached<T> (ms: Milliseconds, clock: Clock, run: () => Promise<T>): () => Promise<T> {
  let latest: Promise<T> | undefined
  let validUntil = Infinity
  return () => {
    if (latest === undefined || clock.monotonic() >= validUntil) {
      validUntil = Infinity
      latest = run().finally(() => { validUntil = clock.monotonic() + ms })
    }
    return latest
  }
}
