import type { FastifyInstance, FastifyReply, FastifyRequest, onErrorHookHandler, onRequestHookHandler, onSendHookHandler, preHandlerHookHandler, RouteOptions, FastifyContextConfig } from 'fastify'
import { failHook, finishHook, holdPayload } from '../../shared/http/hook-callback.js'
import { PinnedHooks } from '../../shared/http/pinned-hooks.js'
import { unwrapResponse } from '../../shared/http/response-payload.js'
import { watchRoutes } from '../../shared/http/route-watch.js'
import { canonicalText } from '../../shared/data/canonical.js'
import { invalidArgumentError, invalidOptionError, namingRoute, reasonOf } from '../../shared/plugin/errors.js'
import { isPromise, whenReady, type MaybePromise, recover } from '../../shared/plugin/maybe-promise.js'
import type { ResolvedCacheOptions } from '../options.js'
import { createCacheStatus } from '../rfc/cache-status.js'
import { addVary } from '../rfc/vary.js'
import { StatsCounter } from '../stats.js'
import type { CacheKey } from '../store/cache-key.js'
import { checkTags } from '../store/tags.js'
import type { FillCoordinator } from '../tiers/coalescing.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { createRefresher, type RefreshTask } from './background-revalidation.js'
import { leavesEncoding } from './body/content-codings.js'
import { createResponseHandler } from './handle-response.js'
import { Invalidations, isUnsafe } from './invalidation.js'
import { createForcePrivate, forcePrivateIfPersonal } from './reads/force-private.js'
import { withConstraints } from './reads/ignored-names.js'
import { UNWATCHED, warnOnce, whyUnwatched } from './reads/unkeyed-headers.js'
import { watchDecorators } from './reads/watch-decorators.js'
import { readAs, readsOf, watchRoute } from './reads/watch-request.js'
import { releaseWaitersOnClose } from './release-waiters.js'
import { isLookedUp, keyOf, stripQuery, whyBypassed } from './request-key.js'
import { createState, type RequestCache } from './request-state.js'
import { type RouteCacheOptions, type ResolvedRouteCache, onlyInvalidates } from './route-options.js'
import { withoutLength } from './send-stored.js'
import { HitForPass, prepareHandler, createServe } from './serve.js'

const STATE = Symbol('cache.state')

declare module 'fastify' {
  interface FastifyRequest {
    [STATE]: RequestCache | null
  }
}

export interface ResponseCache {
  /**
   * @param instance - the route's
   * @param config - undefined where it says nothing: what it changes is invalidated all the same
   */
  addRoute (instance: FastifyInstance, route: RouteOptions, config: RouteCacheOptions | boolean | undefined): void
  /** Waits for what is under way. */
  settle (): Promise<void>
}

