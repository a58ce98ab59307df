import type { FastifyReply } from 'fastify'
import { MAX_WAIT_MS } from '../tiers/coalescing.js'
import type { TwoTierCache } from '../tiers/two-tier-cache.js'
import { sentStatus, streamOf } from './invalidation.js'
import { isOfTheClient } from './reads/unkeyed-headers.js'
import type { RequestCache } from './request-state.js'
import { isWithdrawn } from './invalidation.js'

// Each begins a response of an HTTP/2 stream; the raw response itself calls the first one.
const RESPOND = ['respond', 'respondWithFD', 'respondWithFile'] as const

/**
 * Lets waiting requests proceed as soon as it is known that the response does not pass the cache: the handler hijacked the reply, wrote to
 * `reply.raw` or to the HTTP/2 stream, called the 404 handler, or gave up when the client did.
 */
export function releaseWaitersOnClose (core: TwoTierCache, reply: FastifyReply, state: RequestCache): void {
  const { fill, place } = state
  if (fill === undefined) return
  const { raw } = reply
  const stream = streamOf(reply)
  const { hijack } = reply
  reply.hijack = () => {
    fill.finish(undefined)
    return hijack.call(reply)
  }
  const begin = (): void => { if (!state.isTaken) fill.finish(undefined) }
  // Whatever writes to the raw response first calls this: `write`, `end` and `flushHeaders` do.
  before(raw, 'writeHead', begin)
  if (stream !== undefined) for (const name of RESPOND) before(stream, name, begin)
  raw.once('close', () => {
    if (state.isTaken) return
    // Of a client that has gone the handler may know nothing, and answer all the same.
    const release = (): void => { if (!state.isTaken) fill.finish(undefined) }
    const isEnded = raw.writableEnded || stream?.writableEnded === true
    // A response that passes the cache by is not stored.
    if (isEnded && place !== undefined && isWithdrawn({ ...state, status: sentStatus(reply), why: 'not seen', isOfTheClient: isOfTheClient(state) })) core.withdraw(place)
    if (isEnded) setImmediate(release)
    else core.clock.setTimeout(release, MAX_WAIT_MS).unref()
  })
}

function before<Name extends string> (object: { [name in Name]: (...args: never[]) => unknown }, name: Name, call: () => void): void {
  const method = object[name] as (...args: unknown[]) => unknown
  Reflect.set(object, name, function (this: unknown, ...args: unknown[]) {
    call()
    return method.apply(this, args)
  })
}
