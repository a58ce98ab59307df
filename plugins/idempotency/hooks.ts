import { randomUUID } from 'node:crypto'
import type {
  FastifyInstance, FastifyReply, FastifyRequest, onErrorHookHandler, onSendHookHandler, preHandlerHookHandler,
  RouteOptions
} from 'fastify'
import { failHook, finishHook, holdPayload } from '../shared/http/hook-callback.js'
import { PinnedHooks } from '../shared/http/pinned-hooks.js'
import { areSendable } from '../shared/http/sendable.js'
import { Poller } from '../shared/plugin/clock.js'
import { reasonOf, withoutCommand } from '../shared/plugin/errors.js'
import { inProgressError, keyReusedError, ResponseNotStoredError, StoreUnavailableError } from './errors.js'
import { Execution, type ExecutionContext } from './execution.js'
import { differencesOf, fingerprintOf } from './fingerprint.js'
import { idOf, keyOf, textOf } from './key.js'
import type { ResolvedRouteIdempotency } from './options.js'
import { IN_PROGRESS, type KeyedRequest, type KeyState, type RecordedResponse } from './store.js'
import { isFinal, recordResponse, restoreStored, sendStored } from './stored-response.js'

const EXECUTION = Symbol('idempotency.execution')
const REPLAYED = Symbol('idempotency.replayed')
const SAFE = new Set(['GET', 'HEAD', 'OPTIONS', 'TRACE'])

declare module 'fastify' {
  interface FastifyRequest {
    [EXECUTION]: Execution | null
    [REPLAYED]: RecordedResponse | null
  }
}

export function isSafe (method: string): boolean {
  return SAFE.has(method.toUpperCase())
}

type AddHooks = (instance: FastifyInstance, route: RouteOptions, options: ResolvedRouteIdempotency) => void

