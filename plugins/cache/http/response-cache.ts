import type {
  FastifyContextConfig, FastifyInstance, FastifyRequest, onErrorHookHandler, preHandlerHookHandler, RouteOptions
} from 'fastify'
import { PinnedHooks } from '../../shared/http/pinned-hooks.js'
import { canonicalText } from '../../shared/data/canonical.js'
import { Recent } from '../../shared/data/recent.js'
import { invalidArgumentError, invalidOptionError, namingRoute } from '../../shared/plugin/errors.js'
import type { ResolvedCacheOptions } from '../options.js'
import { StatsCounter } from '../stats.js'
import type { CacheKey } from '../store/cache-key.js'
import { checkTags } from '../store/tags.js'
import type { FillCoordinator } from '../tiers/coalescing.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { BackgroundRevalidation } from './background-revalidation.js'
import { HitForPass } from './hit-for-pass.js'
import { createCacheStatusHeaders } from './hooks/cache-status-headers.js'
import { warnOfIneffectiveConfig } from './hooks/ineffective-config.js'
import { createLookupHook } from './hooks/lookup-hook.js'
import { createSendHook, recordEncoding } from './hooks/send-hook.js'
import { Invalidations, isUnsafe } from './invalidation.js'
import { withConstraints } from './reads/ignored-names.js'
import { watchDecorators } from './reads/watch-decorators.js'
import { watchRoute } from './reads/watch-request.js'
import { isLookedUp } from './request-key.js'
import { EARLY, STATE, type EarlyCalls, type HttpCache } from './request-state.js'
import type { ResolvedRouteCache } from './route-options.js'

const MAX_KNOWN_KEYS = 1000

interface ResponseCache {
  /** @param instance - the route's instance */
  addRoute (instance: FastifyInstance, route: RouteOptions): void
  /** Waits for revalidations in the background. */
  settle (): Promise<void>
}

/** Adds the hooks that serve and store the responses of routes. */
export function addResponseCache (
  fastify: FastifyInstance, core: TwoTierCache, fills: FillCoordinator, options: ResolvedCacheOptions
): ResponseCache {
  const revalidation = new BackgroundRevalidation(fastify, core, fills)
  const keys = new Recent<CacheKey>(MAX_KNOWN_KEYS)
  const cache: HttpCache = { core, fills, hitForPass: new HitForPass(core.clock), revalidation, keys }
  const addCacheStatus = createCacheStatusHeaders(options)
  const invalidations = new Invalidations(core)
  const pinnedHooks = new PinnedHooks(fastify, 'cache')
  const warnOfConfig = warnOfIneffectiveConfig(fastify, options.global)
  /** Instances with routes whose requests are watched, and whether their queries are watched too. */
  const watched = new Map<FastifyInstance, boolean>()

  // By now all plugins have decorated requests.
  fastify.addHook('onReady', done => {
    for (const [instance, watchesQuery] of watched) watchDecorators(instance, watchesQuery)
    done()
  })
  decorate(fastify)

  /** Resolves the route's `config.cache`; undefined where the cache does nothing for the route. */
  function resolveRoute (route: RouteOptions): { resolved: ResolvedRouteCache, isCached: boolean } | undefined {
    const config: FastifyContextConfig['cache'] = route.config?.cache ?? (options.global ? true : undefined)
    if (config === false) return undefined
    const routeOptions = namingRoute(route, () => options.route(config ?? {}, nameOf(route)))
    const isCached = config !== undefined && routeOptions.stores
    // Stats and metrics report a limited number of routes: one that is not cached must not take a place among them.
    return {
      isCached, resolved: { ...routeOptions, counts: isCached ? core.counters.of(route.url) : new StatsCounter() }
    }
  }

  function addInvalidation (instance: FastifyInstance, route: RouteOptions, resolved: ResolvedRouteCache): void {
    pinnedHooks.pin(instance, route, 'preHandler', createWatchCloseHook(invalidations, resolved), 'first')
    pinnedHooks.pin(instance, route, 'preHandler', createRecordHandlerHook(invalidations, resolved), 'last')
  }

  function addLookup (instance: FastifyInstance, route: RouteOptions, resolved: ResolvedRouteCache): void {
    const methods = [route.method].flat()
    if (methods.includes('GET')) invalidations.add(route.url, resolved)
    pinnedHooks.pin(instance, route, resolved.hook, createLookupHook(cache, resolved, constraintsOf(route)), 'last')
    pinnedHooks.pin(instance, route, 'onError', recordFailure, 'last')
    pinnedHooks.pin(instance, route, 'onSend', recordEncoding, 'first')
    if (resolved.unkeyed === false || !methods.some(isLookedUp)) return
    const harmless = withConstraints(resolved.harmless, route.constraints)
    watchRoute(route, { harmless, keysParameter: resolved.key.query })
    watched.set(instance, watched.get(instance) === true || resolved.key.query !== undefined)
  }

  return {
    addRoute (instance, route) {
      warnOfConfig(route)
      const found = resolveRoute(route)
      if (found === undefined) return
      const { resolved, isCached } = found
      const mayInvalidate = resolved.invalidates !== undefined || [route.method].flat().some(isUnsafe)
      if (mayInvalidate) addInvalidation(instance, route, resolved)
      if (isCached) addLookup(instance, route, resolved)
      if (!isCached && !mayInvalidate) return
      const sendHook = createSendHook({
        route: resolved, invalidations: mayInvalidate ? invalidations : undefined, addCacheStatus
      })
      pinnedHooks.pin(instance, route, 'onSend', sendHook, 'last')
    },
    settle: () => revalidation.settle()
  }
}

