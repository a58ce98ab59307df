import type { FastifyUnderPressureOptions } from '@fastify/under-pressure'
import type { LogLevel } from 'fastify'
import { accessRule, LOG_LEVELS, type AccessRule } from '../shared/http/access-rule.js'
import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { boolean, clock, duration, oneOf, option, orFalse, redisClient, string } from '../shared/plugin/option-kinds.js'
import { checkNames, resolveOptions, type OptionTable, type Resolved } from '../shared/plugin/option-table.js'

/**
 * The clients that see the single checks: all, none, those on this machine, or those of the requests that a function
 * allows.
 */
export type DetailsOption = AccessRule

/** The path of each route below the prefix; `false` turns the route off. */
export interface HealthPaths {
  /** @default '/live' */
  live?: string | false | undefined
  /** @default '/ready' */
  ready?: string | false | undefined
  /** @default '/startup' */
  startup?: string | false | undefined
  /** @default '' */
  details?: string | false | undefined
}

/** Limits above which `@fastify/under-pressure` answers requests with 503. */
export type PressureOptions = Pick<FastifyUnderPressureOptions,
  'maxEventLoopDelay' | 'maxEventLoopUtilization' | 'eventLoopUtilizationMode' | 'maxHeapUsedBytes' | 'maxRssBytes' |
    'message' | 'retryAfter' | 'sampleInterval'>

export interface HealthPluginOptions {
  /** The path of the routes. @default '/health' */
  prefix?: string | undefined
  /**
   * The path of each route below the prefix; `false` turns the route off.
   *
   * @default '/live', '/ready', '/startup', ''
   */
  paths?: HealthPaths | undefined
  /**
   * The clients that see the single checks. Others get the status alone.
   *
   * @default 'loopback'
   * @see [access to the details](docs/plugins/health.md#access-to-the-details)
   */
  details?: DetailsOption | undefined
  /** The client to check; `false` for none. @default fastify.redis, if it is there */
  redis?: RedisClient | false | null | undefined
  /**
   * Whether readiness fails while Redis is unavailable. The suite's plugins have fallbacks, and a readiness that fails
   * on all instances at once is an outage.
   *
   * @default false
   */
  redisCritical?: boolean | undefined
  /** How long the results of the plugin's own checks are reused. @default 1000 ms */
  cacheFor?: Duration | undefined
  /**
   * Limits above which requests are answered with 503 and `Retry-After`, and readiness fails: `maxEventLoopDelay` (ms),
   * `maxEventLoopUtilization` (0 to 1), `eventLoopUtilizationMode`, `maxHeapUsedBytes`, `maxRssBytes`, `message`,
   * `retryAfter` (s), `sampleInterval` (ms). An app that has registered `@fastify/under-pressure` itself sets its
   * limits there.
   */
  underPressure?: PressureOptions | undefined
  /** How long `fastify.health.drain()` takes: as long as load balancers need to notice. @default 0 */
  drainDelay?: Duration | undefined
  /** The version that the details show. */
  version?: string | undefined
  /** The release id that the details show. */
  releaseId?: string | undefined
  /** The service id that the details show. */
  serviceId?: string | undefined
  /** The description that the details show. */
  description?: string | undefined
  /** The log level of the health routes, as probes fill a log. @default 'warn' */
  logLevel?: LogLevel | undefined
  /**
   * The clock for `cacheFor`, `drainDelay` and the timeouts of checks.
   *
   * @default the system's clock
   * @see [a clock that you advance](docs/plugins/testing.md)
   */
  clock?: Clock | undefined
}

// A program may mean "no route" by null.
const path = (fallback: string) => ({
  ...orFalse(string(fallback, "a path such as '/live', or false", /^(\/[^?#]*[^/?#])?$/)),
  nullIsDefault: false
})

const PATHS_OPTIONS = {
  live: path('/live'),
  ready: path('/ready'),
  startup: path('/startup'),
  details: path('')
} satisfies OptionTable<HealthPaths>

const PRESSURE: Record<keyof PressureOptions, true> = {
  maxEventLoopDelay: true,
  maxEventLoopUtilization: true,
  eventLoopUtilizationMode: true,
  maxHeapUsedBytes: true,
  maxRssBytes: true,
  message: true,
  retryAfter: true,
  sampleInterval: true
}

export const HEALTH_OPTIONS = {
  prefix: string('/health', "a path such as '/health'", /^\/[^?#]*[^/?#]$/),
  paths: option({
    type: '`{ live, ready, startup, details }`',
    allowed: 'paths below the prefix, by route',
    fallback: {},
    fallbackText: "`'/live'`, `'/ready'`, `'/startup'`, `''`",
    parse: given =>
      typeof given === 'object' && given !== null ? resolveOptions('health', PATHS_OPTIONS, given) : undefined
  }),
  details: { ...accessRule(), nullIsDefault: true },
  redis: redisClient('if it is there'),
  redisCritical: boolean(false),
  cacheFor: duration(1000),
  underPressure: option({
    type: 'limits of [`@fastify/under-pressure`](https://github.com/fastify/under-pressure)',
    allowed: 'limits, as @fastify/under-pressure has them',
    parse (given) {
      if (typeof given !== 'object' || given === null) return undefined
      checkNames('health', PRESSURE, given)
      return given as PressureOptions
    }
  }),
  drainDelay: duration(0, { max: MAX_TIMER_MS }),
  version: string(),
  releaseId: string(),
  serviceId: string(),
  description: string(),
  logLevel: oneOf('warn', LOG_LEVELS),
  clock: clock()
} satisfies OptionTable<HealthPluginOptions>

export interface ResolvedHealthOptions extends Omit<Resolved<typeof HEALTH_OPTIONS>, 'paths'> {
  /** The path of each route with the prefix; undefined without the route. */
  paths: Record<keyof HealthPaths, string | undefined>
  /** `version` and the like. */
  about: Record<string, string>
}

/** @throws `FST_REDIS_SUITE_HEALTH_INVALID_OPTION` */
export function resolveHealthOptions (given: HealthPluginOptions): ResolvedHealthOptions {
  const options = resolveOptions('health', HEALTH_OPTIONS, given)
  const { prefix, paths, version, releaseId, serviceId, description } = options
  const withPrefix = (path: string | false) => path === false ? undefined : prefix + path
  return {
    ...options,
    paths: {
      live: withPrefix(paths.live),
      ready: withPrefix(paths.ready),
      startup: withPrefix(paths.startup),
      details: withPrefix(paths.details)
    },
    about: {
      ...version !== undefined && { version },
      ...releaseId !== undefined && { releaseId },
      ...serviceId !== undefined && { serviceId },
      ...description !== undefined && { description }
    }
  }
}
