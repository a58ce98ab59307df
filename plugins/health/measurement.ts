import { describe } from '../shared/plugin/errors.js'

/** As in the IETF draft `draft-inadarei-api-health-check`. */
export type HealthStatus = 'pass' | 'warn' | 'fail'

/** What a check found. */
export interface Measurement {
  observedValue?: unknown
  observedUnit?: string
  /** @default 'pass' */
  status?: HealthStatus
  /** Why it is not well. */
  output?: string
  componentType?: 'component' | 'datastore' | 'system'
}

/** The draft's statuses with their synonyms (section 3.1), in which case does not matter. */
const STATUSES: Readonly<Record<string, HealthStatus>> = { pass: 'pass', ok: 'pass', up: 'pass', warn: 'warn', fail: 'fail', error: 'fail', down: 'fail' }

const several = new WeakSet<object>()

/** For a check that finds more than one thing. */
export function measurements (found: Record<string, Measurement>): Record<string, Measurement> {
  several.add(found)
  return found
}

/**
 * Reads what a check returned.
 *
 * @param ms - how long the check took: shown where it returned nothing
 * @throws where a measurement has a status that is none
 */
export function readMeasurements (name: string, value: unknown, ms: number): Record<string, Measurement> {
  if (typeof value !== 'object' || value === null || !several.has(value)) return { [name]: readOne(value, ms) }
  return Object.fromEntries(Object.entries(value as Record<string, Measurement>).map(([what, measured]) => [`${name}:${what}`, readMeasurement(what, measured)]))
}

function readOne (value: unknown, ms: number): Measurement {
  if (value === undefined) return { observedValue: Math.round(ms * 100) / 100, observedUnit: 'ms' }
  if (value === false) return { status: 'fail', output: 'the check returned false' }
  if (value instanceof Error) throw value
  if (value instanceof Response) return readResponse(value)
  const status = statusOf(value)
  return status === undefined ? { observedValue: writable(value) } : withStatus(value as Measurement, status)
}

function readMeasurement (what: string, measured: Measurement): Measurement {
  const status = measured.status === undefined ? 'pass' : statusOf(measured)
  if (status === undefined) throw new Error(`the status of measurement "${what}" is ${describe(measured.status)}; allowed: 'pass', 'warn', 'fail'`)
  return withStatus(measured, status)
}

function readResponse (response: Response): Measurement {
  // An unread body would hold the connection.
  response.body?.cancel().catch(() => {})
  const found = { observedValue: response.status, observedUnit: 'HTTP status' }
  return response.ok ? found : { ...found, status: 'fail', output: `HTTP ${response.status}` }
}

/** @returns undefined where the value states none */
function statusOf (value: unknown): HealthStatus | undefined {
  const status: unknown = typeof value === 'object' && value !== null && 'status' in value ? value.status : undefined
  const name = typeof status === 'string' ? status.toLowerCase() : ''
  return Object.hasOwn(STATUSES, name) ? STATUSES[name] : undefined
}

function withStatus (measured: Measurement, status: HealthStatus): Measurement {
  const fields = Object.entries(measured).map(([field, value]) => [field, writable(value)])
  return { ...Object.fromEntries(fields), status }
}

/** A value that JSON cannot write would fail the route. */
function writable (value: unknown): unknown {
  try {
    JSON.stringify(value)
    return value
  } catch {
    return String(value)
  }
}
