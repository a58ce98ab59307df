import type { FastifyReply } from 'fastify'
import type { CacheCore } from './core.js'
import type { RequestCache } from './request-state.js'
import { isWithdrawn } from './withdrawal.js'
import { PATIENCE_MS } from './works.js'

/**
 * Lets those go on who wait for an answer that does not come this way: the handler took the reply into its own hands,
 * called the 404 handler, or gave up when the client did.
 */
export function watchUnanswered (core: CacheCore, reply: FastifyReply, state: RequestCache): void {
  const { fill, place, isBackground, hasOwner } = state
  if (fill === undefined) return
  const { raw } = reply
  const { hijack } = reply
  reply.hijack = () => {
    fill.finish(undefined)
    return hijack.call(reply)
  }
  raw.once('close', () => {
    if (state.isTaken) return
    // Of a client that has gone the handler may know nothing, and answer all the same.
    const release = (): void => { if (!state.isTaken) fill.finish(undefined) }
    // A response that passes the cache by is not stored.
    if (raw.writableEnded && place !== undefined && isWithdrawn({ status: raw.statusCode, why: 'not seen', isBackground, hasOwner })) core.withdraw(place)
    if (raw.writableEnded) setImmediate(release)
    else core.clock.setTimeout(release, PATIENCE_MS).unref()
  })
}
