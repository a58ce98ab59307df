import type { LogLevel } from 'fastify'
/** @ts-ignore `any` where prom-client is not installed. */
import type { Registry } from 'prom-client'
import { accessRule, LOG_LEVELS, type AccessRule } from '../shared/http/access-rule.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { boolean, clock, duration, integer, oneOf, option, orFalse, string } from '../shared/plugin/option-kinds.js'
import { resolveOptions, type OptionTable, type Resolved } from '../shared/plugin/option-table.js'
import { UNMATCHED } from './names.js'

/**
 * The clients that may read the metrics: all, none, those on this machine, or those of the requests that a function
 * allows.
 */
export type ExposeOption = AccessRule

export interface MetricsPluginOptions {
  /** The path of the route, below Fastify's prefix; `false` adds no route. @default '/metrics' */
  path?: string | false | undefined
  /**
   * The clients that may read the route. Others get 404.
   *
   * @default 'loopback'
   * @see [access to the metrics](docs/plugins/metrics.md#access-to-the-metrics)
   */
  expose?: ExposeOption | undefined
  /**
   * The prefix of the suite's own metrics; `http_request_duration_seconds` and the metrics of the process have none.
   *
   * @default 'fastify_'
   */
  prefix?: string | undefined
  /** The registry that the metrics are added to. Other metrics in it are exposed as well. @default a new one */
  registry?: Registry | undefined
  /** Whether metrics of the process are collected: CPU, memory, event loop, garbage collection. @default true */
  defaultMetrics?: boolean | undefined
  /** Whether requests are timed. @default true */
  http?: boolean | undefined
  /**
   * Routes whose requests are not timed, by the URL with which they are registered, prefix included (`'/health/live'`),
   * or by its beginning (`'/health*'`). `'unmatched'` stands for requests that no route matches.
   *
   * @default []
   */
  exclude?: readonly string[] | undefined
  /** Upper bounds of the buckets of `http_request_duration_seconds`, in seconds. @default 0.001 to 10 */
  buckets?: readonly number[] | undefined
  /** Upper bounds of the buckets of `redis_command_duration_seconds`, in seconds. @default 0.0001 to 1 */
  redisBuckets?: readonly number[] | undefined
  /** Labels of all metrics of the registry (`registry.setDefaultLabels`). @default {} */
  labels?: Readonly<Record<string, string>> | undefined
  /**
   * How many routes, cache names, scopes of limits, streams and groups have a label value of their own. All others are
   * `other`.
   *
   * @default 200
   */
  maxRoutes?: number | undefined
  /** How long a scrape waits for figures that have to be read from Redis. @default 2000 ms */
  timeout?: Duration | undefined
  /**
   * Whether the suite's work within a traced request has spans.
   *
   * @default false
   * @see [traces](docs/plugins/metrics.md#traces)
   */
  tracing?: boolean | undefined
  /** The log level of the route, as scrapes fill a log. @default 'warn' */
  logLevel?: LogLevel | undefined
  /**
   * The clock for `timeout` and the durations of Redis commands, not for requests.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md)
   */
  clock?: Clock | undefined
}

const buckets = (fallback: readonly number[]) => option<readonly number[], number[], readonly number[]>({
  type: 'number[]',
  allowed: 'up to 50 numbers of seconds above 0, each greater than the one before',
  fallback,
  fallbackText: `${fallback[0]} to ${fallback.at(-1)}`,
  nullIsDefault: true,
  parse: given => areBuckets(given) ? [...given] : undefined
})

export const METRICS_OPTIONS = {
  // A program may mean "no route" by null.
  path: {
    ...orFalse(string('/metrics', "a path such as '/metrics', or false", /^\/[^?#]*[^/?#]$/)), nullIsDefault: false
  },
  expose: accessRule(),
  prefix: string('fastify_', 'letters, digits and _, as names of metrics may begin', /^([a-zA-Z_:][\w:]*)?$/),
  registry: option({
    type: '`Registry` of prom-client',
    allowed: 'a Registry of prom-client',
    fallbackText: 'a new one',
    parse: given => isRegistry(given) ? given : undefined
  }),
  defaultMetrics: boolean(true),
  http: boolean(true),
  exclude: option({
    type: 'string[]',
    allowed: `an array of URLs of routes, such as '/health/live' or '/health*', and '${UNMATCHED}'`,
    fallback: [],
    nullIsDefault: true,
    parse: parseExclude
  }),
  buckets: buckets([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]),
  redisBuckets: buckets([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1]),
  labels: option({
    type: 'strings by name',
    allowed: 'strings, by names of letters, digits and _',
    fallback: {},
    fallbackText: '`{}`',
    nullIsDefault: true,
    parse: given => areLabels(given) ? { ...given } : undefined
  }),
  maxRoutes: integer(200, { min: 1, max: 1000 }),
  timeout: duration(2000, { min: 1, max: MAX_TIMER_MS }),
  tracing: boolean(false),
  logLevel: oneOf('warn', LOG_LEVELS),
  clock: clock()
} satisfies OptionTable<MetricsPluginOptions>

export interface ResolvedMetricsOptions extends Resolved<typeof METRICS_OPTIONS> {
  /** Whether the option `expose` was left out. */
  isClosedByDefault: boolean
}

/** @throws `FST_REDIS_SUITE_METRICS_INVALID_OPTION` */
export function resolveMetricsOptions (given: MetricsPluginOptions): ResolvedMetricsOptions {
  return { ...resolveOptions('metrics', METRICS_OPTIONS, given), isClosedByDefault: given.expose === undefined }
}

/** Another copy of prom-client creates registries of another class. */
function isRegistry (value: unknown): value is Registry {
  return typeof value === 'object' && value !== null && 'registerMetric' in value && 'getSingleMetric' in value
}

/** Returns whether the requests of a route, by its URL, are not timed. */
function parseExclude (given: unknown): ((url: string) => boolean) | undefined {
  if (!Array.isArray(given) || !given.every(isExclusion)) return undefined
  return url => given.some(each => each.endsWith('*') ? url.startsWith(each.slice(0, -1)) : url === each)
}

function isExclusion (each: unknown): each is string {
  return each === UNMATCHED || (typeof each === 'string' && /^\/[^*]*\*?$/.test(each))
}

function areBuckets (given: unknown): given is number[] {
  return Array.isArray(given) && given.length > 0 && given.length <= 50 &&
    given.every((bound, at) => Number.isFinite(bound) && bound > (given[at - 1] ?? 0))
}

function areLabels (given: unknown): given is Record<string, string> {
  return typeof given === 'object' && given !== null &&
    Object.entries(given).every(([name, value]) =>
      /^[a-zA-Z_]\w*$/.test(name) && name !== 'le' && typeof value === 'string')
}
