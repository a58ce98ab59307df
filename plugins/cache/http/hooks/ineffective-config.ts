import type { FastifyContextConfig, FastifyInstance, RouteOptions } from 'fastify'
import { watchRoutes } from '../../../shared/http/route-watch.js'
import { isUnsafe } from '../invalidation.js'
import { isLookedUp } from '../request-key.js'
import { onlyInvalidates } from '../route-options.js'

const UNSTORED = 'config.cache of these routes has no effect except "invalidates", as only responses to GET and HEAD ' +
  'are stored: remove its other options'

/**
 * Returns a function to call with each route. Once the app is ready, the log warns of routes whose `config.cache` has
 * no effect.
 */
export function warnOfIneffectiveConfig (fastify: FastifyInstance, isGlobal: boolean): (route: RouteOptions) => void {
  const watch = watchRoutes(fastify)
  /** By URL, the configs of routes whose responses are stored. */
  const stored = new Map<string, Set<unknown>>()
  // An unsafe route invalidates the responses of its URL only if the cache was registered before it.
  const addRoute = watch.add('cache', fastify, ({ method, url }) => {
    return [method].flat().some(name => isLookedUp(name) ? isGlobal : isUnsafe(name) && stored.has(url))
  })
  return route => {
    addRoute(route)
    const config: FastifyContextConfig['cache'] = route.config?.cache ?? undefined
    const isStored = config === undefined
      ? isGlobal
      : config === true || (typeof config === 'object' && !onlyInvalidates(config))
    if (!isStored) return
    const { method, url } = route
    if ([method].flat().some(isLookedUp)) stored.set(url, new Set(stored.get(url)).add(route.config))
    // A package that takes one config for its GET and its POST, such as mercurius, gives it to both.
    else if (config) watch.note('cache', UNSTORED, route, () => stored.get(url)?.has(route.config) !== true)
  }
}
