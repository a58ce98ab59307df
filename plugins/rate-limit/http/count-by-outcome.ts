import type { FastifyReply, FastifyRequest } from 'fastify'
import { reasonOf } from '../../shared/plugin/errors.js'
import { recover, whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { COST_ALLOWED, invalidResult, isCost } from '../errors.js'
import type { CountByOutcome } from '../options/types.js'
import { settleAll, type Charge } from './request-state.js'

/**
 * Corrects what a request took when its response has been sent, or its client has left. The cost is taken before the
 * handler runs, so that parallel requests cannot exceed the limit.
 *
 * @param charges - of all limiters of the request: one that has been refunded or settled is left alone
 */
export function settleByOutcome (
  count: CountByOutcome, request: FastifyRequest, reply: FastifyReply, charges: Charge[], charge: Charge
): void {
  const settle = (actual: number): MaybePromise<unknown> => {
    const at = charges.indexOf(charge)
    return at === -1 ? undefined : settleAll(charges.splice(at, 1), actual)
  }
  reply.raw.once('close', () => {
    // An error here has no request to reject any more.
    const done = recover<unknown>(() => whenReady(costOf(count, request, reply, charge), settle), error => {
      request.log.error({ plugin: 'rate-limit', reason: reasonOf(error) }, 'rate-limit: `count` failed')
    })
    if (done instanceof Promise) done.catch(() => {})
  })
}

function costOf (
  count: CountByOutcome, request: FastifyRequest, reply: FastifyReply, { cost }: Charge
): MaybePromise<number> {
  // A client could leave early so that its request does not count: the handler goes on.
  if (!reply.raw.writableEnded) return cost
  if (typeof count === 'function') {
    return whenReady(count(request, reply), actual => {
      if (!isCost(actual)) throw invalidResult('count', request, actual, COST_ALLOWED)
      return actual
    })
  }
  return (reply.raw.statusCode < 400) === (count === 'successes') ? cost : 0
}
