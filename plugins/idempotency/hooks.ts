import { randomUUID } from 'node:crypto'
import type { FastifyInstance, FastifyReply, FastifyRequest, onErrorHookHandler, onSendHookHandler, preHandlerHookHandler, RouteOptions } from 'fastify'
import { Poller } from '../shared/plugin/clock.js'
import { reasonOf } from '../shared/plugin/errors.js'
import { failHook, finishHook, holdPayload } from '../shared/http/hook-callback.js'
import { PinnedHooks } from '../shared/http/pinned-hooks.js'
import { areSendable } from '../shared/http/sendable.js'
import { recordedResponse, giveAgain, isFinal, replay } from './stored-response.js'
import { ResponseNotStoredError, inProgress, keyReused, StoreUnavailableError } from './errors.js'
import { differencesOf, fingerprintOf } from './fingerprint.js'
import { idOf, keyOf, textOf } from './key.js'
import type { ResolvedRoute } from './options.js'
import { Execution, type ExecutionContext } from './execution.js'
import type { Claim, Claimant, RecordedResponse } from './store.js'

const RUN = Symbol('idempotency.run')
const REPLAYED = Symbol('idempotency.replayed')
const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

declare module 'fastify' {
  interface FastifyRequest {
    [RUN]: Execution | null
    [REPLAYED]: RecordedResponse | null
  }
}

export function isSafe (method: string): boolean {
  return SAFE.has(method.toUpperCase())
}

