import type {
  FastifyContextConfig, FastifyInstance, FastifyReply, FastifyRequest, onErrorHookHandler, onRequestHookHandler,
  onSendHookHandler, preHandlerHookHandler, RouteOptions
} from 'fastify'
import { failHook, finishHook, holdPayload } from '../../shared/http/hook-callback.js'
import { PinnedHooks } from '../../shared/http/pinned-hooks.js'
import { unwrapResponse } from '../../shared/http/response-payload.js'
import { watchRoutes } from '../../shared/http/route-watch.js'
import { canonicalText } from '../../shared/data/canonical.js'
import { invalidArgumentError, invalidOptionError, namingRoute, reasonOf } from '../../shared/plugin/errors.js'
import { recover, whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import type { ResolvedCacheOptions } from '../options.js'
import { createCacheStatus } from '../rfc/cache-status.js'
import { addVary } from '../rfc/vary.js'
import { StatsCounter } from '../stats.js'
import { checkTags } from '../store/tags.js'
import type { FillCoordinator } from '../tiers/coalescing.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { BackgroundRevalidation, type RevalidationTask } from './background-revalidation.js'
import { leavesEncodingToHooks } from './body/content-codings.js'
import { handleResponse } from './handle-response.js'
import { Invalidations, isUnsafe } from './invalidation.js'
import { createForcePrivate, forcePrivateIfPersonal } from './reads/force-private.js'
import { withConstraints } from './reads/ignored-names.js'
import { warnOnce } from './reads/unkeyed-headers.js'
import { watchDecorators } from './reads/watch-decorators.js'
import { readAs, watchRoute } from './reads/watch-request.js'
import { releaseWaitersOnClose } from './release-waiters.js'
import { isLookedUp, keyOf, stripQuery, UNWATCHED, whyBypassed } from './request-key.js'
import { createState, type HttpCache, type RequestCache } from './request-state.js'
import { onlyInvalidates, type ResolvedRouteCache } from './route-options.js'
import { restoreStoredBody, withoutLength } from './send-stored.js'
import { HitForPass, prepareHandler, serve } from './serve.js'

const STATE = Symbol('cache.state')

declare module 'fastify' {
  interface FastifyRequest {
    [STATE]: RequestCache | null
  }
}

type Explain = (request: FastifyRequest) => boolean | Promise<boolean>

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
  const cache: HttpCache = { core, fills, hitForPass: new HitForPass(core.clock), revalidation }
  const createMember = options.cacheStatus === false ? undefined : createCacheStatus(options.cacheStatus)
  const invalidations = new Invalidations(core)
  const pinnedHooks = new PinnedHooks(fastify, 'cache')
  const warnOfIneffectiveConfig = watchCachedRoutes(fastify, options.global)
  /** Instances with routes whose requests are watched, and whether their queries are watched too. */
  const watched = new Map<FastifyInstance, boolean>()

  // By now all plugins have decorated requests.
  fastify.addHook('onReady', done => {
    for (const [instance, watchesQuery] of watched) watchDecorators(instance, watchesQuery)
    done()
  })
  fastify.decorateRequest(STATE, null)
  fastify.decorateReply('cacheTags', function (...tags) {
    this.request[STATE]?.extraTags.push(...checkTags(tags, 'tags', invalidArgumentError))
    return this
  })
  fastify.decorateReply('noCache', function () {
    const state = this.request[STATE]
    if (state === null) return this
    state.isRefused = true
    // Waiting requests need not wait until the response is sent.
    if (state.phase.kind === 'filling') state.phase.fill.finish(undefined)
    return this
  })

  /** Looks a request up. It runs after all other hooks of its name, which have authenticated the request. */
  function lookupHook (route: ResolvedRouteCache, constraints: string): onRequestHookHandler {
    return function cacheLookup (request, reply, done) {
      let answered: MaybePromise<boolean>
      let state: RequestCache
      try {
        // Reads by the cache itself are not recorded as the app's.
        const reads = readAs('suite', request)
        state = createState(cache, request, reply, route, reads)
        request[STATE] = state
        answered = route.private === undefined || !isLookedUp(request.method)
          ? lookUp(state, undefined, constraints)
          : lookUpForOwner(state, route.private, constraints)
      } catch (error) {
        return done(error as Error)
      }
      // An answered request goes no further: `done` is not called.
      if (answered === true) return
      if (answered === false) continueToHandler(state, done)
      else {
        answered.then(isAnswered => { if (!isAnswered) continueToHandler(state, done) },
          error => failHook('cache', reply, done, error))
      }
    }
  }

  function lookUpForOwner (
    state: RequestCache, ownerOf: NonNullable<ResolvedRouteCache['private']>, constraints: string
  ): MaybePromise<boolean> {
    const { request } = state
    readAs('owner', request)
    return whenReady(ownerOf(request), owner => {
      readAs('suite', request)
      return lookUp(state, owner, constraints)
    })
  }

  /** Returns whether the request was answered: from the cache, or with an error. */
  function lookUp (state: RequestCache, owner: string | undefined, constraints: string): MaybePromise<boolean> {
    const { request, route } = state
    state.hasOwner = owner !== undefined
    const task = revalidation.tasks.size === 0 ? undefined : revalidation.takeTask(request)
    if (task !== undefined) task.state = state
    const bypass = whyBypassed(state)
    if (bypass !== undefined) {
      state.why = bypass
      if (bypass === UNWATCHED) warnOnce(state, UNWATCHED)
      if (bypass === 'method') state.status.fwd = 'method'
      return false
    }
    if (route.key.query !== undefined) stripQuery(request, route.key.query)
    const key = keyOf(request, route, owner, constraints)
    state.key = key
    return task === undefined ? serve(state, key) : revalidate(state, task)
  }

  /** Prepares a request that this process sent itself for the handler. */
  async function revalidate (state: RequestCache, { key, found, fill }: RevalidationTask): Promise<boolean> {
    // The handler's reads are recorded from the next microtask on, as with a client's request. After a hook that waits
    // for the end of the body, Node.js itself accesses the request's socket first.
    await undefined
    // The request lacks some of the client's headers, so its owner or host may differ: its response then belongs to
    // another key.
    if (key.text === state.key?.text) prepareHandler(state, found, fill, true)
    else state.why = 'another key'
    return false
  }

  function continueToHandler (state: RequestCache, done: () => void): void {
    releaseWaitersOnClose(state)
    finishHook('cache', state.reply, done)
  }

  /** Records whether the handler encoded the response, before other `onSend` hooks may encode it for its client. */
  const recordEncoding: onSendHookHandler = function cacheRecordEncoding (request, reply, sent, done) {
    const phase = request[STATE]?.phase
    if (phase?.kind !== 'filling') return done()
    const payload = unwrapResponse(reply, sent)
    phase.leavesEncodingToHooks = leavesEncodingToHooks(reply)
    done(null, payload)
  }

  /** Runs after all other `onSend` hooks, so that the stored response is the one that is sent. */
  function sendHook (route: ResolvedRouteCache, mayInvalidate: boolean): onSendHookHandler {
    const forcePrivate = route.private && createForcePrivate(route.targeted)

    function prepare (request: FastifyRequest, reply: FastifyReply, payload: unknown): MaybePromise<unknown> {
      const state = request[STATE]
      if (state === null) return addHeaders(request, reply, state, payload)
      const { phase } = state
      if (phase.kind === 'filling' && phase.response === 'awaited') phase.response = 'received'
      let body: unknown = payload
      if (phase.kind === 'served') {
        body = restoreStoredBody(state, phase, payload)
      } else if (phase.kind !== 'generated') {
        // This precedes storing, so that a hit has the field too.
        forcePrivate?.(request, reply)
        body = handleResponse(state, payload)
      }
      return body instanceof Promise
        ? body.then(body => addHeaders(request, reply, state, body))
        : addHeaders(request, reply, state, body)
    }

    function addHeaders (
      request: FastifyRequest, reply: FastifyReply, state: RequestCache | null, payload: unknown
    ): MaybePromise<unknown> {
      const added = state !== null && route.stores ? addCacheStatus(state) : undefined
      // The code that produces a stream may read the request until the stream ends.
      if (state?.phase.kind === 'filling' && state.phase.response === 'streamed') readAs('handler', request)
      if (state !== null && state.phase.kind !== 'served' && state.phase.kind !== 'generated' && !state.status.stored) {
        forcePrivateIfPersonal(state)
      }
      // A response without an owner, or one sent before the lookup, is marked as well: a CDN would serve it to clients
      // that have an owner.
      forcePrivate?.(request, reply)
      // `Vary` is added after storing: headers that are a part of the key need no variants of the stored response.
      if (route.varyField !== undefined && route.stores) addVary(reply, route.varyField)
      const body = reply.statusCode === 304 ? withoutLength(reply, payload) : payload
      return added instanceof Promise ? added.then(() => body) : body
    }

    return function cacheOnSend (request, reply, sent, done) {
      const state = request[STATE]
      const payload = typeof sent === 'string' || Buffer.isBuffer(sent) ? sent : unwrapResponse(reply, sent)
      if (state?.reads !== undefined) readAs('suite', request)
      let invalidated: Promise<void> | undefined
      if (mayInvalidate && invalidations.mayInvalidate(request, route)) {
        if (state?.phase.kind === 'served' || state?.phase.kind === 'generated') invalidations.skip(request)
        else invalidated = invalidations.invalidate(request, reply, route)
      }
      const prepared = invalidated === undefined
        ? prepare(request, reply, payload)
        : invalidated.then(() => prepare(request, reply, payload))
      if (!(prepared instanceof Promise)) return done(null, prepared)
      holdPayload(payload)
      prepared.then(body => finishHook('cache', reply, done, null, body),
        error => failHook('cache', reply, done, error, payload))
    }
  }

  /** Adds `X-Cache` and `Cache-Status` (RFC 9211). Returns a promise where the option `explain` is async. */
  function addCacheStatus (state: RequestCache): MaybePromise<void> {
    const { request, reply, phase, status, why } = state
    if (options.xCache) reply.header('x-cache', status.outcome)
    // RFC 9211 §2: a cache that generated the response itself adds no member.
    if (createMember === undefined || phase.kind === 'generated') return undefined
    if (options.explain === undefined || why === '') return addMember(state, createMember(status, undefined))
    return whenReady(mayExplain(options.explain, request),
      isExplained => addMember(state, createMember(status, isExplained ? why : undefined)))
  }

  function watchCloseHook (route: ResolvedRouteCache): preHandlerHookHandler {
    return function cacheWatchClose (request, reply, done) {
      if (invalidations.mayInvalidate(request, route)) invalidations.watchClose(request, reply, route)
      done()
    }
  }

  function recordHandlerHook (route: ResolvedRouteCache): preHandlerHookHandler {
    return function cacheRecordHandler (request, _reply, done) {
      if (invalidations.mayInvalidate(request, route)) invalidations.recordHandler(request)
      done()
    }
  }

  const recordFailure: onErrorHookHandler = (request, _reply, _error, done) => {
    if (request[STATE]) request[STATE].hasFailed = true
    done()
  }

  return {
    addRoute (instance, route) {
      warnOfIneffectiveConfig(route)
      const config: FastifyContextConfig['cache'] = route.config?.cache ?? (options.global ? true : undefined)
      if (config === false) return
      const methods = [route.method].flat()
      const routeOptions = namingRoute(route, () => options.route(config ?? {}, `${methods.join()} ${route.url}`))
      const isCached = config !== undefined && routeOptions.stores
      // Stats and metrics report a limited number of routes: one that is not cached must not take a place among them.
      const resolved: ResolvedRouteCache = {
        ...routeOptions,
        counts: isCached ? core.counters.of(route.url) : new StatsCounter()
      }
      const mayInvalidate = resolved.invalidates !== undefined || methods.some(isUnsafe)
      if (mayInvalidate) {
        pinnedHooks.pin(instance, route, 'preHandler', watchCloseHook(resolved), 'first')
        pinnedHooks.pin(instance, route, 'preHandler', recordHandlerHook(resolved), 'last')
      }
      if (isCached) {
        const constraints = constraintsOf(route)
        if (methods.includes('GET')) invalidations.add(route.url, resolved)
        pinnedHooks.pin(instance, route, resolved.hook, lookupHook(resolved, constraints), 'last')
        pinnedHooks.pin(instance, route, 'onError', recordFailure, 'last')
        pinnedHooks.pin(instance, route, 'onSend', recordEncoding, 'first')
        if (resolved.unkeyed !== false && methods.some(isLookedUp)) {
          const harmless = withConstraints(resolved.harmless, route.constraints)
          watchRoute(route, { harmless, keysParameter: resolved.key.query })
          watched.set(instance, watched.get(instance) === true || resolved.key.query !== undefined)
        }
      } else if (!mayInvalidate) {
        return
      }
      pinnedHooks.pin(instance, route, 'onSend', sendHook(resolved, mayInvalidate), 'last')
    },
    settle: () => revalidation.settle()
  }
}

