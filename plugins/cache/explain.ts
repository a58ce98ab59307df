import type { FastifyRequest } from 'fastify'
import { reasonOf } from '../shared/errors.js'
import { isPromise, type MaybePromise } from '../shared/maybe-promise.js'

export type Explain = (request: FastifyRequest) => boolean | Promise<boolean>

/** The option `explain`. Where it throws or rejects, that is logged, and the client is told nothing. */
export function mayExplain (explain: Explain, request: FastifyRequest): MaybePromise<boolean> {
  const fail = (error: unknown): boolean => {
    request.log.error({ plugin: 'cache', reason: reasonOf(error), route: request.routeOptions.url }, 'cache: `explain` failed')
    return false
  }
  try {
    const told = explain(request)
    return isPromise(told) ? Promise.resolve(told).catch(fail) : told
  } catch (error) {
    return fail(error)
  }
}
