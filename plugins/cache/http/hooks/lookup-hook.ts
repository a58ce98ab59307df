import type { onRequestHookHandler } from 'fastify'
import { failHook, finishHook } from '../../../shared/http/hook-callback.js'
import { whenReady, type MaybePromise } from '../../../shared/plugin/maybe-promise.js'
import type { RevalidationTask } from '../background-revalidation.js'
import { warnOnce } from '../reads/unkeyed-headers.js'
import { readAs } from '../reads/watch-request.js'
import { releaseWaitersOnClose } from './release-waiters.js'
import { isLookedUp, keyOf, stripQuery, UNWATCHED, whyBypassed } from '../request-key.js'
import { createState, STATE, type HttpCache, type RequestCache } from '../request-state.js'
import type { ResolvedRouteCache } from '../route-options.js'
import { prepareHandler, serve } from '../serve.js'

/**
 * Returns the hook that looks a route's requests up. It runs after all other hooks of its name, which have
 * authenticated the request.
 *
 * @param constraints - the route's constraints as text, a part of each key
 */
export function createLookupHook (
  cache: HttpCache, route: ResolvedRouteCache, constraints: string
): onRequestHookHandler {
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
  const { cache: { revalidation }, request, route } = state
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
  const key = keyOf(state, owner, constraints)
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