/** Adds the cache's member to `Cache-Status`, after those of caches that are closer to the origin. */
function addMember ({ phase, reply }: RequestCache, member: string): void {
  const upstream = phase.kind === 'served' ? undefined : reply.getHeader('cache-status')
  reply.header('cache-status', upstream === undefined ? member : `${String(upstream)}, ${member}`)
}

/** Calls the option `explain`. An error of it is logged, and the client gets no explanation. */
function mayExplain (explain: Explain, request: FastifyRequest): MaybePromise<boolean> {
  return recover(() => explain(request), error => {
    request.log.error({ plugin: 'cache', reason: reasonOf(error), route: request.routeOptions.url },
      'cache: `explain` failed')
    return false
  })
}

/** Returns a route's constraints as text, which distinguishes the responses of routes with the same path. */
function constraintsOf ({ constraints, method, url }: RouteOptions): string {
  if (constraints === undefined) return ''
  try {
    return canonicalText(constraints)
  } catch {
    const expected = 'strings, regular expressions and other plain data, where the route is cached'
    throw invalidOptionError('cache', `constraints of ${[method].flat().join()} ${url}`, constraints, expected)
  }
}

const UNSTORED = 'config.cache of these routes has no effect except "invalidates", as only responses to GET and HEAD ' +
  'are stored: remove its other options'

/**
 * Returns a function to call with each route. Once the app is ready, the log warns of routes whose `config.cache` has
 * no effect.
 */
function watchCachedRoutes (fastify: FastifyInstance, isGlobal: boolean): (route: RouteOptions) => void {
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
