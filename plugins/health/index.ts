import underPressure from '@fastify/under-pressure'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { findClient, warnOfLateClient } from '../shared/redis/client.js'
import { sleep } from '../shared/plugin/clock.js'
import { alreadyRegisteredError, invalidOptionError } from '../shared/plugin/errors.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { createChecks, type Check, type CheckOptions, type CheckResults } from './checks.js'
import { endConnections } from './end-connections.js'
import { resolveHealthOptions, type HealthPluginOptions, type PressureOptions } from './options.js'
import { measurements } from './measurement.js'
import { createRedisCheck } from './redis-check.js'
import { addRoutes } from './routes.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Checks of readiness, and the drain before a shutdown.
     *
     * @example
     * app.health.addCheck('database', async () => { await pool.query('SELECT 1') })
     */
    health: Health
  }
}

export interface Health {
  /**
   * Adds a check to readiness and to the details.
   *
   * @throws `FST_REDIS_SUITE_HEALTH_DUPLICATE_CHECK`, `FST_REDIS_SUITE_HEALTH_INVALID_OPTION`
   */
  addCheck (name: string, check: Check, options?: CheckOptions): void
  /** Runs all checks, or returns results that are not older than `cacheFor`. */
  results (): Promise<CheckResults>
  /**
   * Makes readiness fail from now on, so that load balancers stop sending requests, and ends each HTTP/1.1 connection
   * with its next response (`Connection: close`). Resolves after `drainDelay`, when the app may be closed.
   *
   * @example
   * process.once('SIGTERM', async () => {
   *   await app.health.drain()
   *   await app.close()
   * })
   */
  drain (): Promise<void>
}

export type { Duration } from '../shared/plugin/duration.js'
export type { AccessRule } from '../shared/http/access-rule.js'
export { measurements, type HealthStatus, type Measurement } from './measurement.js'
export type { Check, CheckOptions, CheckResult, CheckResults } from './checks.js'
export type { DetailsOption, HealthPaths, HealthPluginOptions, PressureOptions } from './options.js'

/**
 * Health routes, as `application/health+json`: `GET /health/live` (the process responds), `GET /health/ready` (it may
 * receive traffic), `GET /health/startup` (it has been ready) and `GET /health` (the details).
 *
 * @throws `FST_REDIS_SUITE_HEALTH_INVALID_OPTION`, `FST_REDIS_SUITE_HEALTH_ALREADY_REGISTERED`
 *
 * @example
 * await app.register(health, { drainDelay: '5s' })
 * app.health.addCheck('database', async () => { await pool.query('SELECT 1') })
 */
export const health = fp<HealthPluginOptions>(async function health (fastify, given) {
  const options = resolveHealthOptions(given)
  if (Object.hasOwn(fastify, 'health')) throw alreadyRegisteredError('health', 'fastify.health')
  watchRoutes(fastify)
  const client = findClient(fastify, 'health', given.redis)
  const { cacheFor, clock } = options
  const checks = createChecks(clock)
  let draining: Promise<void> | undefined
  let stopEnding: (() => void) | undefined

  fastify.decorate('health', {
    addCheck: (name, check, checkOptions) => checks.add(name, check, checkOptions),
    results: () => checks.results(),
    async drain () {
      draining ??= sleep(clock, options.drainDelay)
      stopEnding ??= endConnections(fastify.server)
      await draining
    }
  })
  await watchProcess(fastify, options.underPressure)
  checks.add('process', createProcessCheck(fastify), { cacheFor })
  if (client) checks.add('redis', createRedisCheck(client, clock), { critical: options.redisCritical, cacheFor })
  else if (given.redis === undefined) warnOfLateClient(fastify, 'health', 'Redis is not checked')
  addRoutes(fastify, options, checks, () => draining !== undefined)
  fastify.addHook('preClose', async () => { draining ??= Promise.resolve() })
  fastify.addHook('onClose', async () => {
    stopEnding?.()
    // A call of `drain` after the close watches nothing.
    stopEnding = () => {}
  })
}, { name: 'fastify-redis-suite/health', fastify: '5.x || 6.x' })

export default health

/** Registers `@fastify/under-pressure`, unless the app has done so with limits of its own. */
async function watchProcess (fastify: FastifyInstance, limits: PressureOptions | undefined): Promise<void> {
  if (!fastify.hasDecorator('memoryUsage')) await fastify.register(underPressure, limits ?? {})
  else if (limits !== undefined) {
    throw invalidOptionError(
      'health', 'underPressure', limits,
      'left out, as @fastify/under-pressure is registered already: set its limits there'
    )
  }
}

/** Creates a check of the process with the figures of `@fastify/under-pressure`. */
function createProcessCheck (fastify: FastifyInstance): Check {
  return () => {
    const { eventLoopDelay, eventLoopUtilized } = fastify.memoryUsage()
    // The plugin's figures of memory are as old as its last sample.
    const { heapUsed, rss } = process.memoryUsage()
    const pressure = fastify.isUnderPressure() ? { status: 'fail', output: 'under pressure' } as const : {}
    return measurements({
      eventLoopDelay: {
        observedValue: Math.round(eventLoopDelay * 100) / 100, observedUnit: 'ms', componentType: 'system', ...pressure
      },
      eventLoopUtilization: {
        observedValue: Math.round(eventLoopUtilized * 1000) / 10, observedUnit: 'percent', componentType: 'system'
      },
      heapUsed: { observedValue: heapUsed, observedUnit: 'bytes', componentType: 'system' },
      rss: { observedValue: rss, observedUnit: 'bytes', componentType: 'system' },
      uptime: { observedValue: Math.round(process.uptime()), observedUnit: 's', componentType: 'system' }
    })
  }
}
