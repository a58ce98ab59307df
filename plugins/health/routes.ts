import type { FastifyInstance, FastifyReply, FastifyRequest, FastifySchema } from 'fastify'
import { overallStatus, type Checks, type HealthStatus } from './checks.js'
import type { ResolvedHealthOptions } from './options.js'

// What the other plugins of the suite read: probes are not limited, cached or given a session.
const EXEMPT = { rateLimit: false, cache: false, session: false } as const
// What @fastify/swagger reads: probes are no part of an app's interface.
const HIDDEN: FastifySchema & { hide: boolean } = { hide: true }

export function addRoutes (
  fastify: FastifyInstance, { prefix, mayReadDetails, logLevel }: ResolvedHealthOptions, checks: Checks, isDraining: () => boolean
): void {
  const route = (url: string, handler: (request: FastifyRequest, reply: FastifyReply) => Promise<object>) =>
    fastify.route({ method: 'GET', url, handler, config: EXEMPT, logLevel, schema: HIDDEN })

  const answer = (reply: FastifyReply, status: HealthStatus, details: object = {}) => {
    reply.code(status === 'fail' ? 503 : 200)
      .header('content-type', 'application/health+json')
      .header('cache-control', 'no-store')
    // A Buffer, as Fastify would put its own content type on an object.
    return Buffer.from(JSON.stringify({ status, ...details }))
  }

  /** May this instance get traffic? */
  const readiness = async (request: FastifyRequest, reply: FastifyReply) => {
    const results = await checks.results()
    const status = isDraining() ? 'fail' : overallStatus(results)
    const details = await mayReadDetails(request) ? { checks: results, draining: isDraining() } : {}
    return answer(reply, status, details)
  }

  route(prefix, readiness)
  route(`${prefix}/ready`, readiness)
  /** Does the process answer at all? Asks nothing else, so that no fault elsewhere gets it restarted. */
  route(`${prefix}/live`, async (_request, reply) => answer(reply, 'pass'))
}
