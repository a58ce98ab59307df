import type { FastifyContextConfig, FastifyInstance, RouteOptions } from 'fastify'
import fp from 'fastify-plugin'
import { invalidOptionError, namingRoute } from '../shared/plugin/errors.js'
import { SafeEmitter } from '../shared/plugin/safe-emitter.js'
import { watchRoutes } from '../shared/http/route-watch.js'
import { createLimiterFactory } from './limiter/factory.js'
import { RATE_LIMIT_EVENTS, type RateLimitEvents } from './events.js'
import { addHook, askEarly, createHook, createHookPair, markEarly, type HookPair, type UniversalHook } from './http/hooks.js'
import { createManualLimiter, type ManualLimiter } from './api/create-rate-limit.js'
import type { RateLimitPluginOptions, RouteRateLimitOptions } from './options/types.js'
import { createRateLimiter, type RateLimiter } from './api/programmatic-api.js'
import type { RateLimitState } from './http/request-state.js'
import { resolvePluginOptions, resolveRouteOptions, type ResolvedRouteOptions } from './options/route.js'
import { registrationName, Scopes } from './limiter/scope.js'

declare module 'fastify' {
  interface FastifyInstance {
    /**
     * Makes a limiter with the plugin's limits and count, or with options and a count of its own. Use it as a hook, or await it in one:
     * `await limit(request, reply)` rejects with the refusal.
     */
    rateLimit (options?: RouteRateLimitOptions): UniversalHook
    /** A limiter for a handler to ask. */
    createRateLimit (options?: RouteRateLimitOptions): ManualLimiter
    /** Limits what is not a route. */
    rateLimiter: RateLimiter
  }
  interface FastifyRequest {
    /** What was decided on this request; null where it was not limited. */
    rateLimit: RateLimitState | null
  }
  interface FastifyContextConfig {
    /** `false`: this route is not limited. An object: limits of its own, counted apart from other routes. */
    rateLimit?: RouteRateLimitOptions | false
  }
}

export { normalizeIP } from './options/ip-address.js'
export type { CustomStore, CustomStoreConstructor } from './options/custom-store.js'
export type { Decision } from './decision.js'
export type { RateLimitEvent, RateLimitEvents, RateLimitListener } from './events.js'
export type { ManualLimiter, ManualResult } from './api/create-rate-limit.js'
export type * from './options/types.js'
export type { Limit, Policy } from './policy.js'
export type { CountTarget, NamedPolicy, RateLimiter } from './api/programmatic-api.js'
export type { RateLimitState } from './http/request-state.js'

/**
 * Sliding-window rate limiting: never more than `max` of one key in any `timeWindow`, wherever it starts.
 *
 * @throws `FST_REDIS_SUITE_RATE_LIMIT_INVALID_OPTION` at registration; a refused request is answered 429
 * or, where its key is banned, 403
 */
export const rateLimit = fp<RateLimitPluginOptions>(async function rateLimit (fastify, given) {
  const options = resolvePluginOptions(given)
  const events = new SafeEmitter<RateLimitEvents>('rate-limit', fastify.log, RATE_LIMIT_EVENTS)
  const limiters = createLimiterFactory(fastify, given, options, events)
  const scopes = new Scopes(registrationName(fastify))
  const limiter = limiters.limiterFor(options)
  const globalSteps = createHookPair(limiter, options, scopes.global, events)

  /** The limiter that a handler's or hook's own options ask for. */
  const own = (route: RouteRateLimitOptions) => {
    const routeOptions = resolveRouteOptions(given, route)
    return [limiters.limiterFor(routeOptions, route), routeOptions, scopes.ofHandler(routeOptions)] as const
  }
  decorateHere(fastify, 'rateLimit', (route?: RouteRateLimitOptions) => route === undefined ? globalSteps.hook : createHook(...own(route), events))
  decorateHere(fastify, 'createRateLimit', (route?: RouteRateLimitOptions) =>
    createManualLimiter(...(route === undefined ? [limiter, options, scopes.global] as const : own(route))))
  decorateHere(fastify, 'rateLimiter', createRateLimiter({ limiter, policyLimiter: limiters.policies ?? limiter, scopes, events, maxLogUnits: options.maxLogUnits }))
  if (!fastify.hasRequestDecorator('rateLimit')) fastify.decorateRequest('rateLimit', null)
  fastify.addHook('onReady', async () => scopes.close())

  // Registered before the session, it asks before the session is read.
  if (options.early) fastify.addHook('onRequest', askEarly)

  function limit (route: RouteOptions, { hook, begin }: HookPair, { hook: name, early }: ResolvedRouteOptions): void {
    addHook(route, name, hook)
    if (early) markEarly(route, begin)
  }

  const saw = watchRoutes(fastify).add('rate-limit', fastify, () => options.global)
  fastify.addHook('onRoute', route => {
    saw(route)
    const config: FastifyContextConfig['rateLimit'] = route.config?.rateLimit
    if (config === undefined || config === null) {
      if (options.global) limit(route, globalSteps, options)
    } else if (config !== false) {
      const [routeOptions, scope] = namingRoute(route, () => {
        if (typeof config !== 'object') throw invalidOptionError('rate-limit', 'config.rateLimit', config, 'false or an object')
        const resolved = resolveRouteOptions(given, config)
        return [resolved, scopes.ofRoute(resolved, route)]
      })
      limit(route, createHookPair(limiters.limiterFor(routeOptions, config, route), routeOptions, scope, events), routeOptions)
    }
  })
}, { name: 'fastify-redis-suite/rate-limit', fastify: '5.x' })

export default rateLimit

/** Registered again in a child, the plugin serves the child; twice in one context, the first one stays. */
function decorateHere (fastify: FastifyInstance, name: string, value: unknown): void {
  if (!Object.hasOwn(fastify, name)) fastify.decorate(name, value)
}
