import { withDeadline } from '../shared/deadline.js'
import type { Duration } from '../shared/duration.js'
import { pluginError } from '../shared/errors.js'
import { readOptions } from '../shared/options.js'

/** As in the IETF draft `draft-inadarei-api-health-check`. */
export type HealthStatus = 'pass' | 'warn' | 'fail'

export interface CheckOptions {
  /** Whether the app may get no traffic while this fails. A check that is not critical turns `fail` into `warn`. @default true */
  critical?: boolean
  /** How long the check may take before it counts as failed. @default 1000 ms */
  timeout?: Duration
  /** For how long a result is given again without asking. @default 1000 ms */
  cacheFor?: Duration
}

/** Resolves where all is well, with an observed value if there is one to tell; rejects where it is not. */
export type Check = () => unknown

export interface CheckResult {
  status: HealthStatus
  /** When it was found out, ISO 8601. */
  time: string
  /** How long it took, in milliseconds. */
  duration: number
  observedValue?: unknown
  /** Why it failed. */
  output?: string
}

export interface Checks {
  add (name: string, check: Check, options?: CheckOptions): void
  /** All checks by their names, asked now or at most their `cacheFor` ago. */
  results (): Promise<Record<string, CheckResult>>
}

const DuplicateCheckError = pluginError('health', 'DUPLICATE_CHECK', 'there is a check "%s" already')
const CheckTimeoutError = pluginError('health', 'CHECK_TIMEOUT', 'no result within %s ms', 503)

export function createChecks (): Checks {
  const checks = new Map<string, () => Promise<CheckResult>>()
  return {
    add (name, check, options = {}) {
      if (checks.has(name)) throw new DuplicateCheckError(name)
      const read = readOptions('health', options)
      read.onlyKnown(['critical', 'timeout', 'cacheFor'])
      const timeout = read.duration('timeout', 1000, { min: 1 })
      const failure = read.boolean('critical', true) ? 'fail' : 'warn'
      checks.set(name, cacheFor(read.duration('cacheFor', 1000), () => runCheck(check, timeout, failure)))
    },
    async results () {
      const entries = [...checks].map(async ([name, run]) => [name, await run()] as const)
      return Object.fromEntries(await Promise.all(entries))
    }
  }
}

/** The worst of the results. */
export function overallStatus (results: Record<string, CheckResult>): HealthStatus {
  const statuses = Object.values(results).map(result => result.status)
  if (statuses.includes('fail')) return 'fail'
  return statuses.includes('warn') ? 'warn' : 'pass'
}

async function runCheck (check: Check, timeout: number, failure: HealthStatus): Promise<CheckResult> {
  const started = performance.now()
  const outcome = await withDeadline(Promise.resolve().then(check), timeout, () => new CheckTimeoutError(timeout)).then(
    observedValue => ({ status: 'pass' as const, observedValue }),
    (error: unknown) => ({ status: failure, output: error instanceof Error ? error.message : String(error) })
  )
  return { ...outcome, time: new Date().toISOString(), duration: Math.round(performance.now() - started) }
}

/** Runs `run` at most once at a time and once in `ms`: a flood of probes costs no more than one. */
function cacheFor<T> (ms: number, run: () => Promise<T>): () => Promise<T> {
  let latest: Promise<T> | undefined
  let validUntil = Infinity
  return () => {
    if (latest === undefined || performance.now() >= validUntil) {
      validUntil = Infinity
      latest = run().finally(() => { validUntil = performance.now() + ms })
    }
    return latest
  }
}
