import underPressure from '@fastify/under-pressure'
import fp from 'fastify-plugin'
import { findClient } from '../shared/client.js'
import { createChecks, type Check, type CheckOptions, type CheckResults } from './checks.js'
import { resolveHealthOptions, type HealthPluginOptions } from './options.js'
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

export { measurements } from './checks.js'
export type { Check, CheckOptions, CheckResult, CheckResults, HealthStatus, Measurement } from './checks.js'
export type { DetailsOption, HealthPaths, HealthPluginOptions, PressureOptions } from './options.js'

/**
 * Health routes: `GET /health/live` (the process answers), `GET /health/ready` (it may get traffic), `GET /health/startup` (it has been
 * ready) and `GET /health` (the details), answered as `application/health+json`.
 *
 * @throws `FST_REDIS_SUITE_HEALTH_INVALID_OPTION`
 */
export const health = fp<HealthPluginOptions>(async function health (fastify, given) {
  const options = resolveHealthOptions(given)
  const client = findClient(fastify, 'health', given.redis)
  const checks = createChecks()
  const { cacheFor } = options
  let draining: Promise<void> | undefined

  fastify.decorate('health', {
    addCheck: (name, check, checkOptions) => checks.add(name, check, checkOptions),
    results: () => checks.results(),
    async drain () {
      draining ??= new Promise(resolve => setTimeout(resolve, options.drainDelay))
      await draining
    }
  })
  if (!fastify.hasDecorator('memoryUsage')) await fastify.register(underPressure, options.underPressure)
  checks.add('process', createProcessCheck(fastify), { cacheFor })
  if (client) checks.add('redis', createRedisCheck(client), { critical: options.redisCritical, cacheFor })
  addRoutes(fastify, options, checks, () => draining !== undefined)
  fastify.addHook('preClose', async () => { draining ??= Promise.resolve() })
}, { name: 'fastify-redis-suite/health', fastify: '5.x' })

export default health
