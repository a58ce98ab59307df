import type { FastifyInstance } from 'fastify'
import type { FastHistogram, Series } from './histogram.js'
import { boundedLabel, OTHER } from './labels.js'
import { UNMATCHED } from './names.js'

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'QUERY'])
/** A bound on the cached series of a route, as a program may send any method and status. */
const MAX_SERIES_OF_ROUTE = 1000

/**
 * Counts and times the requests of a context, from Fastify's first hook to the last byte.
 *
 * @param maxRoutes - how many routes have series of their own; all others are `other`
 * @param isExcluded - whether a route, by its URL, is not timed; called once for each route
 */
export function timeRequests (
  fastify: FastifyInstance, histogram: FastHistogram, maxRoutes: number, isExcluded: (url: string) => boolean
): void {
  const routeOf = boundedLabel(maxRoutes + 1)
  routeOf(UNMATCHED)
  // By route (null: excluded), then by method and status: finding a series is two look-ups of short keys.
  const routes = new Map<string, Map<string, Series> | null>()

  fastify.addHook('onResponse', (request, reply, done) => {
    const url = request.routeOptions.url ?? UNMATCHED
    let ofRoute = routes.get(url)
    if (ofRoute === undefined) {
      const isUntimed = isExcluded(url)
      const label = isUntimed ? url : routeOf(url)
      ofRoute = isUntimed ? null : routes.get(label) ?? new Map<string, Series>()
      routes.set(label, ofRoute)
    }
    if (ofRoute === null) return done()
    const { statusCode } = reply
    const key = request.method + statusCode
    let series = ofRoute.get(key)
    if (series === undefined) {
      const method = METHODS.has(request.method) ? request.method : 'OTHER'
      series = histogram.series(
        method, routeOf(url), statusCode >= 100 && statusCode < 600 ? String(statusCode) : OTHER
      )
      if (ofRoute.size < MAX_SERIES_OF_ROUTE) ofRoute.set(key, series)
    }
    series.observe(reply.elapsedTime / 1000)
    done()
  })
}
