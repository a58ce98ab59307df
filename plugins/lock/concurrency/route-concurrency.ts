import type { FastifyReply, FastifyRequest, RouteHandlerMethod, RouteOptions } from 'fastify'
import { isNumericId } from '../../shared/data/ids.js'
import { constraintsText } from '../../shared/data/constraints-text.js'
import { isInternalRequest } from '../../shared/http/internal-requests.js'
import { readingAs } from '../../shared/http/read-recorder.js'
import { BusyError, InvalidKeyError, LockedError, StoreUnavailableError } from '../errors.js'
import type { LockHandle } from '../held-lock.js'
import type { Locker } from '../locker.js'
import type { ResolvedConcurrency } from './options.js'

/** Returns what acquires `weight` of the `permits` of any name. */
type LockerOf = (permits: number, weight: number) => Locker

interface RouteConcurrencyOptions {
  shared: LockerOf
  /** In the memory of this process, while Redis is unavailable. */
  local: LockerOf
  /** Among how many instances the places are divided while each of them decides by itself. */
  instances: number
}

const limited = new WeakSet<object>()

/** Lets a number of requests of a route be handled at once. */
export class RouteConcurrency {
  readonly #options: RouteConcurrencyOptions
  /** By name, how many requests of this process wait. */
  readonly #waiting = new Map<string, number>()

  constructor (options: RouteConcurrencyOptions) {
    this.#options = options
  }

  /**
   * Limits the handler, behind all hooks: a response of the cache, or a request that a hook refuses, takes no place.
   */
  limit (route: RouteOptions, options: ResolvedConcurrency): void {
    const { handler, method, url, constraints } = route
    // The HEAD route of a GET route has its handler.
    if (limited.has(handler)) return
    const scope = `${[method].flat().sort().join()} ${url} ${constraintsText(constraints)}`
    const enter = async (request: FastifyRequest, reply: FastifyReply): Promise<(handled: unknown) => void> =>
      await this.#enter(scope, options, request, reply)
    const limitedHandler: RouteHandlerMethod = async function (request, reply) {
      const leave = await enter(request, reply)
      let result: unknown
      try {
        result = handler.call(this, request, reply)
      } finally {
        leave(result)
      }
      // A handler that is no promise sends its reply by itself.
      return result === undefined ? reply : await result
    }
    limited.add(limitedHandler)
    route.handler = limitedHandler
  }

  /**
   * @returns a function that frees the place when the client has its response or has left, and the handler has ended
   */
  async #enter (
    scope: string, options: ResolvedConcurrency, request: FastifyRequest, reply: FastifyReply
  ): Promise<(handled: unknown) => void> {
    // The cache repeats a client's request, to refresh a response in the background.
    if (isInternalRequest(request)) return () => {}
    const key = await keyOf(options, request)
    const left = new AbortController()
    // The client may have left already, or leave while the place is being taken.
    const closed = new Promise<void>(resolve => {
      const leave = (): void => {
        left.abort(new BusyError())
        resolve()
      }
      if (isClosed(reply)) leave()
      else reply.raw.once('close', leave)
    })
    const handle = await this.#acquire(`\0${scope} ${key}`, options, left.signal)
    return handled => {
      // A client that leaves does not end its handler.
      Promise.allSettled([closed, handled]).then(async () => await handle.release()).catch(() => {})
    }
  }

  async #acquire (name: string, options: ResolvedConcurrency, signal: AbortSignal): Promise<LockHandle> {
    const { shared, local, instances } = this.#options
    const { max } = options
    try {
      return await this.#acquireOrWait(name, shared(max, 1), options, signal)
    } catch (error) {
      if (!(error instanceof StoreUnavailableError)) throw error
      const permits = Math.max(1, Math.floor(max / instances))
      return await this.#acquireOrWait(name, local(permits, 1), options, signal)
    }
  }

  /** A request that gets its place at once takes none in the queue. */
  async #acquireOrWait (
    name: string, locker: Locker, options: ResolvedConcurrency, signal: AbortSignal
  ): Promise<LockHandle> {
    const { queue, wait, ttl } = options
    const isRefused = (error: unknown): boolean => error instanceof LockedError && !signal.aborted
    try {
      return await locker.acquire(name, { wait: 0, ttl, signal, extend: true })
    } catch (error) {
      if (!isRefused(error)) throw error
    }
    const waiting = this.#waiting.get(name) ?? 0
    if (waiting >= queue) throw refusal(options)
    this.#waiting.set(name, waiting + 1)
    try {
      return await locker.acquire(name, { wait, ttl, signal, extend: true })
    } catch (error) {
      throw isRefused(error) ? refusal(options) : error
    } finally {
      const left = (this.#waiting.get(name) ?? 1) - 1
      if (left === 0) this.#waiting.delete(name)
      else this.#waiting.set(name, left)
    }
  }
}

/** Whether the response has ended, or its client has left. */
function isClosed ({ raw }: FastifyReply): boolean {
  const { stream } = raw as { stream?: { destroyed?: boolean } }
  return raw.destroyed || raw.closed || raw.socket?.destroyed === true || stream?.destroyed === true
}

async function keyOf ({ key: givenKey }: ResolvedConcurrency, request: FastifyRequest): Promise<string> {
  if (givenKey === undefined) return ''
  // The response does not depend on what a limit reads of the request.
  const key: unknown = await readingAs('suite', request, () => givenKey(request))
  if (typeof key === 'string' || isNumericId(key)) return String(key)
  throw new InvalidKeyError(typeof key)
}

/** 429 where the caller itself has too many requests, 503 where the route has. */
function refusal ({ key, queue, wait }: ResolvedConcurrency): Error {
  const retryAfter = queue === 0 ? 1 : Math.max(1, Math.ceil(wait / 1000))
  const statusCode = key === undefined ? 503 : 429
  return Object.assign(new BusyError(), { statusCode, headers: { 'retry-after': String(retryAfter) } })
}
