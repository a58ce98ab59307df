import type { FastifyUnderPressureOptions } from '@fastify/under-pressure'
import type { LogLevel } from 'fastify'
import { ACCESS_RULE_ALLOWED, accessCheckOf, isAccessRule, LOG_LEVELS, type AccessRule, type AccessCheck } from '../shared/http/access-rule.js'
import type { RedisClient } from '../shared/redis/client.js'
import type { Clock } from '../shared/plugin/clock.js'
import { MAX_TIMER_MS, type Duration } from '../shared/plugin/duration.js'
import { readOptions, type OptionReader } from '../shared/plugin/option-reader.js'

/** Who is shown the single checks: everyone, no one, clients on this machine, or the requests that a function allows. */
export type DetailsOption = AccessRule

/** Of each route its path below the prefix, or `false` for none. */
export interface HealthPaths {
  /** @default '/live' */
  live?: string | false | undefined
  /** @default '/ready' */
  ready?: string | false | undefined
  /** @default '/startup' */
  startup?: string | false | undefined
  /** @default '': the prefix itself */
  details?: string | false | undefined
}

/** Limits above which requests are answered 503, by `@fastify/under-pressure`. */
export type PressureOptions = Pick<FastifyUnderPressureOptions,
  'maxEventLoopDelay' | 'maxEventLoopUtilization' | 'eventLoopUtilizationMode' | 'maxHeapUsedBytes' | 'maxRssBytes' | 'message' | 'retryAfter' | 'sampleInterval'>

export interface HealthPluginOptions {
  /** The path of the routes. @default '/health' */
  prefix?: string | undefined
  paths?: HealthPaths | undefined
  /** Who is shown the single checks. Others get the status alone. @default 'loopback' */
  details?: DetailsOption | undefined
  /** An ioredis client to check; `false` for none. @default fastify.redis, if it is there */
  redis?: RedisClient | false | null | undefined
  /**
   * Whether the app may get no traffic while Redis is away. The suite's plugins have fallbacks, and a readiness
   * that fails on all instances at once is an outage, so it is not by default. @default false
   */
  redisCritical?: boolean | undefined
  /** For how long the plugin's own checks are given again without asking. @default 1000 ms */
  cacheFor?: Duration | undefined
  /** Limits above which requests are answered 503 and readiness fails. @default none; the process is watched all the same */
  underPressure?: PressureOptions | undefined
  /** How long `fastify.health.drain()` takes: as long as load balancers need to notice. @default 0 */
  drainDelay?: Duration | undefined
  /** Told in the details. */
  version?: string | undefined
  releaseId?: string | undefined
  serviceId?: string | undefined
  description?: string | undefined
  /** Of the health routes, as probes fill a log. @default 'warn' */
  logLevel?: LogLevel | undefined
  /** The clock for time-outs, cached results and `drainDelay`: in tests one of `fastify-redis-suite/testing`. @default the system's clock */
  clock?: Clock | undefined
}

export interface ResolvedHealthOptions {
  /** Undefined: there is no such route. */
  paths: Record<'live' | 'ready' | 'startup' | 'details', string | undefined>
  mayReadDetails: AccessCheck
  redisCritical: boolean
  cacheFor: number
  underPressure: PressureOptions | undefined
  drainDelay: number
  /** `version` and the like. */
  about: Record<string, string>
  logLevel: LogLevel
  clock: Clock
}

const ABOUT = ['version', 'releaseId', 'serviceId', 'description'] as const
const PATHS = { live: '/live', ready: '/ready', startup: '/startup', details: '' }
const PRESSURE = ['maxEventLoopDelay', 'maxEventLoopUtilization', 'eventLoopUtilizationMode', 'maxHeapUsedBytes', 'maxRssBytes', 'message', 'retryAfter', 'sampleInterval']

/** @throws `FST_REDIS_SUITE_HEALTH_INVALID_OPTION` */
export function resolveHealthOptions (given: HealthPluginOptions): ResolvedHealthOptions {
  const read = readOptions('health', given)
  read.onlyKnown(['details', 'redis', 'redisCritical', 'paths', 'cacheFor', 'underPressure', 'drainDelay', 'clock', 'prefix', 'logLevel', ...ABOUT])
  const details = given.details ?? 'loopback'
  if (!isAccessRule(details)) read.fail('details', ACCESS_RULE_ALLOWED)
  return {
    paths: resolvePaths(given.paths, read),
    mayReadDetails: accessCheckOf('health', details),
    redisCritical: read.boolean('redisCritical', false),
    cacheFor: read.duration('cacheFor', 1000),
    underPressure: resolvePressure(given.underPressure, read),
    drainDelay: read.duration('drainDelay', 0, { max: MAX_TIMER_MS }),
    about: Object.fromEntries(ABOUT.filter(name => given[name] !== undefined).map(name => [name, read.string(name, '')])),
    logLevel: read.oneOf('logLevel', 'warn', LOG_LEVELS),
    clock: read.clock()
  }
}

function resolvePaths (given: HealthPaths = {}, read: OptionReader): ResolvedHealthOptions['paths'] {
  const prefix = read.string('prefix', '/health')
  if (!/^\/[^?#]*[^/?#]$/.test(prefix)) read.fail('prefix', 'a path such as \'/health\'')
  if (typeof given !== 'object' || given === null) read.fail('paths', 'paths below the prefix, by route')
  readOptions('health', given).onlyKnown(Object.keys(PATHS))
  const whole = { ...PATHS, ...Object.fromEntries(Object.entries(given).filter(([, path]) => path !== undefined)) }
  const pathOf = (path: unknown): string | undefined => {
    if (path === false) return undefined
    return typeof path === 'string' && /^(\/[^?#]*[^/?#])?$/.test(path) ? prefix + path : read.fail('paths', "paths such as '/live', or false, by route")
  }
  return { live: pathOf(whole.live), ready: pathOf(whole.ready), startup: pathOf(whole.startup), details: pathOf(whole.details) }
}

function resolvePressure (given: unknown, read: OptionReader): PressureOptions | undefined {
  if (given === undefined) return undefined
  if (typeof given !== 'object' || given === null) return read.fail('underPressure', 'limits, as @fastify/under-pressure has them')
  readOptions('health', given).onlyKnown(PRESSURE)
  return given
}