/** Adds the request's state, and what a handler calls to change how its response is stored. */
function decorate (fastify: FastifyInstance): void {
  fastify.decorateRequest(STATE, null)
  fastify.decorateRequest(EARLY, null)
  fastify.decorateReply('cacheTags', function (...tags) {
    const { request } = this
    const target = request[STATE]?.extraTags ?? earlyCallsOf(request).tags
    target.push(...checkTags(tags, 'tags', invalidArgumentError))
    return this
  })
  fastify.decorateReply('noCache', function () {
    const state = this.request[STATE]
    if (state === null) {
      earlyCallsOf(this.request).isRefused = true
      return this
    }
    state.isRefused = true
    // Waiting requests need not wait until the response is sent.
    if (state.phase.kind === 'filling') state.phase.fill.finish(undefined)
    return this
  })
}

function earlyCallsOf (request: FastifyRequest): EarlyCalls {
  request[EARLY] ??= { tags: [], isRefused: false }
  return request[EARLY]
}

function createWatchCloseHook (invalidations: Invalidations, route: ResolvedRouteCache): preHandlerHookHandler {
  return function cacheWatchClose (request, reply, done) {
    if (invalidations.mayInvalidate(request, route)) invalidations.watchClose(request, reply, route)
    done()
  }
}

function createRecordHandlerHook (invalidations: Invalidations, route: ResolvedRouteCache): preHandlerHookHandler {
  return function cacheRecordHandler (request, _reply, done) {
    if (invalidations.mayInvalidate(request, route)) invalidations.recordHandler(request)
    done()
  }
}

const recordFailure: onErrorHookHandler = (request, _reply, _error, done) => {
  if (request[STATE]) request[STATE].hasFailed = true
  done()
}

/** Returns a route's constraints as text, which distinguishes the responses of routes with the same path. */
function constraintsOf (route: RouteOptions): string {
  const { constraints } = route
  if (constraints === undefined) return ''
  try {
    return canonicalText(constraints)
  } catch {
    const expected = 'strings, regular expressions and other plain data, where the route is cached'
    throw invalidOptionError('cache', `constraints of ${nameOf(route)}`, constraints, expected)
  }
}

function nameOf ({ method, url }: RouteOptions): string {
  return `${[method].flat().join()} ${url}`
}
