import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema } from 'fastify'
import { overallStatus, type Checks } from './checks.js'
import type { HealthStatus } from './measurement.js'
import type { ResolvedHealthOptions } from './options.js'

// What the other plugins of the suite, and @fastify/under-pressure, read: probes are not limited, cached, given a session, or refused.
const EXEMPT = { rateLimit: false, cache: false, session: false, pressureHandler: () => {} } as const
// What @fastify/swagger reads: probes are no part of an app's interface.
const HIDDEN: FastifySchema & { hide: boolean } = { hide: true }

export function addRoutes (
  fastify: FastifyInstance, { paths, mayReadDetails, logLevel, about }: ResolvedHealthOptions, checks: Checks, isDraining: () => boolean
): void {
  let hasStarted = false

  const route = (url: string | undefined, handler: (request: FastifyRequest, reply: FastifyReply) => Promise<object>): void => {
    if (url !== undefined) fastify.route({ method: 'GET', url, handler, config: EXEMPT, logLevel, schema: HIDDEN })
  }

  const answer = (reply: FastifyReply, status: HealthStatus, details: object = {}): Buffer => {
    reply.code(status === 'fail' ? 503 : 200)
      .header('content-type', 'application/health+json')
      .header('cache-control', 'no-store')
    // A Buffer, as Fastify would put its own content type on an object.
    return Buffer.from(JSON.stringify({ status, ...details }))
  }

  /** May this instance get traffic? */
  const readiness = async (request: FastifyRequest, reply: FastifyReply): Promise<Buffer> => {
    const results = await checks.results()
    const status = isDraining() ? 'fail' : overallStatus(results)
    const draining = isDraining() && { draining: true, output: 'shutting down' }
    return answer(reply, status, await mayReadDetails(request) ? { ...about, ...draining, checks: results } : {})
  }

  route(paths.details, readiness)
  route(paths.ready, readiness)
  /** Has it ever been ready? What comes later is no matter of starting. */
  route(paths.startup, async (_request, reply) => {
    hasStarted ||= overallStatus(await checks.results()) !== 'fail'
    return answer(reply, hasStarted ? 'pass' : 'fail')
  })
  /** Does the process answer at all? Asks nothing else, so that no fault elsewhere gets it restarted. */
  route(paths.live, async (_request, reply) => answer(reply, 'pass'))
}
