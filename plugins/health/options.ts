import type { FastifyRequest, LogLevel } from 'fastify'
import type { RedisClient } from '../shared/client.js'
import { readOptions } from '../shared/options.js'

/** Who is shown the single checks: everyone, no one, requests from this machine, or whom the function says. */
export type DetailsOption = boolean | 'loopback' | ((request: FastifyRequest) => boolean | Promise<boolean>)

export interface HealthPluginOptions {
  /** The path of the routes. @default '/health' */
  prefix?: string
  /** Others get the status alone. @default 'loopback' */
  details?: DetailsOption
  /** An ioredis client to check; `false` for none. @default fastify.redis, if it is there */
  redis?: RedisClient | false | null | undefined
  /**
   * Whether the app may get no traffic while Redis is away. The suite's plugins have fallbacks, and a readiness
   * that fails on all instances at once is an outage, so it is not by default. @default false
   */
  redisCritical?: boolean
  /** Of the health routes, as probes fill a log. @default 'warn' */
  logLevel?: LogLevel
}

export interface ResolvedHealthOptions {
  prefix: string
  mayReadDetails: (request: FastifyRequest) => boolean | Promise<boolean>
  redisCritical: boolean
  logLevel: LogLevel
}

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const
const LOOPBACK = new Set(['127.0.0.1', '::1', '::ffff:127.0.0.1'])

export function resolveHealthOptions (given: HealthPluginOptions): ResolvedHealthOptions {
  const read = readOptions('health', given)
  read.onlyKnown(['details', 'redis', 'redisCritical'])
  const prefix = read.string('prefix', '/health')
  if (!/^\/[^?#]*[^/?#]$/.test(prefix)) read.fail('prefix', 'a path such as \'/health\'')
  const details = given.details ?? 'loopback'
  if (typeof details !== 'boolean' && typeof details !== 'function' && details !== 'loopback') {
    read.fail('details', "true, false, 'loopback' or a function of the request")
  }
  return {
    prefix,
    mayReadDetails: detailsGuard(details),
    redisCritical: read.boolean('redisCritical', false),
    logLevel: read.oneOf('logLevel', 'warn', LOG_LEVELS)
  }
}

function detailsGuard (details: DetailsOption): ResolvedHealthOptions['mayReadDetails'] {
  if (typeof details === 'function') return details
  // The peer of the socket, not `request.ip`, which a header can forge where a proxy is trusted.
  if (details === 'loopback') return request => LOOPBACK.has(request.socket.remoteAddress ?? '')
  return () => details
}
