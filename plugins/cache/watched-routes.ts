import type { FastifyContextConfig, FastifyInstance, RouteOptions } from 'fastify'
import { watchRoutes } from '../shared/route-watch.js'
import { isLookedUp } from './request-key.js'
import { onlyInvalidates } from './resolve-options.js'
import { isUnsafe } from './unsafe.js'

const UNSTORED = 'of config.cache of these routes nothing but "invalidates" has an effect, as only responses to GET and HEAD are stored: leave the rest out'

/** Returns a function to be called with each route that the cache sees: routes that it should serve, and cannot, are warned of once the app is ready. */
export function watchCachedRoutes (fastify: FastifyInstance, isGlobal: boolean): (route: RouteOptions) => void {
  const watch = watchRoutes(fastify)
  const storedUrls = new Set<string>()
  // A route that changes what is stored invalidates it only where the cache sees the route.
  const saw = watch.add('cache', fastify, ({ method, url }) => [method].flat().some(name => isLookedUp(name) ? isGlobal : isUnsafe(name) && storedUrls.has(url)))
  return route => {
    saw(route)
    const config: FastifyContextConfig['cache'] = route.config?.cache ?? undefined
    const isStored = config === undefined ? isGlobal : config === true || (typeof config === 'object' && !onlyInvalidates(config))
    if (!isStored) return
    if ([route.method].flat().some(isLookedUp)) storedUrls.add(route.url)
    else if (config !== undefined) watch.note('cache', UNSTORED, route)
  }
}