/** Puts the cache into the way of requests. */
export function addResponseCache (fastify: FastifyInstance, core: TwoTierCache, works: FillCoordinator, options: ResolvedCacheOptions): ResponseCache {
  const refresher = createRefresher(fastify, core, works)
  const passes = new HitForPass(core.clock)
  const { serve } = createServe({ core, works, refresher, passes })
  const { take, asStored } = createResponseHandler(core, passes)
  const describe = options.cacheStatus === false ? undefined : createCacheStatus(options.cacheStatus)
  const invalidations = new Invalidations(core)
  const pinnedHooks = new PinnedHooks(fastify, 'cache')
  // Instances with routes whose requests are watched, and whether a query is to be.
  const watched = new Map<FastifyInstance, boolean>()

  // When all have decorated requests.
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
    if (state !== null) state.isRefused = true
    // What waits for the response need not wait until it is sent.
    state?.fill?.finish(undefined)
    return this
  })

  function lookUp (route: ResolvedRouteCache, constraints: string): onRequestHookHandler {
    return function cacheLookUp (request, reply, done) {
      let answered: boolean | Promise<boolean>
      try {
        answered = begin(request, reply, route, constraints)
      } catch (error) {
        return done(error as Error)
      }
      // Where the request has been answered, nothing comes after this.
      if (typeof answered !== 'boolean') answered.then(isAnswered => { if (!isAnswered) proceed(request, reply, done) }, error => failHook('cache', reply, done, error))
      else if (!answered) proceed(request, reply, done)
    }
  }

  function proceed (request: FastifyRequest, reply: FastifyReply, done: () => void): void {
    if (request[STATE]) releaseWaitersOnClose(core, reply, request[STATE])
    finishHook('cache', reply, done)
  }

  function begin (request: FastifyRequest, reply: FastifyReply, route: ResolvedRouteCache, constraints: string): boolean | Promise<boolean> {
    // What the cache reads itself does not count; what `private` reads is held by the owner.
    readAs('suite', request)
    const state = createState(request, route)
    request[STATE] = state
    state.reads = readsOf(request)
    if (state.reads?.had('authorization')) state.hasAuthorization = true
    if (route.private === undefined || !isLookedUp(request.method)) return beginFor(undefined, request, reply, state, constraints)
    readAs('owner', request)
    return whenReady(route.private(request), owner => {
      readAs('suite', request)
      return beginFor(owner, request, reply, state, constraints)
    })
  }

  function beginFor (owner: string | undefined, request: FastifyRequest, reply: FastifyReply, state: RequestCache, constraints: string): boolean | Promise<boolean> {
    const { route } = state
    state.hasOwner = owner !== undefined
    const task = refresher.take(request)
    if (task !== undefined) task.state = state
    const bypass = whyBypassed(request, state) ?? whyUnwatched(state)
    if (bypass !== undefined) {
      state.why = bypass
      if (bypass === UNWATCHED) warnOnce(request, state, UNWATCHED)
      if (bypass === 'method') state.status.fwd = 'method'
      return false
    }
    if (route.key.query !== undefined) stripQuery(request, route.key.query)
    state.key = keyOf(request, route, owner, constraints)
    return task === undefined ? serve(request, reply, state) : refresh(task, request, reply, state, state.key)
  }

  /** Not at once, as it is with a client's request: Node.js reads the socket after a hook that waits for the end of the body. */
  async function refresh ({ key, located, fill }: RefreshTask, request: FastifyRequest, reply: FastifyReply, state: RequestCache, own: CacheKey): Promise<boolean> {
    await undefined
    // Who it is, or which host, may hang on what the request in the background has not: then it is not what was to be made.
    if (key.text !== own.text) {
      state.why = 'another key'
      return false
    }
    state.fill = fill
    state.isBackground = true
    prepareHandler(core, request, reply, state, located)
    return false
  }

  function tell (request: FastifyRequest, reply: FastifyReply, state: RequestCache): MaybePromise<void> {
    if (options.xCache) reply.header('x-cache', state.status.outcome)
    // A cache that made the answer itself is not in the field (RFC 9211 §2).
    if (describe === undefined || state.isGenerated) return
    if (options.explain === undefined || state.why === '') return addStatus(reply, state, describe(state.status))
    return whenReady(mayExplain(options.explain, request), isExplained => addStatus(reply, state, describe(state.status, isExplained ? state.why : undefined)))
  }

  function addStatus (reply: FastifyReply, state: RequestCache, value: string): void {
    const upstream = state.isAnswered ? undefined : reply.getHeader('cache-status')
    reply.header('cache-status', upstream === undefined ? value : `${String(upstream)}, ${value}`)
  }

  function onSend (route: ResolvedRouteCache): onSendHookHandler {
    const keepPrivate = route.private && createForcePrivate(route.targeted)
    const finish = (request: FastifyRequest, reply: FastifyReply, state: RequestCache | null, result: unknown): unknown => {
      const told = state !== null && route.stores ? tell(request, reply, state) : undefined
      if (state?.isStreamed) readAs('handler', request)
      if (state !== null && !state.isAnswered && !state.status.stored) forcePrivateIfPersonal(reply, state)
      // Also a response without an owner, or from before the lookup: a CDN would send it to those who have an owner.
      keepPrivate?.(request, reply)
      // After it was stored: what is in the key does not tell variants of it apart.
      if (route.varyField !== undefined && route.stores) addVary(reply, route.varyField)
      const body = reply.statusCode === 304 ? withoutLength(reply, result) : result
      return isPromise(told) ? told.then(() => body) : body
    }
    const prepare = (request: FastifyRequest, reply: FastifyReply, state: RequestCache | null, payload: unknown): unknown => {
      if (state === null) return finish(request, reply, state, payload)
      state.isTaken = true
      // Before it is stored, so that a hit has it too.
      if (!state.isAnswered) keepPrivate?.(request, reply)
      const taken = state.isAnswered ? asStored(request, reply, state, payload) : take(request, reply, state, payload)
      return isPromise(taken) ? taken.then(result => finish(request, reply, state, result)) : finish(request, reply, state, taken)
    }
    return function cacheOnSend (request, reply, sent, done) {
      const state = request[STATE]
      const payload = unwrapResponse(reply, sent)
      if (state !== null) readAs('suite', request)
      const mayInvalidate = invalidations.concern(request, route)
      if (mayInvalidate && state?.isAnswered) invalidations.skip(request)
      const invalidated = mayInvalidate && !state?.isAnswered ? invalidations.start(request, reply, route) : undefined
      const prepared = invalidated === undefined ? prepare(request, reply, state, payload) : invalidated.then(() => prepare(request, reply, state, payload))
      if (isPromise(prepared)) {
        holdPayload(payload)
        prepared.then(result => finishHook('cache', reply, done, null, result), error => failHook('cache', reply, done, error, payload))
      } else done(null, prepared)
    }
  }

  /** What follows may encode the response for its client. */
  const beforeHooks: onSendHookHandler = function cacheBeforeHooks (request, reply, sent, done) {
    const state = request[STATE]
    if (state?.fill === undefined) return done()
    const payload = unwrapResponse(reply, sent)
    state.leavesEncoding = leavesEncoding(reply)
    done(null, payload)
  }

  function watchUnsent (route: ResolvedRouteCache): preHandlerHookHandler {
    return function cacheWatchUnsent (request, reply, done) {
      if (invalidations.concern(request, route)) invalidations.watch(request, reply, route)
      done()
    }
  }

  function watchBegun (route: ResolvedRouteCache): preHandlerHookHandler {
    return function cacheWatchBegun (request, _reply, done) {
      if (invalidations.concern(request, route)) invalidations.begin(request)
      done()
    }
  }

  const onError: onErrorHookHandler = (request, _reply, _error, done) => {
    if (request[STATE]) request[STATE].hasFailed = true
    done()
  }

  return {
    addRoute (instance, route, config) {
      if (config === false) return
      const methods = [route.method].flat()
      const named = namingRoute(route, () => options.route(config ?? {}, `${methods.join()} ${route.url}`))
      const isCached = config !== undefined && named.stores
      // A route that is not cached takes no name of the limited number that stats and metrics report.
      const resolved: ResolvedRouteCache = { ...named, counts: isCached ? core.counters.of(route.url) : new StatsCounter() }
      const mayInvalidate = resolved.invalidates !== undefined || methods.some(isUnsafe)
      if (mayInvalidate) {
        pinnedHooks.pin(instance, route, 'preHandler', watchUnsent(resolved), 'first')
        pinnedHooks.pin(instance, route, 'preHandler', watchBegun(resolved), 'last')
      }
      if (isCached) {
        const constraints = constraintsOf(route)
        if (methods.includes('GET')) invalidations.add(route.url, resolved)
        // After all others', so that whoever may not see an answer is turned away before.
        pinnedHooks.pin(instance, route, resolved.hook, lookUp(resolved, constraints), 'last')
        pinnedHooks.pin(instance, route, 'onError', onError, 'last')
        pinnedHooks.pin(instance, route, 'onSend', beforeHooks, 'first')
        if (resolved.unkeyed !== false && methods.some(isLookedUp)) {
          watchRoute(route, { harmless: withConstraints(resolved.harmless, route.constraints), keysParameter: resolved.key.query })
          watched.set(instance, watched.get(instance) === true || resolved.key.query !== undefined)
        }
      } else if (!mayInvalidate) {
        return
      }
      // After all others', so that what is stored is what is sent.
      pinnedHooks.pin(instance, route, 'onSend', onSend(resolved), 'last')
    },
    settle: () => refresher.settle()
  }
}

/** Routes of one path have responses of their own: a RegExp among the constraints tells two of them apart as well. */
function constraintsOf ({ constraints, method, url }: RouteOptions): string {
  if (constraints === undefined) return ''
  try {
    return canonicalText(constraints)
  } catch {
    throw invalidOptionError('cache', `constraints of ${[method].flat().join()} ${url}`, constraints, 'strings, regular expressions and other plain data, where the route is cached')
  }
}

export type Explain = (request: FastifyRequest) => boolean | Promise<boolean>

/** Calls the option `explain`. A failure is logged, and the client gets no explanation. */
export function mayExplain (explain: Explain, request: FastifyRequest): MaybePromise<boolean> {
  return recover(() => explain(request), error => {
    request.log.error({ plugin: 'cache', reason: reasonOf(error), route: request.routeOptions.url }, 'cache: `explain` failed')
    return false
  })
}

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
