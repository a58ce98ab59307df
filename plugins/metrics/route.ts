import type { FastifyInstance, FastifySchema } from 'fastify'
import type { Registry } from 'prom-client'
import type { ResolvedMetricsOptions } from './options.js'

// What the other plugins of the suite, and @fastify/under-pressure, read: scrapes are not limited, cached, given a session, or refused.
const EXEMPT = { rateLimit: false, cache: false, session: false, pressureHandler: () => {} } as const
// What @fastify/swagger reads: they are no part of an app's interface.
const HIDDEN: FastifySchema & { hide: boolean } = { hide: true }

export function addRoute (fastify: FastifyInstance, registry: Registry, path: string, { mayRead, isClosedByDefault, logLevel }: ResolvedMetricsOptions): void {
  let isLogged = !isClosedByDefault
  fastify.get(path, { config: EXEMPT, logLevel, schema: HIDDEN }, async (request, reply) => {
    if (!await mayRead(request)) {
      if (!isLogged) fastify.log.warn({ plugin: 'metrics', address: request.ip }, 'metrics: a request from another machine or through a proxy got 404: set the option "expose" to allow it')
      isLogged = true
      return reply.callNotFound()
    }
    const text = await registry.metrics()
    return await reply.header('cache-control', 'no-store').type(registry.contentType).send(text)
  })
}
