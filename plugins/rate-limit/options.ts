import type { FastifyRequest } from 'fastify'
import type { RedisClient } from '../shared/client.js'
import type { Duration } from '../shared/duration.js'
import { DEFAULT_TIMEOUT_MS } from '../shared/guard.js'
import { readOptions } from '../shared/options.js'
import type { Limit } from './decision.js'

export type RateLimitHook = 'onRequest' | 'preParsing' | 'preValidation' | 'preHandler'
const HOOKS: readonly RateLimitHook[] = ['onRequest', 'preParsing', 'preValidation', 'preHandler']

/** What a route may set for itself; what it leaves out is taken from the plugin's options. */
export interface RouteRateLimitOptions {
  /** How many requests a key may make in any one `timeWindow`. @default 1000 */
  max?: number
  /** The length of the window, wherever it starts. @default '1 minute' */
  timeWindow?: Duration
  /** When in the request's way the decision is made. @default 'onRequest' */
  hook?: RateLimitHook
  /** Whose limit it is. @default the client's address (`request.ip`) */
  keyGenerator?: (request: FastifyRequest) => string | number | Promise<string | number>
}

export interface RateLimitPluginOptions extends RouteRateLimitOptions {
  /** Limit all routes that do not say otherwise. @default true */
  global?: boolean
  /** An ioredis client; `false` for the memory store. @default fastify.redis, else the memory store */
  redis?: RedisClient | false | null | undefined
  /** How long a decision may wait for Redis before this process decides by itself. @default 150 ms */
  timeout?: Duration
  /** How many keys the memory store keeps. @default 5000 */
  cache?: number
}

/** A limit, complete and checked. */
export interface ResolvedRouteOptions {
  limits: [Limit]
  hook: RateLimitHook
  keyGenerator: (request: FastifyRequest) => string | number | Promise<string | number>
}

export interface ResolvedRateLimitOptions extends ResolvedRouteOptions {
  global: boolean
  timeout: number
  cache: number
}

const ROUTE_OPTIONS = ['max', 'timeWindow', 'hook', 'keyGenerator']
const PLUGIN_OPTIONS = [...ROUTE_OPTIONS, 'global', 'redis', 'timeout', 'cache']

export function resolvePluginOptions (given: RateLimitPluginOptions): ResolvedRateLimitOptions {
  const read = readOptions('rate-limit', given)
  read.onlyKnown(PLUGIN_OPTIONS)
  return {
    ...resolve(given),
    global: read.boolean('global', true),
    timeout: read.duration('timeout', DEFAULT_TIMEOUT_MS, { min: 1 }),
    cache: read.integer('cache', 5000, { min: 1 })
  }
}

/** A route's own options over the plugin's. */
export function resolveRouteOptions (plugin: RateLimitPluginOptions, route: RouteRateLimitOptions): ResolvedRouteOptions {
  readOptions('rate-limit', route).onlyKnown(ROUTE_OPTIONS)
  const { max, timeWindow, hook, keyGenerator } = plugin
  return resolve({ max, timeWindow, hook, keyGenerator, ...route })
}

function resolve (given: RouteRateLimitOptions): ResolvedRouteOptions {
  const read = readOptions('rate-limit', given)
  const { keyGenerator = (request: FastifyRequest) => request.ip } = given
  if (typeof keyGenerator !== 'function') read.fail('keyGenerator', 'a function of the request')
  return {
    limits: [{ max: read.integer('max', 1000), window: read.duration('timeWindow', '1 minute', { min: 1 }) }],
    hook: read.oneOf('hook', 'onRequest', HOOKS),
    keyGenerator
  }
}
