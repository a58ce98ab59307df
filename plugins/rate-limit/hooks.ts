import { format } from '@lukeed/ms'
import type { onRequestAsyncHookHandler, RouteOptions } from 'fastify'
import { RateLimitExceededError } from './errors.js'
import { setHeaders } from './headers.js'
import type { Limiter } from './limiter.js'
import type { ResolvedRouteOptions } from './options.js'

/** @param scope - what the limit is counted for beside the key: all routes that share it share the count */
export function createHook (limiter: Limiter, { limits, keyGenerator }: ResolvedRouteOptions, scope: string): onRequestAsyncHookHandler {
  return async function rateLimit (request, reply) {
    const key = await keyGenerator(request)
    const decision = await limiter.consume(`${scope}${key}`, limits, 1)
    setHeaders(reply, decision)
    if (!decision.allowed) throw new RateLimitExceededError(format(Math.ceil(decision.retryAfter / 1000) * 1000, true))
  }
}

/** Appends to the hooks that the route has already, so that those keep their place. */
export function addHook (route: RouteOptions, name: ResolvedRouteOptions['hook'], hook: onRequestAsyncHookHandler): void {
  const present = route[name]
  Object.assign(route, { [name]: present === undefined ? [hook] : [present, hook].flat() })
}
