import fp from 'fastify-plugin'
import { findClient } from '../shared/client.js'
import { createChecks, type Check, type CheckOptions } from './checks.js'
import { resolveHealthOptions, type HealthPluginOptions } from './options.js'
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
  /** Makes readiness fail from now on, so that a load balancer sends its requests elsewhere before the app closes. */
  drain (): void
}

export type { Check, CheckOptions, CheckResult, HealthStatus } from './checks.js'
export type { DetailsOption, HealthPluginOptions } from './options.js'

/**
 * Health routes: `GET /health/live` (the process answers), `GET /health/ready` (it may get traffic) and
 * `GET /health` (the same, for people), answered as `application/health+json`.
 *
 * @throws `FST_REDIS_SUITE_HEALTH_INVALID_OPTION`
 */
export const health = fp<HealthPluginOptions>(async function health (fastify, given) {
  const options = resolveHealthOptions(given)
  const client = findClient(fastify, 'health', given.redis)
  const checks = createChecks()
  let draining = false

  fastify.decorate('health', {
    addCheck: (name, check, checkOptions) => checks.add(name, check, checkOptions),
    drain: () => { draining = true }
  })
  if (client) checks.add('redis', createRedisCheck(client), { critical: options.redisCritical })
  addRoutes(fastify, options, checks, () => draining)
  fastify.addHook('preClose', async () => { draining = true })
}, { name: 'fastify-redis-suite/health', fastify: '5.x' })

export default health
