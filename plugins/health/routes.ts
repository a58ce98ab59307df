import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema } from 'fastify'
import { overallStatus, type Checks } from './checks.js'
import type { HealthStatus } from './measurement.js'
import type { ResolvedHealthOptions } from './options.js'

// Probes are not limited, cached or refused by the suite or @fastify/under-pressure, and have no session.
const EXEMPT = { rateLimit: false, cache: false, session: false, pressureHandler: () => {} } as const
// @fastify/swagger leaves the routes out of the app's documentation.
const HIDDEN: FastifySchema & { hide: boolean } = { hide: true }

export function addRoutes (
  fastify: FastifyInstance, {
    paths, details, logLevel, about
  }: ResolvedHealthOptions, checks: Checks, isDraining: () => boolean
): void {
  let hasStarted = false

  const route = (url: string |
    undefined, handler: (request: FastifyRequest, reply: FastifyReply) => Promise<object>): void => {
    if (url !== undefined) fastify.route({ method: 'GET', url, handler, config: EXEMPT, logLevel, schema: HIDDEN })
  }

  const respond = (reply: FastifyReply, status: HealthStatus, body: object = {}): Buffer => {
    reply.code(status === 'fail' ? 503 : 200)
      .header('content-type', 'application/health+json')
      .header('cache-control', 'no-store')
    // Fastify would replace the content type of an object, but not of a Buffer.
    return Buffer.from(JSON.stringify({ status, ...body }))
  }

  /** Whether this instance may receive traffic. */
  const readiness = async (request: FastifyRequest, reply: FastifyReply): Promise<Buffer> => {
    const results = await checks.results()
    const status = isDraining() ? 'fail' : overallStatus(results)
    const draining = isDraining() && { draining: true, output: 'shutting down' }
    return respond(reply, status, await details(request) ? { ...about, ...draining, checks: results } : {})
  }

  route(paths.details, readiness)
  route(paths.ready, readiness)
  /** Whether this instance has ever been ready. Later failures do not matter here. */
  route(paths.startup, async (_request, reply) => {
    hasStarted ||= overallStatus(await checks.results()) !== 'fail'
    return respond(reply, hasStarted ? 'pass' : 'fail')
  })
  /** Whether the process responds. No check runs here, so that a fault elsewhere does not have it restarted. */
  route(paths.live, async (_request, reply) => respond(reply, 'pass'))
}
