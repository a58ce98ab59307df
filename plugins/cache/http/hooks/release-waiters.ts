import { MAX_WAIT_MS } from '../../tiers/coalescing.js'
import { sentStatus, streamOf, withdrawReplaced } from '../invalidation.js'
import type { RequestCache } from '../request-state.js'

/** Each of these methods begins a response of an HTTP/2 stream. The raw response itself calls the first one. */
const RESPOND = ['respond', 'respondWithFD', 'respondWithFile'] as const

/**
 * Lets waiting requests proceed as soon as it is known that the response does not pass the cache: the handler hijacked
 * the reply, wrote to `reply.raw` or to the HTTP/2 stream, called the 404 handler, or gave up because the client
 * disconnected.
 */
export function releaseWaitersOnClose (state: RequestCache): void {
  const { cache: { core }, reply, phase } = state
  if (phase.kind !== 'filling') return
  const { fill } = phase
  // The reply was sent during the lookup, as by `handlerTimeout`: Fastify does not call the handler any more.
  if (reply.sent) return fill.finish(undefined)
  const { raw } = reply
  const stream = streamOf(reply)
  const { hijack } = reply
  reply.hijack = () => {
    fill.finish(undefined)
    return hijack.call(reply)
  }
  const release = (): void => { if (phase.response === 'awaited') fill.finish(undefined) }
  // `write`, `end` and `flushHeaders` of the raw response call this as well.
  callBefore(raw, 'writeHead', release)
  if (stream !== undefined) for (const name of RESPOND) callBefore(stream, name, release)
  raw.once('close', () => {
    if (phase.response !== 'awaited') return
    const isEnded = raw.writableEnded || stream?.writableEnded === true
    if (isEnded) {
      // A response that bypasses the cache is not stored.
      withdrawReplaced(state, phase, sentStatus(reply), 'not seen')
      setImmediate(release)
    } else {
      // The client has disconnected, but the handler may not know that and still answer.
      core.clock.setTimeout(release, MAX_WAIT_MS).unref()
    }
  })
}

function callBefore<Name extends string> (
  object: { [name in Name]: (...args: never[]) => unknown }, name: Name, call: () => void
): void {
  const method = object[name] as (...args: unknown[]) => unknown
  Reflect.set(object, name, function (this: unknown, ...args: unknown[]) {
    call()
    return method.apply(this, args)
  })
}
