import type { LogLevel } from 'fastify'
import { Registry } from 'prom-client'
import { ACCESS_RULE_ALLOWED, accessCheckOf, isAccessRule, LOG_LEVELS, type AccessRule, type AccessCheck } from '../shared/http/access-rule.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { readOptions, type OptionReader } from '../shared/plugin/option-reader.js'
import { UNMATCHED } from './names.js'

/** Who may read: everyone, no one, clients on this machine, or the requests that a function allows. */
export type ExposeOption = AccessRule

export interface MetricsPluginOptions {
  /** Of the route; `false`: there is none, and the registry is read some other way. @default '/metrics' */
  path?: string | false | undefined
  /** Who may read the route. Others get 404. @default 'loopback' */
  expose?: ExposeOption | undefined
  /** What the names of the suite's own metrics begin with; `http_request_duration_seconds` has none. @default 'fastify_' */
  prefix?: string | undefined
  /** What the metrics are put in; other metrics in it are told as well. @default a new one */
  registry?: Registry | undefined
  /** Whether the process is told of: CPU, memory, event loop, garbage collection. @default true */
  defaultMetrics?: boolean | undefined
  /** Whether requests are timed. @default true */
  http?: boolean | undefined
  /**
   * Routes whose requests are not timed, by the URL with which they are registered, prefix included: `'/health/live'`; or by its beginning
   * and `*`: `'/health*'`. `'unmatched'` stands for requests that no route matches. @default none
   */
  exclude?: readonly string[] | undefined
  /** Upper bounds of `http_request_duration_seconds`, in seconds. @default from 1 ms to 10 s */
  buckets?: readonly number[] | undefined
  /** Upper bounds of `redis_command_duration_seconds`, in seconds. @default from 100 µs to 1 s */
  redisBuckets?: readonly number[] | undefined
  /** Labels of all metrics of the registry. @default none */
  labels?: Readonly<Record<string, string>> | undefined
  /** How many routes, names of the cache, scopes of limits, streams and groups are told by themselves; all others are `other`. @default 200 */
  maxRoutes?: number | undefined
  /** How long a scrape waits for what has to be asked. @default 2000 ms */
  timeout?: Duration | undefined
  /** Whether what the suite does within a traced request has spans. @default false */
  tracing?: boolean | undefined
  /** Of the route, as scrapes fill a log. @default 'warn' */
  logLevel?: LogLevel | undefined
  /** The clock for `timeout` and the durations of commands, not for requests: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

export interface ResolvedMetricsOptions {
  /** Undefined: there is no route. */
  path: string | undefined
  mayRead: AccessCheck
  /** Whether the option `expose` was left out. */
  isClosedByDefault: boolean
  prefix: string
  registry: Registry | undefined
  defaultMetrics: boolean
  http: boolean
  /** Whether the requests of a route, by its URL, are left out. */
  isExcluded: (url: string) => boolean
  buckets: number[]
  redisBuckets: number[]
  labels: Readonly<Record<string, string>>
  maxRoutes: number
  timeout: number
  tracing: boolean
  logLevel: LogLevel
  clock: Clock
}

const BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
const REDIS_BUCKETS = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1]
const OPTIONS = ['path', 'expose', 'registry', 'defaultMetrics', 'http', 'exclude', 'buckets', 'redisBuckets', 'labels', 'maxRoutes', 'timeout', 'tracing', 'clock', 'prefix', 'logLevel']

/** @throws `FST_REDIS_SUITE_METRICS_INVALID_OPTION` */
export function resolveMetricsOptions (given: MetricsPluginOptions): ResolvedMetricsOptions {
  const read = readOptions('metrics', given)
  read.onlyKnown(OPTIONS)
  const { expose = 'loopback', registry, prefix = 'fastify_', path = '/metrics' } = given
  if (!isAccessRule(expose)) read.fail('expose', ACCESS_RULE_ALLOWED)
  if (registry !== undefined && !isRegistry(registry)) read.fail('registry', 'a Registry of prom-client')
  if (typeof prefix !== 'string' || !/^([a-zA-Z_:][\w:]*)?$/.test(prefix)) read.fail('prefix', 'letters, digits and _, as names of metrics may begin')
  if (path !== false && (typeof path !== 'string' || !/^\/[^?#]*[^/?#]$/.test(path))) read.fail('path', "a path such as '/metrics', or false")
  return {
    path: path === false ? undefined : path,
    mayRead: accessCheckOf('metrics', expose),
    isClosedByDefault: given.expose === undefined,
    prefix,
    registry,
    defaultMetrics: read.boolean('defaultMetrics', true),
    http: read.boolean('http', true),
    isExcluded: exclusionOf(read, given.exclude ?? []),
    buckets: bucketsOf(read, 'buckets', given.buckets ?? BUCKETS),
    redisBuckets: bucketsOf(read, 'redisBuckets', given.redisBuckets ?? REDIS_BUCKETS),
    labels: labelsOf(read, given.labels ?? {}),
    maxRoutes: read.integer('maxRoutes', 200, { min: 1, max: 1000 }),
    timeout: read.duration('timeout', 2000, { min: 1, max: MAX_TIMER_MS }),
    tracing: read.boolean('tracing', false),
    logLevel: read.oneOf('logLevel', 'warn', LOG_LEVELS),
    clock: read.clock()
  }
}

/** Another copy of prom-client makes registries of another class. */
function isRegistry (value: unknown): value is Registry {
  return value instanceof Registry || (typeof value === 'object' && value !== null && 'registerMetric' in value && 'getSingleMetric' in value)
}

function exclusionOf (read: OptionReader, given: readonly string[]): (url: string) => boolean {
  const isSound = Array.isArray(given) && given.every(each => each === UNMATCHED || (typeof each === 'string' && /^\/[^*]*\*?$/.test(each)))
  if (!isSound) read.fail('exclude', `an array of URLs of routes, such as '/health/live' or '/health*', and '${UNMATCHED}'`)
  return url => given.some(each => each.endsWith('*') ? url.startsWith(each.slice(0, -1)) : url === each)
}

function bucketsOf (read: OptionReader, name: string, given: readonly number[]): number[] {
  const isSound = Array.isArray(given) && given.length > 0 && given.length <= 50 &&
    given.every((bound, at) => Number.isFinite(bound) && bound > (given[at - 1] ?? 0))
  return isSound ? [...given] : read.fail(name, 'up to 50 numbers of seconds above 0, each greater than the one before')
}

function labelsOf (read: OptionReader, given: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  const isSound = typeof given === 'object' && given !== null &&
    Object.entries(given).every(([name, value]) => /^[a-zA-Z_]\w*$/.test(name) && name !== 'le' && typeof value === 'string')
  return isSound ? { ...given } : read.fail('labels', 'strings, by names of letters, digits and _')
}
