import type { FastifyInstance } from 'fastify'
import type { FastHistogram, Series } from './histogram.js'
import { boundedLabel, OTHER } from './labels.js'
import { UNMATCHED } from './names.js'

const METHODS = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'QUERY'])
// Of methods and statuses, as they are: a program may make any status.
const MOST_KEYS = 1000

/**
 * Counts the requests of a context and times them, from Fastify's first hook to the last byte.
 *
 * @param maxRoutes - of how many routes by themselves
 * @param isExcluded - whether a route, by its URL, is left out; asked once a route
 */
export function timeRequests (fastify: FastifyInstance, histogram: FastHistogram, maxRoutes: number, isExcluded: (url: string) => boolean): void {
  const routeOf = boundedLabel(maxRoutes + 1)
  routeOf(UNMATCHED)
  // By route, then by method and status: looking for a series is two look-ups of short keys.
  const routes = new Map<string, Map<string, Series> | null>()

  fastify.addHook('onResponse', (request, reply, done) => {
    const url = request.routeOptions.url ?? UNMATCHED
    let ofRoute = routes.get(url)
    if (ofRoute === undefined) {
      const isLeftOut = isExcluded(url)
      const label = isLeftOut ? url : routeOf(url)
      ofRoute = isLeftOut ? null : routes.get(label) ?? new Map<string, Series>()
      routes.set(label, ofRoute)
    }
    if (ofRoute === null) return done()
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
