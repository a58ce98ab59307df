import type { FastifyInstance } from 'fastify'
import type { FastHistogram, Series } from './histogram.js'
import { boundedLabel, OTHER } from './labels.js'

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'QUERY'])
const UNMATCHED = 'unmatched'
// Of methods and statuses, as they are: a program may make any status.
const MOST_KEYS = 1000

/**
 * Counts the requests of a context and times them, from Fastify's first hook to the last byte.
 *
 * @param maxRoutes - of how many routes by themselves
 */
export function timeRequests (fastify: FastifyInstance, histogram: FastHistogram, maxRoutes: number): void {
  const routeOf = boundedLabel(maxRoutes + 1)
  routeOf(UNMATCHED)
  // By route, then by method and status: looking for a series is two look-ups of short keys.
  const routes = new Map<string, Map<string, Series>>()

  fastify.addHook('onResponse', (request, reply, done) => {
    const url = request.routeOptions.url ?? UNMATCHED
    let ofRoute = routes.get(url)
    if (ofRoute === undefined) {
      const label = routeOf(url)
      ofRoute = routes.get(label) ?? new Map<string, Series>()
      routes.set(label, ofRoute)
    }
    const { statusCode } = reply
    const key = request.method + statusCode
    let series = ofRoute.get(key)
    if (series === undefined) {
      const method = METHODS.has(request.method) ? request.method : 'OTHER'
      series = histogram.series(method, routeOf(url), statusCode >= 100 && statusCode < 600 ? String(statusCode) : OTHER)
      if (ofRoute.size < MOST_KEYS) ofRoute.set(key, series)
    }
    series.observe(reply.elapsedTime / 1000)
    done()
  })
}