/** @returns what puts itself into a route's way */
export function createHooks (fastify: FastifyInstance, context: ExecutionContext): (instance: FastifyInstance, route: RouteOptions, options: ResolvedRoute) => void {
  const { store, run, log, clock, owed } = context
  const pinnedHooks = new PinnedHooks(fastify, 'idempotency')
  let isFailing = false
  fastify.decorateRequest(RUN, null)
  fastify.decorateRequest(REPLAYED, null)

  /** Of all that ask for the same, the one whose turn it is; the others wait for what comes of it. */
  async function claim (claimant: Claimant, reply: FastifyReply, { wait, lease }: ResolvedRoute): Promise<Claim> {
    const known = owed.find(claimant.id)
    if (known !== undefined) return known.claimant.fingerprint === claimant.fingerprint ? known.answer : { fingerprint: known.claimant.fingerprint }
    const poller = new Poller(clock, wait)
    const ask = async () => await run(() => store.claim(claimant, lease))
    let claimed = await ask()
    // A client that has left while it waited does not have the request run.
    while (claimed === 'theirs' && !reply.raw.destroyed && await poller.wait()) {
      // The request is known to be in progress: a store that does not answer is asked again.
      claimed = await ask().catch(() => 'theirs')
    }
    return claimed
  }

  /** @returns undefined where the store cannot be asked */
  async function tryToClaim (claimant: Claimant, reply: FastifyReply, route: ResolvedRoute): Promise<Claim | undefined> {
    try {
      const claimed = await claim(claimant, reply, route)
      if (isFailing) log.info({ plugin: 'idempotency' }, 'idempotency: the store answers again')
      isFailing = false
      return claimed
    } catch (error) {
      if (!isFailing) log.warn({ plugin: 'idempotency', reason: reasonOf(error), onStoreError: route.runsUnguarded ? 'open' : 'closed' }, 'idempotency: the store cannot be asked')
      isFailing = true
      // It may have been claimed all the same, where the answer was lost.
      if (!route.runsUnguarded) run(() => store.release(claimant)).catch(() => {})
      return undefined
    }
  }

  function begin (claimant: Claimant, request: FastifyRequest, reply: FastifyReply, { lease, ttl }: ResolvedRoute, isClaimed: boolean): void {
    // Of a hijacked reply nothing is heard here but its end.
    const isOver = () => reply.sent && reply.raw.destroyed
    const begun = new Execution(context, { claimant, lease, ttl, isClaimed, isOver, headersBefore: reply.getHeaders() })
    request[RUN] = begun
    reply.raw.once('close', () => { if (reply.sent) begun.release().catch(() => {}) })
  }

  /** @returns whether the request has been answered */
  async function beforeHandler (route: ResolvedRoute, request: FastifyRequest, reply: FastifyReply): Promise<boolean> {
    const key = isSafe(request.method) ? undefined : keyOf(request, route)
    if (key === undefined) return false
    request.idempotencyKey = key
    const id = idOf(key, await textOf(route, 'scope', request))
    const claimant = { id, fingerprint: fingerprintOf(request, await textOf(route, 'fingerprint', request)), token: randomUUID() }
    const claimed = await tryToClaim(claimant, reply, route)
    if (claimed === undefined && !route.runsUnguarded) throw new StoreUnavailableError()
    if (claimed === undefined || claimed === 'mine') {
      begin(claimant, request, reply, route, claimed === 'mine')
      return false
    }
    if (claimed === 'theirs') throw inProgress()
    if ('fingerprint' in claimed) throw keyReused(differencesOf(claimed.fingerprint, claimant.fingerprint))
    if (claimed.body === 'too-large') throw new ResponseNotStoredError()
    request[REPLAYED] = claimed
    replay(reply, claimed)
    return true
  }

  async function beforeSend (route: ResolvedRoute, warnOnce: () => void, request: FastifyRequest, reply: FastifyReply, payload: unknown): Promise<unknown> {
    if (request[REPLAYED] !== null) return giveAgain(reply, request[REPLAYED], route)
    const begun = request[RUN]
    if (begun === null) return payload
    const answer = recordedResponse(reply, payload, route, begun.headersBefore)
    if (answer === undefined) warnOnce()
    if (answer === undefined || begun.hasFailed || !isFinal(reply.statusCode) || !areSendable(reply.getHeaders())) await begun.release()
    else await begun.complete(answer)
    return payload
  }

  function preHandler (route: ResolvedRoute): preHandlerHookHandler {
    return function idempotencyPreHandler (request, reply, done) {
      beforeHandler(route, request, reply).then(
        isAnswered => { if (!isAnswered) finishHook('idempotency', reply, done) },
        error => failHook('idempotency', reply, done, error))
    }
  }

  function onSend (route: ResolvedRoute, warnOnce: () => void): onSendHookHandler {
    return function idempotencyOnSend (request, reply, payload, done) {
      holdPayload(payload)
      beforeSend(route, warnOnce, request, reply, payload).then(
        result => finishHook('idempotency', reply, done, null, result),
        error => failHook('idempotency', reply, done, error, payload))
    }
  }

  const onError: onErrorHookHandler = (request, reply, error, done) => {
    request[REPLAYED] = null
    if (!reply.raw.headersSent) request[RUN]?.fail(error.code === 'FST_ERR_HANDLER_TIMEOUT')
    done()
  }

  return function addHooks (instance, route, options) {
    const { handler } = route
    let isWarned = false
    const warnOnce = (): void => {
      if (!isWarned) log.warn({ plugin: 'idempotency', route: route.url }, 'idempotency: an answer that is a stream or a Response is not kept, the same request runs again: send text, bytes or an object')
      isWarned = true
    }
    // After all others', so that whoever may not ask is turned away before.
    pinnedHooks.pin(instance, route, 'preHandler', preHandler(options), 'last')
    // Before all others' of routes, so that what they make of it, such as its compression, is made for each client.
    pinnedHooks.pin(instance, route, 'onSend', onSend(options, warnOnce), 'first')
    pinnedHooks.pin(instance, route, 'onError', onError, 'last')
    route.handler = function (request, reply) {
      const result: unknown = handler.call(this, request, reply)
      if (result instanceof Promise) request[RUN]?.during(result)
      return result
    }
  }
}
