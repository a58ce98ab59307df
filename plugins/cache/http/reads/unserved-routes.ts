import type { FastifyContextConfig, FastifyInstance, RouteOptions } from 'fastify'
import { watchRoutes } from '../../../shared/http/route-watch.js'
import { isLookedUp } from '../request-key.js'
import { onlyInvalidates } from '../route-options.js'
import { isUnsafe } from '../invalidation.js'

const UNSTORED = 'config.cache of these routes has no effect except "invalidates", as only responses to GET and HEAD are stored: remove its other options'

/** Returns a function to be called with each route that the cache sees: routes that it should serve, and cannot, are warned of once the app is ready. */
export function watchCachedRoutes (fastify: FastifyInstance, isGlobal: boolean): (route: RouteOptions) => void {
  const watch = watchRoutes(fastify)
  // By URL, the configs of the routes with stored responses.
  const stored = new Map<string, Set<unknown>>()
  // A route that changes what is stored invalidates it only where the cache sees the route.
  const saw = watch.add('cache', fastify, ({ method, url }) => [method].flat().some(name => isLookedUp(name) ? isGlobal : isUnsafe(name) && stored.has(url)))
  return route => {
    saw(route)
    const config: FastifyContextConfig['cache'] = route.config?.cache ?? undefined
    const isStored = config === undefined ? isGlobal : config === true || (typeof config === 'object' && !onlyInvalidates(config))
    if (!isStored) return
    const { method, url } = route
    if ([method].flat().some(isLookedUp)) stored.set(url, new Set(stored.get(url)).add(route.config))
    // A package that takes one config for its GET and its POST, such as mercurius, gives it to both.
    else if (config !== undefined) watch.note('cache', UNSTORED, route, () => stored.get(url)?.has(route.config) !== true)
  }
}
