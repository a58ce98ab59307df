import type { FastifyContextConfig, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { keyPrefixOf, resolveClient } from '../shared/client.js'
import { invalidOptionError } from '../shared/errors.js'
import { guardRedis } from '../shared/guard.js'
import { addHook, createHook } from './hooks.js'
import { createLocalLimiter, createSharedLimiter } from './limiter.js'
import { createMemoryStore } from './memory-store.js'
import { resolvePluginOptions, resolveRouteOptions, type RateLimitPluginOptions, type RouteRateLimitOptions } from './options.js'
import { createRedisStore } from './redis-store.js'

declare module 'fastify' {
  interface FastifyContextConfig {
    /** `false`: this route is not limited. An object: limits of its own, counted apart from other routes. */
    rateLimit?: RouteRateLimitOptions | false
  }
}

export type { RateLimitHook, RateLimitPluginOptions, RouteRateLimitOptions } from './options.js'

/**
 * Sliding-window rate limiting: never more than `max` requests of one key in any `timeWindow`, wherever it starts.
 *
 * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` at registration; a refused request is answered
 * 429 with the code `FST_REDIS_SUITE_RATE_LIMIT_EXCEEDED`
 */
export const rateLimit = fp<RateLimitPluginOptions>(async function rateLimit (fastify, given) {
  const options = resolvePluginOptions(given)
  const client = resolveClient(fastify, 'rate-limit', given.redis)
  const local = createMemoryStore(options.cache)
  const limiter = client === undefined
    ? createLocalLimiter(local)
    : createSharedLimiter(createRedisStore(client, keyPrefixOf(client)), guardRedis(client, fastify.log, options.timeout), local)

  const globalHook = createHook(limiter, options, `global:${fastify.prefix}:`)
  fastify.addHook('onRoute', route => {
    const config: FastifyContextConfig['rateLimit'] = route.config?.rateLimit
    if (config === undefined) {
      if (options.global) addHook(route, options.hook, globalHook)
    } else if (config !== false) {
      if (typeof config !== 'object' || config === null) {
        throw invalidOptionError('rate-limit', `config.rateLimit of ${route.url}`, config, 'false or an object')
      }
      const routeOptions = resolveRouteOptions(given, config)
      addHook(route, routeOptions.hook, createHook(limiter, routeOptions, scopeOf(route)))
    }
  })
}, { name: 'fastify-redis-suite/rate-limit', fastify: '5.x' })

export default rateLimit

/** HEAD is answered by what answers GET, so it has no count of its own. */
function scopeOf ({ method, url }: RouteOptions): string {
  return `route:${String(method === 'HEAD' ? 'GET' : method)}:${url}:`
}
