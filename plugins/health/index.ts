import underPressure from '@fastify/under-pressure'
import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { findClient, warnOfLateClient } from '../shared/redis/client.js'
import { sleep } from '../shared/plugin/clock.js'
import { alreadyRegisteredError, invalidOptionError } from '../shared/plugin/errors.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { createChecks, type Check, type CheckOptions, type CheckResults } from './checks.js'
import { resolveHealthOptions, type HealthPluginOptions, type PressureOptions } from './options.js'
import { createProcessCheck } from './process-check.js'
import { createRedisCheck } from './redis-check.js'
import { addRoutes } from './routes.js'

declare module 'fastify' {
  interface FastifyInstance {
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
  /** All checks, asked now or at most their `cacheFor` ago. */
  results (): Promise<CheckResults>
  /**
   * Makes readiness fail from now on, so that a load balancer sends its requests elsewhere; resolves after `drainDelay`, when
   * the app may be closed.
   */
  drain (): Promise<void>
}

export { measurements, type HealthStatus, type Measurement } from './measurement.js'
export type { Check, CheckOptions, CheckResult, CheckResults } from './checks.js'
export type { DetailsOption, HealthPaths, HealthPluginOptions, PressureOptions } from './options.js'

/**
 * Health routes: `GET /health/live` (the process answers), `GET /health/ready` (it may get traffic), `GET /health/startup` (it has been
 * ready) and `GET /health` (the details), answered as `application/health+json`.
 *
 * @throws `FST_REDIS_SUITE_HEALTH_INVALID_OPTION`, `FST_REDIS_SUITE_HEALTH_ALREADY_REGISTERED`
 */
export const health = fp<HealthPluginOptions>(async function health (fastify, given) {
  const options = resolveHealthOptions(given)
  if (Object.hasOwn(fastify, 'health')) throw alreadyRegisteredError('health', 'fastify.health')
  watchRoutes(fastify)
  const client = findClient(fastify, 'health', given.redis)
  const { cacheFor, clock } = options
  const checks = createChecks(clock)
  let draining: Promise<void> | undefined

  fastify.decorate('health', {
    addCheck: (name, check, checkOptions) => checks.add(name, check, checkOptions),
    results: () => checks.results(),
    async drain () {
      draining ??= sleep(clock, options.drainDelay)
      await draining
    }
  })
  await watchProcess(fastify, options.underPressure)
  checks.add('process', createProcessCheck(fastify), { cacheFor })
  if (client) checks.add('redis', createRedisCheck(client, clock), { critical: options.redisCritical, cacheFor })
  else if (given.redis === undefined) warnOfLateClient(fastify, 'health', 'Redis is not checked')
  addRoutes(fastify, options, checks, () => draining !== undefined)
  fastify.addHook('preClose', async () => { draining ??= Promise.resolve() })
}, { name: 'fastify-redis-suite/health', fastify: '5.x' })

export default health

/** By `@fastify/under-pressure`, which may be registered already: then its limits are those that were given there. */
async function watchProcess (fastify: FastifyInstance, limits: PressureOptions | undefined): Promise<void> {
  if (!fastify.hasDecorator('memoryUsage')) await fastify.register(underPressure, limits ?? {})
  else if (limits !== undefined) throw invalidOptionError('health', 'underPressure', limits, 'none, as @fastify/under-pressure is registered already: give it the limits')
}
