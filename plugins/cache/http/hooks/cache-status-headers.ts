import type { FastifyRequest } from 'fastify'
import { reasonOf } from '../../../shared/plugin/errors.js'
import { recover, whenReady, type MaybePromise } from '../../../shared/plugin/maybe-promise.js'
import type { ResolvedCacheOptions } from '../../options.js'
import { createCacheStatus } from '../../rfc/cache-status.js'
import type { RequestCache } from '../request-state.js'

type Explain = (request: FastifyRequest) => boolean | Promise<boolean>

/**
 * Returns a function that adds `X-Cache` and `Cache-Status` (RFC 9211) to a reply. It returns a promise where the
 * option `explain` is async.
 */
export function createCacheStatusHeaders (
  { xCache, cacheStatus, explain }: ResolvedCacheOptions
): (state: RequestCache) => MaybePromise<void> {
  const createMember = cacheStatus === false ? undefined : createCacheStatus(cacheStatus)
  return function addCacheStatus (state) {
    const { request, reply, phase, status, why } = state
    if (xCache) reply.header('x-cache', status.outcome)
    // RFC 9211 §2: a cache that generated the response itself adds no member.
    if (createMember === undefined || phase.kind === 'generated') return undefined
    if (explain === undefined || why === '') return addMember(state, createMember(status, undefined))
    return whenReady(mayExplain(explain, request),
      isExplained => addMember(state, createMember(status, isExplained ? why : undefined)))
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
