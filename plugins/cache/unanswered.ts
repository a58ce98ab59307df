import type { FastifyReply } from 'fastify'
import type { Clock } from '../shared/clock.js'
import type { RequestCache } from './request-state.js'
import { PATIENCE_MS } from './works.js'

/**
 * Lets those go on who wait for an answer that does not come this way: the handler took the reply into its own hands,
 * called the 404 handler, or gave up when the client did.
 */
export function watchUnanswered (reply: FastifyReply, state: RequestCache, clock: Clock): void {
  const { fill } = state
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
    if (raw.writableEnded) setImmediate(release)
    else clock.setTimeout(release, PATIENCE_MS).unref()
  })
}
