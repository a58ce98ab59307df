import type { FastifyRequest } from 'fastify'
import type { Decision } from '../decision.js'
import { invalidResult } from '../errors.js'
import { isNumericId } from '../../shared/plugin/ids.js'
import type { Limiter } from '../limiter/limiter.js'
import { whenReady, type MaybePromise } from '../../shared/plugin/maybe-promise.js'
import { isInternalRequest } from '../../shared/http/internal-requests.js'
import { readingAs, recorderOf } from '../../shared/http/read-recorder.js'
import type { Policy } from '../policy.js'
import type { ResolvedRouteOptions } from '../options/route.js'
import type { Mode } from '../store/store.js'

const KEY_ALLOWED = 'a string or a finite number, such as request.user.id, and a whole number above 2^53 as a string or a bigint; for a caller without one return request.ip'

/** What came of a request. */
export type CheckResult =
  /** On the allow list: neither limited nor counted. */
  | { kind: 'exempt', key: string }
  /** On the deny list. */
  | { kind: 'denied', key: string }
  /** The store failed, and requests pass then. */
  | { kind: 'unchecked', key: string }
  | { kind: 'decided', key: string, id: string, policy: Policy, decision: Decision, cost: number }

/** The outcome of a request that the suite sent itself. */
const OWN: CheckResult = { kind: 'exempt', key: '' }

export type CheckRequest = (request: FastifyRequest, mode: Mode) => MaybePromise<CheckResult>

/**
 * Finds out for a request whose limit it is, which, and at what cost, and decides. Without a function of the user's
 * own and without Redis it does so at once.
 *
 * @param idOf - the key as the store is to know it
 */
export function createCheckRequest (limiter: Limiter, options: ResolvedRouteOptions, idOf: (key: string) => string): CheckRequest {
  const { keyOf, policyOf, costOf, isAllowed, isDenied } = options

  function limit (request: FastifyRequest, key: string, mode: Mode): MaybePromise<CheckResult> {
    const id = idOf(key)
    return whenReady(policyOf(request, key), policy =>
      whenReady(costOf(request), cost =>
        whenReady<Decision | undefined, CheckResult>(limiter.apply(id, policy, cost, mode), decision =>
          decision === undefined ? { kind: 'unchecked', key } : { kind: 'decided', key, id, policy, decision, cost })))
  }

  function limitByKey (request: FastifyRequest, mode: Mode): MaybePromise<CheckResult> {
    return whenReady(keyOf(request), given => {
      // Most objects have the same text, as have all callers without an id: they would be one count.
      if (typeof given !== 'string' && !isNumericId(given)) throw invalidResult('keyGenerator', request, given, KEY_ALLOWED)
      // Handed on as the key generator gave it; the store knows it as text.
      const key = given as string
      return whenReady(isAllowed?.(request, key) ?? false, allowed => {
        if (allowed) return { kind: 'exempt', key }
        return whenReady(isDenied?.(request, key) ?? false, denied =>
          denied ? { kind: 'denied', key } : limit(request, key, mode))
      })
    })
  }

  return (request, mode) => {
    // The client whose request it repeats has been limited.
    if (isInternalRequest(request)) return OWN
    // A limit goes by what it reads, and the response does not.
    return recorderOf(request) === undefined ? limitByKey(request, mode) : readingAs('suite', request, () => limitByKey(request, mode))
  }
}
