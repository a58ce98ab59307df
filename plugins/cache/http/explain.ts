import type { FastifyRequest } from 'fastify'
import { reasonOf } from '../../shared/plugin/errors.js'
import { recover, type MaybePromise } from '../../shared/plugin/maybe-promise.js'

export type Explain = (request: FastifyRequest) => boolean | Promise<boolean>

/** Calls the option `explain`. A failure is logged, and the client gets no explanation. */
export function mayExplain (explain: Explain, request: FastifyRequest): MaybePromise<boolean> {
  return recover(() => explain(request), error => {
    request.log.error({ plugin: 'cache', reason: reasonOf(error), route: request.routeOptions.url }, 'cache: `explain` failed')
    return false
  })
}
