import { describe } from '../shared/plugin/errors.js'
import type { Milliseconds } from '../shared/plugin/units.js'

/** @see https://datatracker.ietf.org/doc/html/draft-inadarei-api-health-check-06#section-3.1 */
export type HealthStatus = 'pass' | 'warn' | 'fail'

/** A result of a check. */
export interface Measurement {
  observedValue?: unknown
  observedUnit?: string
  /** @default 'pass' */
  status?: HealthStatus
  /** Why the status is not `pass`. */
  output?: string
  componentType?: 'component' | 'datastore' | 'system'
}

/** The draft's statuses and their synonyms (section 3.1). They are case-insensitive. */
const STATUSES: Readonly<Record<string, HealthStatus>> = {
  pass: 'pass', ok: 'pass', up: 'pass', warn: 'warn', fail: 'fail', error: 'fail', down: 'fail'
}

const several = new WeakSet<object>()

/**
 * Marks an object as several measurements of one check, by name.
 *
 * @example
 * app.health.addCheck('queue', async () => measurements({
 *   length: { observedValue: await queue.length() },
 *   workers: { observedValue: await queue.workers() }
 * }))
 */
export function measurements (byName: Record<string, Measurement>): Record<string, Measurement> {
  several.add(byName)
  return byName
}

/**
 * Returns the measurements of a check's result.
 *
 * @param ms - the duration of the check, which is shown if it returned nothing
 * @throws if a measurement has an unknown status
 */
export function readMeasurements (name: string, value: unknown, ms: Milliseconds): Record<string, Measurement> {
  if (typeof value !== 'object' || value === null || !several.has(value)) return { [name]: readOne(value, ms) }
  return Object.fromEntries(
    Object.entries(value as Record<string, Measurement>).map(([what, measured]) =>
      [`${name}:${what}`, readMeasurement(what, measured)])
  )
}

function readOne (value: unknown, ms: Milliseconds): Measurement {
  if (value === undefined) return { observedValue: Math.round(ms * 100) / 100, observedUnit: 'ms' }
  if (value === false) return { status: 'fail', output: 'the check returned false' }
  if (value instanceof Error) throw value
  if (value instanceof Response) return readResponse(value)
  const status = statusOf(value)
  return status === undefined ? { observedValue: serializable(value) } : withStatus(value as Measurement, status)
}

function readMeasurement (what: string, measured: Measurement): Measurement {
  const status = measured.status === undefined ? 'pass' : statusOf(measured)
  if (status === undefined) {
    throw new Error(
      `the status of measurement "${what}" is ${describe(measured.status)}; allowed: 'pass', 'warn', 'fail'`
    )
  }
  return withStatus(measured, status)
}

function readResponse (response: Response): Measurement {
  // An unread body would hold the connection.
  response.body?.cancel().catch(() => {})
  const observed = { observedValue: response.status, observedUnit: 'HTTP status' }
  return response.ok ? observed : { ...observed, status: 'fail', output: `HTTP ${response.status}` }
}

/** @returns undefined if the value has no known status */
function statusOf (value: unknown): HealthStatus | undefined {
  const status: unknown = typeof value === 'object' && value !== null && 'status' in value ? value.status : undefined
  const name = typeof status === 'string' ? status.toLowerCase() : ''
  return Object.hasOwn(STATUSES, name) ? STATUSES[name] : undefined
}

function withStatus (measured: Measurement, status: HealthStatus): Measurement {
  const fields = Object.entries(measured).map(([field, value]) => [field, serializable(value)])
  return { ...Object.fromEntries(fields), status }
}

/** Returns the value as a string if JSON cannot serialize it, which would fail the route. */
function serializable (value: unknown): unknown {
  try {
    JSON.stringify(value)
    return value
  } catch {
    return String(value)
  }
}
