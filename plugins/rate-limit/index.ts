import type { FastifyContextConfig, FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { watchRoutes } from '../shared/http/route-watch.js'
import { invalidOptionError, namingRoute } from '../shared/plugin/errors.js'
import { SafeEmitter } from '../shared/plugin/safe-emitter.js'
import { createManualLimiter, type ManualLimiter } from './api/create-rate-limit.js'
import { createRateLimiter, type RateLimiter } from './api/programmatic-api.js'
import { RATE_LIMIT_EVENTS, type RateLimitEvents } from './events.js'
import { checkEarly, createHook, limitRoute, type UniversalHook } from './http/hooks.js'
import { RequestLimiter } from './http/request-limiter.js'
import type { RateLimitState } from './http/request-state.js'
import { registrationName, Scopes } from './http/scopes.js'
import { createLimiterFactory } from './limiter/factory.js'
import { resolvePluginOptions, resolveRouteOptions } from './options/route.js'
import type { RateLimitPluginOptions, RouteRateLimitOptions } from './options/types.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Returns a hook with the plugin's limits and count, or with its own options and count. It can also be awaited in a
     * hook or handler: `await limit(request, reply)` rejects with the refusal.
     */
    rateLimit (options?: RouteRateLimitOptions): UniversalHook
    /** Returns a limiter for handlers, which decides and does not respond. */
    createRateLimit (options?: RouteRateLimitOptions): ManualLimiter
    /** Limits what is not a route. */
    rateLimiter: RateLimiter
  }
  interface FastifyRequest {
    /** The decision on this request; null where it was not limited. */
    rateLimit: RateLimitState | null
  }
  interface FastifyContextConfig {
    /** An object: the route's own limits, counted apart from other routes. `false`: the route is not limited. */
    rateLimit?: RouteRateLimitOptions | false
  }
}

export type { Duration } from '../shared/plugin/duration.js'
export { normalizeIP } from './options/ip-address.js'
export type { CustomStore, CustomStoreCallback, CustomStoreConstructor } from './options/custom-store.js'
export type { Decision } from './decision.js'
export type { RateLimitEvent, RateLimitEvents, RateLimitListener } from './events.js'
export type { ManualLimiter, ManualResult } from './api/create-rate-limit.js'
export type { Hold, HoldOptions } from './api/holds.js'
export type * from './options/types.js'
export type { Limit, Penalty, Policy } from './policy.js'
export type { CountTarget, NamedPolicy, RateLimiter } from './api/programmatic-api.js'
export type { RateLimitState } from './http/request-state.js'

/**
 * Limits requests in a sliding window: never more than `max` of one key in any `timeWindow`, wherever it starts. A
 * refused request is answered with 429, or with 403 where its key is banned.
 *
 * @example
 * await fastify.register(rateLimit, { max: 100, timeWindow: '1 minute' })
 * fastify.post('/login', { config: { rateLimit: { max: 5 } } }, handler)
 *
 * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` at registration
 */
export const rateLimit = fp<RateLimitPluginOptions>(async function rateLimit (fastify, given) {
  const options = resolvePluginOptions(given)
  const events = new SafeEmitter<RateLimitEvents>('rate-limit', fastify.log, RATE_LIMIT_EVENTS)
  const scopes = new Scopes(registrationName(fastify), options)
  const limiters = createLimiterFactory(fastify, given, options, events)
  const limiter = limiters.limiterFor(options)
  const ofPlugin = new RequestLimiter(limiter, options, scopes.global, events)
  const ofHandler = (route: RouteRateLimitOptions | undefined): RequestLimiter => {
    if (route === undefined) return ofPlugin
    const resolved = resolveRouteOptions(given, route)
    return new RequestLimiter(limiters.limiterFor(resolved, route), resolved, scopes.ofHandler(resolved), events)
  }

  decorateHere(fastify, 'rateLimit', (route?: RouteRateLimitOptions) => createHook(ofHandler(route)))
  decorateHere(fastify, 'createRateLimit', (route?: RouteRateLimitOptions) => createManualLimiter(ofHandler(route)))
  const rateLimiter = createRateLimiter(limiter, limiters.policyLimiter ?? limiter, scopes, events, options)
  decorateHere(fastify, 'rateLimiter', rateLimiter)
  if (!fastify.hasRequestDecorator('rateLimit')) fastify.decorateRequest('rateLimit', null)
  fastify.addHook('onReady', async () => scopes.close())
  if (options.early) fastify.addHook('onRequest', checkEarly)

  const watch = watchRoutes(fastify).add('rate-limit', fastify, () => options.global)
  fastify.addHook('onRoute', route => {
    watch(route)
    const config: FastifyContextConfig['rateLimit'] = route.config?.rateLimit
    if (config === false) return
    if (config === undefined || config === null) {
      if (options.global) limitRoute(route, ofPlugin)
      return
    }
    const [routeOptions, scope] = namingRoute(route, () => {
      if (typeof config !== 'object') {
        throw invalidOptionError('rate-limit', 'config.rateLimit', config, 'false or an object')
      }
      const resolved = resolveRouteOptions(given, config)
      return [resolved, scopes.ofRoute(resolved, route)]
    })
    limitRoute(route, new RequestLimiter(limiters.limiterFor(routeOptions, config, route), routeOptions, scope, events))
  })
}, { name: 'fastify-redis-suite/rate-limit', fastify: '5.x || 6.x' })

export default rateLimit

/** A registration in a child context serves the child; of two in one context, the first one stays. */
function decorateHere (fastify: FastifyInstance, name: string, value: unknown): void {
  if (!Object.hasOwn(fastify, name)) fastify.decorate(name, value)
}
