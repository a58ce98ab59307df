import type { FastifyReply } from 'fastify'
import type { CacheCore } from './core.js'
import type { RequestCache } from './request-state.js'
import { isOfTheClient } from './unkeyed.js'
import { isWithdrawn } from './withdrawal.js'
import { PATIENCE_MS } from './works.js'

/**
 * Lets waiting requests proceed as soon as it is known that the response does not pass the cache: the handler hijacked the reply, wrote to
 * `reply.raw`, called the 404 handler, or gave up when the client did.
 */
export function watchUnanswered (core: CacheCore, reply: FastifyReply, state: RequestCache): void {
  const { fill, place } = state
  if (fill === undefined) return
  const { raw } = reply
  const { hijack } = reply
  reply.hijack = () => {
    fill.finish(undefined)
    return hijack.call(reply)
  }
  // Whatever writes to the raw response first calls this: `write`, `end` and `flushHeaders` do.
  const writeHead = raw.writeHead as (...args: unknown[]) => typeof raw
  raw.writeHead = (...args: unknown[]) => {
    if (!state.isTaken) fill.finish(undefined)
    return writeHead.apply(raw, args)
  }
  raw.once('close', () => {
    if (state.isTaken) return
    // Of a client that has gone the handler may know nothing, and answer all the same.
    const release = (): void => { if (!state.isTaken) fill.finish(undefined) }
    // A response that passes the cache by is not stored.
    if (raw.writableEnded && place !== undefined && isWithdrawn({ ...state, status: raw.statusCode, why: 'not seen', isOfTheClient: isOfTheClient(state) })) core.withdraw(place)
    if (raw.writableEnded) setImmediate(release)
    else core.clock.setTimeout(release, PATIENCE_MS).unref()
  })
}