/** @returns a function that adds the plugin's hooks to a route */
export function createHooks (fastify: FastifyInstance, context: ExecutionContext): AddHooks {
  const { store, run, log, clock, pendingWrites } = context
  const pinnedHooks = new PinnedHooks(fastify, 'idempotency')
  let isFailing = false
  fastify.decorateRequest(EXECUTION, null)
  fastify.decorateRequest(REPLAYED, null)

  /** Acquires the key, or waits for the response of the request that has it. */
  async function acquire (
    keyed: KeyedRequest, reply: FastifyReply, { wait, lease }: ResolvedRouteIdempotency
  ): Promise<KeyState> {
    const pending = pendingWrites.find(keyed.id)
    if (pending !== undefined) {
      const { request: { fingerprint }, response } = pending
      return fingerprint === keyed.fingerprint ? { kind: 'stored', response } : { kind: 'mismatch', fingerprint }
    }
    const poller = new Poller(clock, wait)
    const attempt = async () => await run(() => store.acquire(keyed, lease))
    let state = await attempt()
    // The request does not run for a client that has disconnected meanwhile.
    while (state.kind === 'inProgress' && !reply.raw.destroyed && await poller.wait()) {
      // The request is known to be in progress, so a store that does not answer is asked again.
      state = await attempt().catch(() => IN_PROGRESS)
    }
    return state
  }

  /**
   * @returns undefined if the store is unavailable and the request runs without protection
   * @throws `FST_REDIS_SUITE_IDEMPOTENCY_STORE_UNAVAILABLE`
   */
  async function tryAcquire (
    keyed: KeyedRequest, reply: FastifyReply, route: ResolvedRouteIdempotency
  ): Promise<KeyState | undefined> {
    try {
      const state = await acquire(keyed, reply, route)
      if (isFailing) log.info({ plugin: 'idempotency' }, 'idempotency: the store is available again')
      isFailing = false
      return state
    } catch (error) {
      if (!isFailing) {
        log.warn(
          { plugin: 'idempotency', reason: reasonOf(error), onStoreError: route.onStoreError },
          'idempotency: the store is unavailable'
        )
      }
      isFailing = true
      // The key may have been acquired although the reply was lost.
      if (route.onStoreError === 'open') return undefined
      run(() => store.release(keyed)).catch(() => {})
      throw new StoreUnavailableError({ cause: withoutCommand(error) })
    }
  }

  function startExecution (
    keyed: KeyedRequest, request: FastifyRequest, reply: FastifyReply, { lease, ttl }: ResolvedRouteIdempotency,
    hasKey: boolean
  ): void {
    // A hijacked reply calls no hooks: only the end of its connection is seen.
    const isOver = () => reply.sent && reply.raw.destroyed
    const execution = new Execution(
      context, { request: keyed, lease, ttl, hasKey, isOver, headersBefore: reply.getHeaders() }
    )
    request[EXECUTION] = execution
    reply.raw.once('close', () => { if (reply.sent) execution.release().catch(() => {}) })
  }

  /** @returns whether a stored response was sent */
  async function beforeHandler (
    route: ResolvedRouteIdempotency, request: FastifyRequest, reply: FastifyReply
  ): Promise<boolean> {
    const key = isSafe(request.method) ? undefined : keyOf(request, route)
    if (key === undefined) return false
    request.idempotencyKey = key
    const id = idOf(key, await textOf(route, 'scope', request))
    const keyed = {
      id, fingerprint: fingerprintOf(request, await textOf(route, 'fingerprint', request)), token: randomUUID()
    }
    const state = await tryAcquire(keyed, reply, route)
    if (state === undefined || state.kind === 'acquired') {
      startExecution(keyed, request, reply, route, state !== undefined)
      return false
    }
    if (state.kind === 'inProgress') throw inProgressError()
    if (state.kind === 'mismatch') throw keyReusedError(differencesOf(state.fingerprint, keyed.fingerprint))
    if (state.response.body === 'too-large') throw new ResponseNotStoredError()
    request[REPLAYED] = state.response
    sendStored(reply, state.response)
    return true
  }

  async function beforeSend (
    route: ResolvedRouteIdempotency, warnOnce: () => void, request: FastifyRequest, reply: FastifyReply,
    payload: unknown
  ): Promise<unknown> {
    if (request[REPLAYED] !== null) return restoreStored(reply, request[REPLAYED], route)
    const execution = request[EXECUTION]
    if (execution === null) return payload
    const response = recordResponse(reply, payload, route, execution.headersBefore)
    if (response === undefined) warnOnce()
    const isStorable = !execution.hasFailed && isFinal(reply.statusCode) && areSendable(reply.getHeaders())
    if (response === undefined || !isStorable) await execution.release()
    else await execution.complete(response)
    return payload
  }

  function preHandler (route: ResolvedRouteIdempotency): preHandlerHookHandler {
    return function idempotencyPreHandler (request, reply, done) {
      beforeHandler(route, request, reply).then(
        isSent => { if (!isSent) finishHook('idempotency', reply, done) },
        error => failHook('idempotency', reply, done, error))
    }
  }

  function onSend (route: ResolvedRouteIdempotency, warnOnce: () => void): onSendHookHandler {
    return function idempotencyOnSend (request, reply, payload, done) {
      holdPayload(payload)
      beforeSend(route, warnOnce, request, reply, payload).then(
        result => finishHook('idempotency', reply, done, null, result),
        error => failHook('idempotency', reply, done, error, payload))
    }
  }

  const onError: onErrorHookHandler = (request, reply, error, done) => {
    request[REPLAYED] = null
    if (!reply.raw.headersSent) request[EXECUTION]?.fail(error.code === 'FST_ERR_HANDLER_TIMEOUT')
    done()
  }

  return function addHooks (instance, route, options) {
    const { handler } = route
    let isWarned = false
    const warnOnce = (): void => {
      if (!isWarned) {
        log.warn(
          { plugin: 'idempotency', route: route.url },
          'idempotency: a stream or a Response is not stored, so the same request runs again: send text, bytes or ' +
          'an object'
        )
      }
      isWarned = true
    }
    // Last, so that authentication hooks refuse a request first.
    pinnedHooks.pin(instance, route, 'preHandler', preHandler(options), 'last')
    // Before the other hooks of routes, so that their changes, such as compression, are made for each client.
    pinnedHooks.pin(instance, route, 'onSend', onSend(options, warnOnce), 'first')
    pinnedHooks.pin(instance, route, 'onError', onError, 'last')
    route.handler = function (request, reply) {
      const result: unknown = handler.call(this, request, reply)
      if (result instanceof Promise) request[EXECUTION]?.during(result)
      return result
    }
  }
}
